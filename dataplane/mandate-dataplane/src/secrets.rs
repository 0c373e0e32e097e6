//! New randomness for the packet functions' secrets, about once a minute, by their command queues: they have none of their own.
//!
//! A SYN cookie is made with the newest secret and known by that and the one before, so it is good for [`EVERY`] at
//! least: many times as long as a handshake takes. Tests: below, `tests/guards.rs` of the engine.

use std::{thread, time::Duration};

use crate::{command::Workers, error::StartError};

/// How long a secret is the newest.
const EVERY: Duration = Duration::from_secs(60);

/// Starts to, until the packet threads are gone or the process ends.
pub fn renew(workers: Workers) -> Result<(), StartError> {
    let every = move || renew_every(EVERY, &workers);
    thread::Builder::new().name("secrets".into()).spawn(every).map_err(StartError::System)?;
    Ok(())
}

fn renew_every(period: Duration, workers: &Workers) {
    loop {
        thread::sleep(period);
        match getrandom::u64() {
            Ok(seed) if workers.reseed(seed) => {}
            Ok(_) => return,
            Err(error) => tracing::warn!("SYN cookies keep their secret for another period: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Instant};

    use super::*;
    use crate::command::{self, Command};

    #[test]
    fn all_packet_threads_get_the_same_and_each_time_another() {
        let (first, inbox) = command::channel().unwrap();
        let (second, other) = command::channel().unwrap();
        let workers = Workers::new(vec![first, second]).unwrap();
        let thread = thread::spawn(move || renew_every(Duration::from_millis(5), &workers));
        let seeds = |inbox: &command::Inbox| {
            let (until, mut seeds) = (Instant::now() + Duration::from_secs(10), vec![]);
            while seeds.len() < 3 && Instant::now() < until {
                match inbox.next() {
                    Some(Command::Reseed { seed }) => seeds.push(seed),
                    Some(_) => panic!("another command"),
                    None => thread::sleep(Duration::from_millis(1)),
                }
            }
            seeds
        };
        let ours = seeds(&inbox);
        assert_eq!(ours.iter().collect::<BTreeSet<_>>().len(), 3, "{ours:?}");
        assert_eq!(seeds(&other), ours);
        // Without anybody it ends.
        drop(inbox);
        thread.join().unwrap();
    }
}
