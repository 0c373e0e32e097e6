//! Following an intent until its operation is closed and its evidence anchored, or until a person has to decide.
//!
//! The orchestrator may be restarted meanwhile (that is what its journal is for): a lost connection is tried again for
//! a while. Lines appear once, when a step has ended; what is under way is the spinner's.

use std::{
    cell::Cell,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    context::Context,
    failure::{Exit, Failure},
    output::{Paint, Style, Ui, duration},
    progress::Spinner,
    timeline::Renderer,
    verdict,
};
use crate::{
    client::{Client, ClientError, Events},
    problem::Problem,
    views::{IntentView, OperationView, TimelineLine},
};

/// How long the orchestrator may be away: a restart takes seconds, a reboot a minute.
const AWAY: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);

/// Calls that survive a restart of the orchestrator, within a deadline of the caller's.
pub struct Follower<'a> {
    context: &'a Context,
    client: Client,
    deadline: Option<Instant>,
    /// The last change that was seen; 0 of an orchestrator that was away, which may count anew.
    change: Cell<u64>,
    met: Cell<bool>,
    stream: Option<Events>,
    last: Option<u64>,
}

impl<'a> Follower<'a> {
    /// A follower that gives up after `timeout` seconds, if any.
    pub fn new(context: &'a Context, timeout: Option<u64>) -> Result<Self, Failure> {
        let deadline = timeout.map(|s| Instant::now() + Duration::from_secs(s));
        Ok(Self {
            context,
            client: context.client()?,
            deadline,
            change: Cell::new(0),
            met: Cell::new(false),
            stream: None,
            last: None,
        })
    }

