//! `mandate top`: what goes on, in a terminal of at least 80 by 24.
//!
//! It only looks: every figure is one that the API gives. It asks again when an event says that something happened, and
//! every other second for what has no events (room at the sites, age of the evidence that waits). Drawing is `view`'s,
//! from a [`Picture`] alone; its tests are there.

mod view;

use std::{
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::sync::mpsc;

use super::{
    context::Context,
    failure::{Exit, Failure, chain},
};
use crate::{
    client::{Client, ClientError},
    views::{DriftView, NsView, OperationView, ReadyView, SiteView},
};

pub use view::draw;

/// How often everything is asked for again.
const REFRESH: Duration = Duration::from_secs(2);
/// How long a burst of events is gathered into one picture.
const GATHER: Duration = Duration::from_millis(150);
/// How often the keyboard is looked at.
const KEYS: Duration = Duration::from_millis(100);
/// Operations shown at most; more do not fit any screen.
const MAX_OPERATIONS: usize = 200;
/// Keys that wait to be looked at.
const QUEUE: usize = 16;
/// Over how long the ledger's rate is taken.
const RATE_WINDOW: Duration = Duration::from_secs(30);

/// Everything that is drawn.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// How the parts do.
    pub ready: Option<ReadyView>,
    /// Services, those that need attention first.
    pub services: Vec<NsView>,
    /// Operations that are not anchored, oldest first.
    pub operations: Vec<OperationView>,
    /// The last operations that ended badly.
    pub failed: Vec<OperationView>,
    /// What is not as it should be.
    pub drift: DriftView,
    /// Sites.
    pub sites: Vec<SiteView>,
    /// Ledger entries per minute, of late.
    pub entries_per_minute: Option<u64>,
    /// Why nothing new is shown.
    pub lost: Option<String>,
    /// Wall clock, s.
    pub now_s: u64,
    /// Is the help open?
    pub help: bool,
    /// Are terminated services shown too?
    pub all: bool,
    /// Is the picture held still?
    pub paused: bool,
    /// Services scrolled past.
    pub scroll: usize,
    /// Where it looks.
    pub server: String,
}

/// Runs until `q`.
pub async fn run(context: &Context) -> Result<Exit, Failure> {
    if context.ui.json || !std::io::stdout().is_terminal() {
        return Err(Failure::usage("NO_TERMINAL", "No terminal", "`mandate top` draws on one")
            .hint("for programs there are `mandate status --json` and `mandate ns list --json`"));
    }
    let client = context.client()?;
    // Asked before the screen is taken: what is wrong is then said as every command says it.
    let ready = client.ready().await.map_err(|e| context.client_failure(e))?;
    let picture = Picture { ready: Some(ready), server: client.server().to_string(), ..Picture::default() };
    let mut terminal =
        ratatui::try_init().map_err(|e| Failure::internal("TERMINAL", format!("the terminal: {e}")))?;
    let ended = Top { client, picture, rate: Rate::default() }.run(&mut terminal).await;
    ratatui::restore();
    ended.map(|()| Exit::Ok).map_err(|e| Failure::internal("TERMINAL", format!("the terminal: {e}")))
}

struct Top {
    client: Client,
    picture: Picture,
    rate: Rate,
}

impl Top {
    async fn run(mut self, terminal: &mut DefaultTerminal) -> std::io::Result<()> {
        let (keys, stop) = keyboard();
        let (wake, woken) = mpsc::channel(1);
        let watcher = tokio::spawn(watch(self.client.clone(), wake));
        let ended = self.frames(terminal, keys, woken).await;
        watcher.abort();
        stop.store(true, Ordering::Relaxed);
        ended
    }

    async fn frames(
        &mut self,
        terminal: &mut DefaultTerminal,
        mut keys: mpsc::Receiver<Event>,
        mut woken: mpsc::Receiver<()>,
    ) -> std::io::Result<()> {
        let mut ask = true;
        loop {
            if ask && !self.picture.paused {
                self.refresh().await;
            }
            terminal.draw(|frame| draw(frame, &self.picture))?;
            ask = tokio::select! {
                key = keys.recv() => {
                    let Some(key) = key else { return Ok(()) };
                    if self.quits(&key) {
                        return Ok(());
                    }
                    false
                }
                Some(()) = woken.recv() => { tokio::time::sleep(GATHER).await; true }
                () = tokio::time::sleep(REFRESH) => true,
            };
        }
    }

