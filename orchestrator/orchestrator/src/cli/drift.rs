//! `mandate drift …`: what is not as it should be, what was done about it, and what may still be done without asking.

use clap::Subcommand;
use lcm::drift::Difference;
use serde::Serialize;

use super::{
    args,
    context::Context,
    failure::{Exit, Failure},
    ns,
    output::{Cell, Paint, Style, Table, duration, span},
};
use crate::{
    journal::{Mitigation, Proposal},
    views::{DriftView, NsDriftView, NsView},
};

/// Commands on drift.
#[derive(Debug, Subcommand)]
pub enum DriftCommand {
    /// List what the last look at the sites found, what is proposed, and what was done: who, what, why
    List {
        /// How much of what was done, at most: the newest
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
        limit: u16,
    },
    /// Show the drift of a service, what was done about it, and what budget, cool-down and flap guard still allow
    Show {
        /// NS instance id, or TENANT/SERVICE
        #[arg(value_parser = args::name)]
        ns: String,
    },
}

/// What `drift list --json` answers.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    drift: DriftView,
    mitigations: Vec<Mitigation>,
}

/// Runs a command.
pub async fn run(context: &Context, command: DriftCommand) -> Result<Exit, Failure> {
    match command {
        DriftCommand::List { limit } => list(context, limit.into()).await,
        DriftCommand::Show { ns } => {
            let view = context.client()?.ns_drift(&ns).await.map_err(|e| ns::missing(context, e))?;
            let now = context.now()?;
            context.ui.show(&view, |style| render_show(&view, now, style))
        }
    }
}

async fn list(context: &Context, limit: usize) -> Result<Exit, Failure> {
    let client = context.client()?;
    let failed = |e| context.client_failure(e);
    let drift = client.drift().await.map_err(failed)?;
    let mut mitigations = client.mitigations().await.map_err(failed)?;
    mitigations.drain(..mitigations.len().saturating_sub(limit));
    // Names are for people.
    let services = if context.ui.json { Vec::new() } else { client.services(true).await.map_err(failed)? };
    let listed = Listed { drift, mitigations };
    let now = context.now()?;
    context.ui.show(&listed, |style| render_list(&listed, &services, now, style))
}

fn name_of(services: &[NsView], ns: &str) -> String {
    let found = services.iter().find(|s| s.id == ns);
    found.map_or_else(|| ns.to_owned(), |s| format!("{}/{}", s.tenant, s.service))
}

/// When the sites were looked at.
fn looked(at_ms: u64, now: trust::UnixTime) -> String {
    match at_ms {
        0 => "no look at the sites yet".to_owned(),
        at => format!("looked {} ago", span(now.0.saturating_sub(at / 1000))),
    }
}

fn render_list(listed: &Listed, services: &[NsView], now: trust::UnixTime, style: Style) -> String {
    let d = &listed.drift;
    let mut out = format!("{}: {} services in {}\n", looked(d.at_ms, now), d.services, duration(d.took_ms));
    for (site, why) in &d.unseen {
        out.push_str(&format!(
            "{} {site}: {}\n",
            style.paint(Paint::Red, "not seen:"),
            style.paint(Paint::Plain, why)
        ));
    }
    let mut found =
        Table::new(&["SERVICE", "OBJECT", "SITE", "FOUND", "DETAIL"], "everything is as it should be");
    for (ns, findings) in &d.findings {
        for f in findings {
            found.row(std::iter::once(Cell::new(Paint::Cyan, name_of(services, ns))).chain(finding(f)));
        }
    }
    out.push_str(&format!("\n{}", found.render(style)));
    if !d.proposals.is_empty() {
        let mut proposed = Table::new(&["SERVICE", "PROPOSED", "WHY NOT BY ITSELF", "REASON"], "");
        for (ns, p) in &d.proposals {
            let action = Cell::new(Paint::Yellow, p.intent.action.name());
            proposed.row([name_of(services, ns).into(), action, (&p.code).into(), (&p.reason).into()]);
        }
        let next = "the intent to sign: mandate drift show TENANT/SERVICE --json";
        out.push_str(&format!("\n{}{}\n", proposed.render(style), style.paint(Paint::Dim, next)));
    }
    out.push_str(&format!("\n{}", done(&listed.mitigations, true).render(style)));
    out
}

