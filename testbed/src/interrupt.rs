//! Ctrl-C and SIGTERM: a flag, so that every wait can end early and every exit path cleans up.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// How often a wait looks.
const TICK: Duration = Duration::from_millis(20);

/// From here on the signals set the flag; a second one ends the process at once.
pub fn install() -> anyhow::Result<()> {
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    Ok(())
}

/// Was one received?
pub fn requested() -> bool {
    FLAG.get().is_some_and(|f| f.load(Ordering::Relaxed))
}

/// Fails once one was received.
pub fn check() -> anyhow::Result<()> {
    if requested() { bail!("interrupted") } else { Ok(()) }
}

/// Asks `ready` until it answers, the time is up, or we are interrupted.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        check()?;
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_value_the_error_or_the_time() {
        let mut n = 0;
        let third = wait_for("three", Duration::from_secs(5), || {
            n += 1;
            Ok((n == 3).then_some(n))
        });
        assert_eq!(third.unwrap(), 3);
        assert!(wait_for::<()>("x", Duration::from_secs(5), || bail!("broken")).is_err());
        let late = wait_for::<()>("the moon", Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(late.to_string().contains("the moon"));
    }
}
