//! `mandate operation …`: what is under way, and what a person decides about what cannot end by itself.

use clap::{Args, Subcommand};
use lcm::operation::Direction;
use serde::Serialize;

use super::{
    args,
    context::Context,
    failure::{Exit, Failure},
    intent::{operations, state},
    output::{Cell, Paint, Style, Table, duration},
    timeline::Renderer,
};
use crate::{
    api::MAX_PAGE,
    client::ClientError,
    views::{OperationView, StepView, TimelineLine},
};

/// What is not taken back once it has begun.
const FORWARD_ONLY: [&str; 2] = ["terminate", "isolate"];
/// Characters of a step's problem in the table: it is whole above it, in the timeline, and with --json.
const MAX_PROBLEM: usize = 100;

/// Commands on operations.
#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List the operations, newest first
    List {
        /// Only those that are not over and anchored
        #[arg(long)]
        open: bool,
        /// At most so many
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_PAGE as i64))]
        limit: u16,
    },
    /// Show an operation: what is left, every step with its attempts, who decided what
    Show {
        /// Operation id
        #[arg(value_parser = args::name)]
        operation: String,
    },
    /// Try again at once what is FAILED_TEMP
    Retry(DirectionArgs),
    /// Take back what was done: of what is FAILED_TEMP, or under way
    Rollback(DirectionArgs),
    /// End what is FAILED_TEMP; what is left is left, and on record
    Fail(DirectionArgs),
}

/// A person's decision.
#[derive(Debug, Args)]
pub struct DirectionArgs {
    /// Operation id
    #[arg(value_parser = args::name)]
    operation: String,
    /// Why, for the operation's record and its evidence
    #[arg(long, value_name = "TEXT", value_parser = args::reason)]
    reason: String,
}

/// What `show --json` answers.
#[derive(Serialize)]
struct Shown {
    operation: OperationView,
    steps: Vec<StepView>,
    /// When a person was called, and what was decided then.
    decisions: Vec<TimelineLine>,
}

/// Runs a command.
pub async fn run(context: &Context, command: OperationCommand) -> Result<Exit, Failure> {
    match command {
        OperationCommand::List { open, limit } => {
            let all = context.client()?.operations(open, limit.into()).await;
            let all = all.map_err(|e| context.client_failure(e))?;
            context.ui.show(&all, |style| operations(&all).render(style))
        }
        OperationCommand::Show { operation } => show(context, &operation).await,
        OperationCommand::Retry(args) => direct(context, &args, Direction::Retry).await,
        OperationCommand::Rollback(args) => direct(context, &args, Direction::Rollback).await,
        OperationCommand::Fail(args) => direct(context, &args, Direction::Fail).await,
    }
}

fn missing(context: &Context, error: ClientError) -> Failure {
    let missing = matches!(&error, ClientError::Problem(p) if p.status == 404);
    let failure = context.client_failure(error);
    if missing { failure.hint("name it by its id: mandate operation list") } else { failure }
}

async fn show(context: &Context, id: &str) -> Result<Exit, Failure> {
    let client = context.client()?;
    let operation = client.operation(id).await.map_err(|e| missing(context, e))?;
    let steps = client.steps(id).await.map_err(|e| missing(context, e))?;
    let mut decisions =
        client.timeline(&operation.ns_instance_id).await.map_err(|e| context.client_failure(e))?;
    decisions.retain(|l| l.operation_id == id && matches!(l.kind.as_str(), "escalation" | "direction"));
    let shown = Shown { operation, steps, decisions };
    context.ui.show(&shown, |style| render(&shown, style))
}

async fn direct(context: &Context, args: &DirectionArgs, what: Direction) -> Result<Exit, Failure> {
    let view = context.client()?.direct(&args.operation, what, &args.reason).await;
    let view = view.map_err(|e| missing(context, e))?;
    let exit = context.ui.show(&view, |style| operations(std::slice::from_ref(&view)).render(style))?;
    context.ui.note(&format!(
        "{} is on record; follow it: mandate ns timeline {} --follow",
        what.name(),
        view.ns_instance_id
    ));
    Ok(exit)
}