/// Object, site, what, detail.
fn finding(f: &Difference) -> [Cell; 4] {
    let paint = if f.deviation.suspicious() { Paint::Red } else { Paint::Yellow };
    [f.key.as_str().into(), (&f.site).into(), Cell::new(paint, f.deviation.code()), (&f.detail).into()]
}

/// Who, what, why.
fn done(mitigations: &[Mitigation], named: bool) -> Table {
    let heads: &[&'static str] = match named {
        true => &["TIME", "SERVICE", "DONE", "BY", "UNDER", "INTENT", "WHY"],
        false => &["TIME", "DONE", "BY", "UNDER", "INTENT", "WHY"],
    };
    let mut table = Table::new(heads, "nothing was done about drift");
    for m in mitigations {
        let paint = match m.decision.as_str() {
            "REPAIR" => Paint::Green,
            "REFUSED" => Paint::Red,
            _ => Paint::Yellow,
        };
        let mut row = vec![Cell::new(Paint::Dim, trust::UnixTime(m.at_ms / 1000))];
        if named {
            row.push(Cell::new(Paint::Cyan, format!("{}/{}", m.tenant, m.service)));
        }
        row.extend([
            Cell::new(paint, format!("{} {}", m.decision.to_lowercase(), m.action)),
            (&m.who).into(),
            m.grant.as_deref().unwrap_or("-").into(),
            m.intent_id.as_deref().unwrap_or("-").into(),
            (&m.reason).into(),
        ]);
        table.row(row);
    }
    table
}