    /// Asks; again and again while nobody answers who has answered before.
    pub async fn ask<T, F>(&self, spinner: &Spinner, what: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let since = Instant::now();
        loop {
            let error = match what(self.client.clone()).await {
                Ok(answer) => {
                    self.met.set(true);
                    return Ok(answer);
                }
                Err(e) => e,
            };
            let away = matches!(error, ClientError::NotRunning { .. } | ClientError::Broken { .. });
            if !away || !self.met.get() || since.elapsed() > AWAY || self.over() {
                return Err(self.context.client_failure(error));
            }
            self.change.set(0);
            spinner.say("mandate serve does not answer; waiting for it to come back");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Waits for the next event of a service, on one stream that is opened again where it was lost.
    pub async fn event(&mut self, spinner: &Spinner, ns: &str) -> Result<(), Failure> {
        loop {
            let Some(stream) = &mut self.stream else {
                let last = self.last;
                self.stream =
                    Some(self.ask(spinner, |c| async move { c.events(Some(ns), last).await }).await?);
                // What happened while nobody listened is to be looked at now.
                return Ok(());
            };
            let message = stream.next().await;
            self.last = stream.last().or(self.last);
            match message {
                Ok(Some(_)) => return Ok(()),
                Ok(None) | Err(ClientError::Broken { .. }) => {
                    self.stream = None;
                    tokio::time::sleep(RETRY).await;
                }
                Err(e) => return Err(self.context.client_failure(e)),
            }
        }
    }

    fn over(&self) -> bool {
        self.deadline.is_some_and(|d| Instant::now() >= d)
    }

    /// Waits for the next change; an error when the time is over.
    pub async fn next(&mut self, spinner: &Spinner, what: &str) -> Result<(), Failure> {
        let changes = self.ask(spinner, |c| {
            let after = self.change.get();
            async move { c.changes(after).await }
        });
        let answered = match self.deadline {
            None => Some(changes.await?),
            Some(d) => tokio::time::timeout_at(d.into(), changes).await.ok().transpose()?,
        };
        if let Some(change) = answered {
            self.change.set(change);
        }
        if answered.is_none() || self.over() {
            let problem = Problem::new(504, "WATCH_TIMEOUT", "The time is over", format!("{what} goes on"))
                .hint("watch again, with a longer --timeout");
            return Err(Failure { exit: Exit::OperationFailed, problem });
        }
        Ok(())
    }
}

/// Watches an intent; the exit code says how it ended.
pub async fn intent(context: &Context, id: &str, timeout: Option<u64>) -> Result<Exit, Failure> {
    let mut follower = Follower::new(context, timeout)?;
    let spinner = Spinner::start(&context.ui, format!("intent {id}"));
    let mut lines = Lines::new(context.ui);
    loop {
        let view = follower.ask(&spinner, |c| async move { c.intent(id).await }).await?;
        if !view.verdict.approved {
            return refused(context, &view);
        }
        if let Some(op) = view.operation.clone() {
            let ns = &op.ns_instance_id;
            let timeline = follower.ask(&spinner, |c| async move { c.timeline(ns).await }).await?;
            lines.show(&spinner, &op, &timeline)?;
            if closed(&op) {
                drop(spinner);
                return ended(context, &view, &op);
            }
            if op.state == "FAILED_TEMP" {
                drop(spinner);
                return undecided(context, &view, &op);
            }
        } else {
            spinner.say("approved; waiting for the orchestrator");
        }
        follower.next(&spinner, &format!("intent {id}")).await?;
    }
}

/// Closed *and* anchored: nothing more will happen.
#[must_use]
pub fn closed(op: &OperationView) -> bool {
    op.anchored && matches!(op.state.as_str(), "COMPLETED" | "ROLLED_BACK" | "FAILED")
}

/// What makes a line the same line: where its evidence is may be known later.
#[must_use]
pub fn identity(line: &TimelineLine) -> String {
    format!("{} {} {} {} {}", line.operation_id, line.at_ms, line.kind, line.state, line.what)
}

/// A line's place in the bundle is only certain when the operation is closed.
#[must_use]
pub fn settled(line: &TimelineLine, closed: bool) -> TimelineLine {
    let evidence = line.evidence.clone().filter(|e| closed || !e.starts_with("bundle"));
    TimelineLine { evidence, ..line.clone() }
}

struct Lines {
    ui: Ui,
    shown: BTreeSet<String>,
    renderer: Renderer,
}

impl Lines {
    fn new(ui: Ui) -> Self {
        let style = if ui.json { Style::default() } else { ui.out };
        Self { ui, shown: BTreeSet::new(), renderer: Renderer::new(style) }
    }

    fn show(&mut self, spinner: &Spinner, op: &OperationView, all: &[TimelineLine]) -> Result<(), Failure> {
        for line in all.iter().filter(|l| l.operation_id == op.id) {
            if line.state == "started" || !self.shown.insert(identity(line)) {
                continue;
            }
            let text = self.renderer.line(&settled(line, closed(op)));
            if !self.ui.json {
                spinner.suspend(|| self.ui.print(&text))?;
            }
        }
        let under_way = all.iter().rev().find(|l| l.operation_id == op.id && l.state == "started");
        let what = under_way.map_or_else(|| op.state.to_lowercase(), |l| l.what.clone());
        spinner.say(format!("{}/{} {}", op.progress.0, op.progress.1, super::output::printable(&what)));
        Ok(())
    }
}

fn refused(context: &Context, view: &IntentView) -> Result<Exit, Failure> {
    context.ui.show(view, |style| verdict::render(&view.verdict, style))?;
    Ok(Exit::Refused)
}

/// It cannot end by itself: what is left, and what can be done about it.
fn undecided(context: &Context, view: &IntentView, op: &OperationView) -> Result<Exit, Failure> {
    context.ui.show(view, |style| {
        let problem =
            op.problem.as_ref().map_or_else(String::new, |p| format!(": {}", style.paint(Paint::Plain, p)));
        let mut out = format!("{}{problem}\n", style.paint(Paint::Yellow, &op.state));
        for left in &op.leftovers {
            out.push_str(&format!("left: {}\n", style.paint(Paint::Yellow, left)));
        }
        out.push_str("it is tried again by itself, slowly; a person decides:\n");
        for (command, what) in decisions(op) {
            out.push_str(&format!("  mandate operation {command} {} --reason …   {what}\n", op.id));
        }
        out
    })?;
    Ok(Exit::Undecided)
}

/// The commands that there are for it.
fn decisions(op: &OperationView) -> Vec<(&'static str, &'static str)> {
    let back = ("rollback", "take back what was done, unless some of it is gone for good");
    let mut all =
        vec![("retry", "try again at once"), ("fail", "end it; what is left is left, and on record")];
    // What cuts off or removes is never taken back.
    if !matches!(op.action.as_str(), "isolate" | "terminate") {
        all.insert(1, back);
    }
    all
}

fn ended(context: &Context, view: &IntentView, op: &OperationView) -> Result<Exit, Failure> {
    let completed = op.state == "COMPLETED";
    context.ui.show(view, |style| {
        let paint = if completed { Paint::Green } else { Paint::Red };
        let took = op.duration_ms.map_or_else(String::new, |ms| format!(" in {}", duration(ms)));
        let problem = op.problem.as_ref().map_or_else(String::new, |p| format!(": {}", style.paint(Paint::Plain, p)));
        format!(
            "{}{took}{problem}\nnext: mandate evidence export {} -o {}.jsonl && mandate evidence verify {}.jsonl\n",
            style.paint(paint, &op.state),
            op.id,
            op.id,
            op.id
        )
    })?;
    Ok(if completed { Exit::Ok } else { Exit::OperationFailed })
}