fn render(shown: &Shown, style: Style) -> String {
    let Shown { operation: o, steps, decisions } = shown;
    let mut facts = Table::new(&["", ""], "");
    let dash = || Cell::new(Paint::Dim, "-");
    for (name, value) in [
        ("action", Cell::new(Paint::Bold, &o.action)),
        ("state", state(&o.state)),
        ("intent", (&o.intent_id).into()),
        ("service", (&o.ns_instance_id).into()),
        ("site", o.site.as_ref().map_or_else(dash, Into::into)),
        ("problem", o.problem.as_ref().map_or_else(dash, |p| Cell::new(Paint::Red, p))),
    ] {
        facts.row([Cell::new(Paint::Dim, name), value]);
    }
    let calls: u32 = steps.iter().flat_map(|s| &s.attempts).map(|a| a.calls).sum();
    if calls > 0 {
        facts.row([Cell::new(Paint::Dim, "API calls"), calls.into()]);
    }
    for (n, left) in o.leftovers.iter().enumerate() {
        let name = if n == 0 { "left" } else { "" };
        facts.row([Cell::new(Paint::Dim, name), Cell::new(Paint::Yellow, left)]);
    }
    let mut out = format!("{}\n{}\n", style.paint(Paint::Cyan, &o.id), facts.render(style));
    out.push_str(&step_table(steps).render(style));
    if !decisions.is_empty() {
        let mut renderer = Renderer::new(style);
        out.push('\n');
        out.extend(decisions.iter().map(|line| renderer.line(line)));
    }
    if o.state == "FAILED_TEMP" {
        let ways =
            if FORWARD_ONLY.contains(&o.action.as_str()) { "retry|fail" } else { "retry|rollback|fail" };
        out.push_str(&format!(
            "\n{} mandate operation {ways} {} --reason …\n",
            style.paint(Paint::Yellow, "to be decided:"),
            o.id
        ));
    }
    out
}

fn step_table(steps: &[StepView]) -> Table {
    let mut table =
        Table::new(&[">STEP", "WHAT", "STATE", ">TRIES", ">CALLS", ">TOOK", "PROBLEM"], "no plan yet");
    for s in steps {
        let last = s.attempts.last();
        let took = last.and_then(|a| a.ended_ms.map(|end| end.saturating_sub(a.started_ms)));
        let problem = s.attempts.iter().rev().find_map(|a| a.problem.as_deref());
        let paint = match s.state.as_str() {
            "done" => Paint::Green,
            "failed" => Paint::Red,
            "started" => Paint::Cyan,
            "undoing" | "undone" => Paint::Yellow,
            _ => Paint::Dim,
        };
        table.row([
            s.id.into(),
            (&s.what).into(),
            Cell::new(paint, &s.state),
            s.attempts.len().into(),
            s.attempts.iter().map(|a| a.calls).sum::<u32>().into(),
            took.map_or_else(|| "-".into(), |ms| duration(ms).into()),
            Cell::new(Paint::Dim, short(problem.unwrap_or_default())),
        ]);
    }
    table
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_PROBLEM) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use trust::UnixTime;

    use super::*;
    use crate::views::AttemptView;

    #[test]
    fn golden_show() {
        let attempt = |number, problem: Option<&str>| AttemptView {
            number,
            undo: true,
            started_ms: 1_000,
            ended_ms: Some(1_250),
            problem: problem.map(Into::into),
            calls: 3,
        };
        let shown = Shown {
            operation: OperationView {
                id: "op-1".into(),
                tenant: "acme".into(),
                intent_id: "i-1".into(),
                ns_instance_id: "ns-1".into(),
                action: "deploy".into(),
                state: "FAILED_TEMP".into(),
                site: Some("edge-a".into()),
                progress: (1, 2),
                problem: Some("step 2 (start b): TIMEOUT: no answer".into()),
                leftovers: vec!["ns-1/a".into(), "ns-1/b".into()],
                anchored: false,
                accepted_at: UnixTime(1),
                duration_ms: None,
            },
            steps: vec![StepView {
                id: 1,
                what: "make link a".into(),
                action: "ensure".into(),
                object: "ns-1/a".into(),
                needs: vec![],
                state: "undoing".into(),
                attempts: vec![attempt(1, Some("BUSY: in use")), attempt(2, None)],
            }],
            decisions: vec![],
        };
        assert_eq!(
            render(&shown, Style { color: false, unicode: false }),
            "op-1\n\
             action     deploy\n\
             state      FAILED_TEMP\n\
             intent     i-1\n\
             service    ns-1\n\
             site       edge-a\n\
             problem    step 2 (start b): TIMEOUT: no answer\n\
             API calls  6\n\
             left       ns-1/a\n           ns-1/b\n\n\
             STEP  WHAT         STATE    TRIES  CALLS    TOOK  PROBLEM\n   \
             1  make link a  undoing      2      6  250 ms  BUSY: in use\n\n\
             to be decided: mandate operation retry|rollback|fail op-1 --reason …\n"
        );
    }
}