fn render_show(view: &NsDriftView, now: trust::UnixTime, style: Style) -> String {
    let mut found = Table::new(&["OBJECT", "SITE", "FOUND", "DETAIL"], "everything is as it should be");
    view.findings.iter().for_each(|f| found.row(finding(f)));
    let mut grants = Table::new(
        &["STANDING GRANT", "ACTIONS", ">USED", "COOL-DOWN", "NEXT REPAIR", "GOOD TO"],
        "no standing grant covers it: repairs are proposed; see `mandate standing grant --help`",
    );
    for g in &view.grants {
        let next = match g.next_at {
            None => Cell::new(Paint::Green, "now"),
            Some(at) => Cell::new(Paint::Yellow, format!("not before {at}")),
        };
        grants.row([
            Cell::new(Paint::Cyan, &g.grant),
            g.actions.join(" ").into(),
            format!("{} of {} in {}", g.used, g.budget, span(g.window_s)).into(),
            span(g.cooldown_s).into(),
            next,
            g.not_after.into(),
        ]);
    }
    let name = format!("{}/{}", view.tenant, view.service);
    let parts = [
        Some(format!(
            "{} {name}: {}\n",
            style.paint(Paint::Cyan, &view.ns_instance_id),
            looked(view.at_ms, now)
        )),
        Some(found.render(style)),
        view.proposal.as_ref().map(|p| proposal(p, style)),
        Some(grants.render(style)),
        (!view.flaps.is_empty()).then(|| flaps(view).render(style)),
        Some(done(&view.mitigations, false).render(style)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn flaps(view: &NsDriftView) -> Table {
    let mut table = Table::new(&["REPAIRED", ">TIMES", "FLAP GUARD"], "");
    for f in &view.flaps {
        let state = match f.repairs >= f.most {
            true => Cell::new(Paint::Red, "left to a person when it is wrong again"),
            false => Cell::new(Paint::Green, format!("up to {} in {}", f.most, span(f.window_s))),
        };
        table.row([(&f.object).into(), f.repairs.into(), state]);
    }
    table
}

fn proposal(p: &Proposal, style: Style) -> String {
    format!(
        "{} {} ({}): {}\nnext: save .proposal.intent of `--json` to a file, then mandate intent sign FILE --as {}/tenant; it is good to {}\n",
        style.paint(Paint::Yellow, "proposed:"),
        p.intent.action.name(),
        style.paint(Paint::Plain, &p.code),
        style.paint(Paint::Plain, &p.reason),
        style.paint(Paint::Plain, &p.intent.tenant),
        p.intent.not_after
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::{FlapView, GuardView};
    use trust::UnixTime;

    const PLAIN: Style = Style { color: false, unicode: false };

    fn down() -> Difference {
        Difference {
            site: "edge-a".into(),
            key: vim::ObjectKey::new("ns-1/vfw/vfw/0").unwrap(),
            kind: vim::Kind::Compute,
            deviation: lcm::drift::Deviation::Down,
            detail: "it does not run".into(),
        }
    }

    fn repaired() -> Mitigation {
        Mitigation {
            at_ms: 1_800_000_000_000,
            ns: "ns-1".into(),
            tenant: "acme".into(),
            service: "edge".into(),
            who: "operator/orchestrator".into(),
            action: "heal".into(),
            decision: "REPAIR".into(),
            grant: Some("standing-1".into()),
            intent_id: Some("auto-heal-1".into()),
            reason: "it does not run".into(),
            findings: vec![down()],
        }
    }

    #[test]
    fn golden_list() {
        let drift = DriftView {
            at_ms: 1_800_000_000_000,
            took_ms: 12,
            services: 3,
            findings: [("ns-1".to_owned(), vec![down()])].into(),
            ..DriftView::default()
        };
        let listed = Listed { drift, mitigations: vec![repaired()] };
        assert_eq!(
            render_list(&listed, &[], UnixTime(1_800_000_005), PLAIN),
            "looked 5s ago: 3 services in 12 ms\n\n\
             SERVICE  OBJECT          SITE    FOUND  DETAIL\n\
             ns-1     ns-1/vfw/vfw/0  edge-a  DOWN   it does not run\n\n\
             TIME                  SERVICE    DONE         BY                     UNDER       INTENT       WHY\n\
             2027-01-15T08:00:00Z  acme/edge  repair heal  operator/orchestrator  standing-1  auto-heal-1  it does not run\n"
        );
        let nothing = Listed { drift: DriftView::default(), mitigations: Vec::new() };
        let text = render_list(&nothing, &[], UnixTime(1), PLAIN);
        assert!(text.contains("no look at the sites yet") && text.contains("nothing was done"), "{text}");
    }

    #[test]
    fn golden_show() {
        let guard = GuardView {
            grant: "standing-1".into(),
            actions: vec!["heal".into()],
            budget: 3,
            used: 2,
            window_s: 3600,
            cooldown_s: 60,
            not_after: UnixTime(1_800_086_400),
            next_at: Some(UnixTime(1_800_000_060)),
        };
        let flap = FlapView { object: "ns-1/vfw/vfw/0".into(), repairs: 3, most: 3, window_s: 3600 };
        let view = NsDriftView {
            ns_instance_id: "ns-1".into(),
            tenant: "acme".into(),
            service: "edge".into(),
            at_ms: 1_800_000_000_000,
            grants: vec![guard],
            flaps: vec![flap],
            mitigations: vec![repaired()],
            ..NsDriftView::default()
        };
        assert_eq!(
            render_show(&view, UnixTime(1_800_000_005), PLAIN),
            "ns-1 acme/edge: looked 5s ago\n\n\
             everything is as it should be\n\n\
             STANDING GRANT  ACTIONS          USED  COOL-DOWN  NEXT REPAIR                      GOOD TO\n\
             standing-1      heal     2 of 3 in 1h  1m         not before 2027-01-15T08:01:00Z  2027-01-16T08:00:00Z\n\n\
             REPAIRED        TIMES  FLAP GUARD\n\
             ns-1/vfw/vfw/0      3  left to a person when it is wrong again\n\n\
             TIME                  DONE         BY                     UNDER       INTENT       WHY\n\
             2027-01-15T08:00:00Z  repair heal  operator/orchestrator  standing-1  auto-heal-1  it does not run\n"
        );
        let bare = NsDriftView { tenant: "acme".into(), ..NsDriftView::default() };
        assert!(render_show(&bare, UnixTime(1), PLAIN).contains("no standing grant covers it"));
    }
}