    /// What a key does; true: the end.
    fn quits(&mut self, event: &Event) -> bool {
        let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
            return false;
        };
        let p = &mut self.picture;
        match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('q') => return true,
            KeyCode::Esc if p.help => p.help = false,
            KeyCode::Esc => return true,
            KeyCode::Char('?' | 'h') => p.help = !p.help,
            KeyCode::Char('a') => p.all = !p.all,
            KeyCode::Char('p' | ' ') => p.paused = !p.paused,
            KeyCode::Down | KeyCode::Char('j') => p.scroll = p.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => p.scroll = p.scroll.saturating_sub(1),
            KeyCode::Home | KeyCode::Char('g') => p.scroll = 0,
            _ => {}
        }
        p.scroll = p.scroll.min(p.services.len().saturating_sub(1));
        false
    }

    async fn refresh(&mut self) {
        self.picture.now_s = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
        match self.look().await {
            Ok(()) => self.picture.lost = None,
            Err(error) => self.picture.lost = Some(chain(&error)),
        }
    }

    async fn look(&mut self) -> Result<(), ClientError> {
        let c = &self.client;
        let (ready, services, open, newest, drift, sites) = tokio::join!(
            c.ready(),
            c.services(self.picture.all),
            c.operations(true, MAX_OPERATIONS),
            c.operations(false, MAX_OPERATIONS),
            c.drift(),
            c.sites()
        );
        let ready = ready?;
        let newest_entry = ready.components.iter().find_map(|p| p.values.get("newest_entry"));
        self.picture.entries_per_minute = newest_entry.and_then(|n| self.rate.take(*n, Instant::now()));
        self.picture.ready = Some(ready);
        self.picture.services = services?;
        // Those that need attention stand first.
        self.picture.services.sort_by_key(|s| (!view::troubled(s), s.id.clone()));
        self.picture.operations = open?;
        self.picture.operations.reverse();
        self.picture.failed = newest?.into_iter().filter(|o| o.problem.is_some()).collect();
        // A tenant sees no sites; everything else is shown all the same.
        self.picture.sites = allowed(sites)?;
        self.picture.drift = allowed(drift)?;
        Ok(())
    }
}

/// What the caller may not see is empty.
fn allowed<T: Default>(answer: Result<T, ClientError>) -> Result<T, ClientError> {
    match answer {
        Err(ClientError::Problem(p)) if p.status == 403 => Ok(T::default()),
        other => other,
    }
}

/// The ledger's rate from its head, as it was and as it is.
#[derive(Debug, Default)]
struct Rate {
    seen: std::collections::VecDeque<(Instant, i64)>,
}

impl Rate {
    fn take(&mut self, newest: i64, now: Instant) -> Option<u64> {
        self.seen.push_back((now, newest));
        while self.seen.len() > 2
            && self.seen.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW)
        {
            self.seen.pop_front();
        }
        let (at, oldest) = *self.seen.front()?;
        let ms = u64::try_from(now.duration_since(at).as_millis()).ok().filter(|ms| *ms > 0)?;
        Some(u64::try_from(newest - oldest).ok()?.saturating_mul(60_000) / ms)
    }
}

/// Wakes for every event; opens the stream again when it is lost.
async fn watch(client: Client, wake: mpsc::Sender<()>) {
    loop {
        if let Ok(mut stream) = client.events(None, None).await {
            while let Ok(Some(_)) = stream.next().await {
                // Full: it is awake already.
                let _ = wake.try_send(());
            }
        }
        if wake.is_closed() {
            return;
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// The keyboard, read by a thread of its own, because reading it blocks.
fn keyboard() -> (mpsc::Receiver<Event>, Arc<AtomicBool>) {
    let (send, receive) = mpsc::channel(QUEUE);
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            let ready = event::poll(KEYS).unwrap_or(false);
            if ready && event::read().is_ok_and(|event| send.blocking_send(event).is_err()) {
                return;
            }
        }
    });
    (receive, stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_over_the_last_half_minute() {
        let (mut rate, t0) = (Rate::default(), Instant::now());
        assert_eq!(rate.take(10, t0), None);
        assert_eq!(rate.take(11, t0 + Duration::from_secs(2)), Some(30));
        for n in 2u32..60 {
            rate.take(11, t0 + n * Duration::from_secs(2));
        }
        assert_eq!(rate.take(11, t0 + Duration::from_secs(121)), Some(0));
    }
}
