//! Drawing `mandate top`: a picture in, cells out.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table},
};

use super::{
    super::output::{duration, printable},
    Picture,
};
use crate::views::{NsView, OperationView, SiteView};

/// Smallest screen that everything fits on.
const MIN: (u16, u16) = (80, 24);
/// Most rows for sites.
const MAX_SITES: usize = 4;
/// Most rows for alerts.
const MAX_ALERTS: usize = 4;
/// Cells of a bar.
const BAR: usize = 12;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, p: &Picture) {
    let area = frame.area();
    if area.width < MIN.0 || area.height < MIN.1 {
        let text = format!("{} x {} is too small: at least {} x {}", area.width, area.height, MIN.0, MIN.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let alerts = alerts(p);
    let rows = |n: usize, most: usize| u16::try_from(n.clamp(1, most)).unwrap_or(1);
    let [title, sites, operations, services, bad, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2 + rows(p.sites.len(), MAX_SITES)),
        Constraint::Fill(2),
        Constraint::Fill(3),
        Constraint::Length(1 + rows(alerts.len(), MAX_ALERTS)),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(headline(p), title);
    draw_sites(frame, p, sites);
    draw_operations(frame, p, operations);
    draw_services(frame, p, services);
    draw_alerts(frame, &alerts, bad);
    let help = " q quit  ? help  up/down scroll  a all services  p pause ";
    frame.render_widget(Line::from(help).style(Style::new().add_modifier(Modifier::REVERSED)), keys);
    if p.help {
        draw_help(frame, area);
    }
}

fn headline(p: &Picture) -> Line<'_> {
    let value = |name: &str| {
        let parts = p.ready.iter().flat_map(|r| &r.components);
        parts.into_iter().find_map(|c| c.values.get(name)).copied()
    };
    let state = match (&p.lost, &p.ready) {
        (Some(_), _) => " no answer ".black().on_red(),
        (None, Some(r)) if r.phase == "draining" => " draining ".black().on_yellow(),
        (None, Some(r)) if r.ready => " ready ".black().on_green(),
        _ => " not ready ".black().on_red(),
    };
    let mut spans = vec![" mandate top ".bold(), state];
    let mut say = |text: String| spans.push(Span::raw(format!("  {text}")));
    if let Some(head) = value("newest_entry") {
        say(format!("ledger #{head}"));
    }
    if let Some(rate) = p.entries_per_minute {
        say(format!("{rate}/min"));
    }
    if let Some(lag) = value("lag_events") {
        say(format!("lag {lag}"));
    }
    if let Some(depth) = value("outbox_operations") {
        say(format!("outbox {depth}"));
    }
    say(clock(p.now_s));
    if p.paused {
        spans.push("  PAUSED".yellow());
    }
    Line::from(spans)
}

fn clock(s: u64) -> String {
    format!("{:02}:{:02}:{:02}Z", s / 3_600 % 24, s / 60 % 60, s % 60)
}

fn section(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).title(title.bold()).border_style(Style::new().fg(Color::DarkGray))
}

fn head(names: &[&'static str]) -> Row<'static> {
    Row::new(names.iter().map(|n| Cell::new(n.dark_gray())).collect::<Vec<_>>())
}

/// A bar of [`BAR`] cells with its figures.
fn bar(used: u64, total: u64, colour: Color) -> Line<'static> {
    let cells = (used * BAR as u64).checked_div(total).unwrap_or_default();
    let filled = usize::try_from(cells).unwrap_or(BAR).min(BAR);
    // What is not nothing is to be seen.
    let filled = if used > 0 { filled.max(1) } else { filled };
    Line::from(vec![
        Span::styled("█".repeat(filled), Style::new().fg(colour)),
        "░".repeat(BAR - filled).dark_gray(),
        Span::raw(format!(" {used}/{total}")),
    ])
}

fn load(used: u32, total: u32) -> Line<'static> {
    let colour = match u64::from(used) * 100 / u64::from(total.max(1)) {
        0..70 => Color::Green,
        70..90 => Color::Yellow,
        _ => Color::Red,
    };
    bar(used.into(), total.into(), colour)
}

fn draw_sites(frame: &mut Frame<'_>, p: &Picture, area: Rect) {
    let row = |s: &SiteView| {
        let say = match &s.problem {
            Some(problem) => printable(problem).red(),
            None => printable(&s.attestation).dark_gray(),
        };
        Row::new([
            Cell::new(printable(&s.name).cyan()),
            Cell::new(load(s.used.vcpus, s.total.vcpus)),
            Cell::new(load(s.used.memory_mib, s.total.memory_mib)),
            Cell::new(format!("{}/{}", s.used.instances, s.total.instances)),
            Cell::new(say),
        ])
    };
    let widths = [
        Constraint::Length(14),
        Constraint::Length(19),
        Constraint::Length(25),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let table = Table::new(p.sites.iter().take(MAX_SITES).map(row), widths)
        .header(head(&["SITE", "VCPUS", "MEMORY MiB", "INSTANCES", "ATTESTATION"]))
        .block(section(" Sites "));
    frame.render_widget(table, area);
}

fn state_colour(state: &str) -> Color {
    match state {
        "COMPLETED" | "INSTANTIATED" => Color::Green,
        "FAILED" | "BROKEN" | "ISOLATED" | "FAILED_TEMP" => Color::Red,
        "ROLLED_BACK" | "ROLLING_BACK" => Color::Yellow,
        _ => Color::Cyan,
    }
}

fn name_of(p: &Picture, ns: &str) -> String {
    let found = p.services.iter().find(|s| s.id == ns);
    found.map_or_else(|| printable(ns), |s| printable(&format!("{}/{}", s.tenant, s.service)))
}

fn draw_operations(frame: &mut Frame<'_>, p: &Picture, area: Rect) {
    let row = |o: &OperationView| {
        let (done, all) = o.progress;
        let age = p.now_s.saturating_sub(o.accepted_at.0);
        let waits = o.duration_ms.is_some();
        let state = if waits { "ANCHORING" } else { o.state.as_str() };
        Row::new([
            Cell::new(printable(&o.id).cyan()),
            Cell::new(name_of(p, &o.ns_instance_id)),
            Cell::new(printable(&o.action)),
            Cell::new(Span::styled(state.to_owned(), Style::new().fg(state_colour(state)))),
            Cell::new(bar(done.into(), all.into(), state_colour(&o.state))),
            Cell::new(duration(age.saturating_mul(1_000))),
        ])
    };
    let widths = [
        Constraint::Length(15),
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(12),
        Constraint::Length(19),
        Constraint::Length(9),
    ];
    let title = format!(" Operations in flight: {} ", p.operations.len());
    let table = Table::new(p.operations.iter().map(row), widths)
        .header(head(&["OPERATION", "SERVICE", "ACTION", "STATE", "STEPS", "SINCE"]))
        .block(section(&title));
    frame.render_widget(table, area);
}

/// Does a service need somebody's attention?
pub fn troubled(s: &NsView) -> bool {
    matches!(s.state.as_str(), "BROKEN" | "ISOLATED") || s.sla_met == Some(false)
}

fn draw_services(frame: &mut Frame<'_>, p: &Picture, area: Rect) {
    let row = |s: &NsView| {
        let sla = match s.sla_met {
            Some(true) => "met".green(),
            Some(false) => "missed".red(),
            None => "-".dark_gray(),
        };
        let lease = match s.lease_until {
            None => "-".dark_gray(),
            Some(end) if end.0 < p.now_s => "overdue".red(),
            Some(end) => {
                let left = end.0 - p.now_s;
                Span::raw(format!("{} h {:02} min", left / 3_600, left / 60 % 60))
            }
        };
        Row::new([
            Cell::new(printable(&format!("{}/{}", s.tenant, s.service)).bold()),
            Cell::new(Span::styled(s.state.clone(), Style::new().fg(state_colour(&s.state)))),
            Cell::new(s.site.as_deref().map(printable).unwrap_or_default()),
            Cell::new(s.instances.len().to_string()),
            Cell::new(sla),
            Cell::new(lease),
        ])
    };
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(17),
        Constraint::Length(14),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(14),
    ];
    let first = if p.scroll == 0 { String::new() } else { format!(", from no. {}", p.scroll + 1) };
    let title = format!(" Services: {}{first} ", p.services.len());
    let table = Table::new(p.services.iter().skip(p.scroll).map(row), widths)
        .header(head(&["SERVICE", "STATE", "SITE", "INSTANCES", "SLA", "LEASE"]))
        .block(section(&title));
    frame.render_widget(table, area);
}

/// What somebody should look at, the worst first.
fn alerts(p: &Picture) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    if let Some(lost) = &p.lost {
        out.push(Line::from(format!("{} does not answer: {}", p.server, printable(lost))).red());
    }
    for c in p.ready.iter().flat_map(|r| &r.components).filter(|c| !c.ready) {
        let text = format!("{}: {}", printable(&c.name), printable(&c.detail));
        out.push(if c.optional { Line::from(text).yellow() } else { Line::from(text).red() });
    }
    for s in p.services.iter().filter(|s| troubled(s)) {
        let what =
            if s.sla_met == Some(false) { "misses its SLA".to_owned() } else { format!("is {}", s.state) };
        out.push(Line::from(printable(&format!("{}/{} {what}", s.tenant, s.service))).red());
    }
    for (ns, findings) in &p.drift.findings {
        let first = findings.first().map(ToString::to_string).unwrap_or_default();
        let more = match findings.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        out.push(Line::from(format!("drift: {}: {}{more}", name_of(p, ns), printable(&first))).red());
    }
    for (ns, proposal) in &p.drift.proposals {
        let text =
            format!("{}: an intent waits to be signed: {}", name_of(p, ns), printable(&proposal.reason));
        out.push(Line::from(text).yellow());
    }
    for s in p.services.iter().filter(|s| s.lease_until.is_some_and(|end| end.0 < p.now_s)) {
        out.push(Line::from(printable(&format!("{}/{}: its lease is over", s.tenant, s.service))).yellow());
    }
    for o in &p.failed {
        let why = printable(o.problem.as_deref().unwrap_or_default());
        out.push(
            Line::from(format!("{} {} {}: {why}", printable(&o.id), printable(&o.action), o.state)).yellow(),
        );
    }
    out
}

fn draw_alerts(frame: &mut Frame<'_>, alerts: &[Line<'static>], area: Rect) {
    let title = match alerts.len() {
        0 => " Alerts: none ".to_owned(),
        n => format!(" Alerts: {n} "),
    };
    let shown: Vec<_> = alerts.iter().take(MAX_ALERTS).cloned().collect();
    frame.render_widget(Paragraph::new(shown).block(section(&title)), area);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines = [
        "q, Esc, Ctrl-C   quit",
        "? or h           this help, and away with it",
        "up, down, k, j   scroll the services; g: back to the first",
        "a                terminated services too",
        "p or space       hold the picture still",
        "",
        "SITE bars: used of all; yellow from 70 %, red from 90 %.",
        "ANCHORING: done, its evidence is on its way to the ledger.",
        "lag: approvals that wait to be taken. outbox: evidence that waits.",
        "More of one service: mandate ns timeline TENANT/SERVICE",
    ];
    let (width, height) = (66, u16::try_from(lines.len()).unwrap_or(10) + 2);
    let x = area.x + area.width.saturating_sub(width) / 2;
    let y = area.y + area.height.saturating_sub(height) / 2;
    let place = Rect { x, y, width, height }.intersection(area);
    frame.render_widget(Clear, place);
    let text: Vec<Line<'_>> = lines.iter().map(|l| Line::from(format!(" {l}"))).collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(" Help ".bold())), place);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};
    use trust::UnixTime;

    use super::*;
    use crate::views::{ComponentView, ReadyView};

    fn operation(id: &str, action: &str, state: &str, progress: (u32, u32)) -> OperationView {
        OperationView {
            id: id.into(),
            tenant: "acme".into(),
            intent_id: "i".into(),
            ns_instance_id: "ns-1".into(),
            action: action.into(),
            state: state.into(),
            site: Some("edge-a".into()),
            progress,
            problem: (state == "FAILED").then(|| "step 3 (fw/0): TIMEOUT: no answer".into()),
            leftovers: Vec::new(),
            anchored: false,
            accepted_at: UnixTime(86_390),
            duration_ms: None,
        }
    }

    fn picture() -> Picture {
        let service = |name: &str, state: &str, sla| NsView {
            id: "ns-1".into(),
            tenant: "acme".into(),
            service: name.into(),
            state: state.into(),
            site: Some("edge-a".into()),
            nsd: "n".into(),
            instances: vec![("a".into(), "b".into())],
            instance_sites: Default::default(),
            operations: vec![],
            lease_until: Some(UnixTime(86_400 + 7_500)),
            sla_met: sla,
        };
        let part = |name: &str, ready, values: &[(&str, i64)]| ComponentView {
            name: name.into(),
            ready,
            optional: true,
            detail: "no answer within 3 s".into(),
            values: values.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
        };
        Picture {
            ready: Some(ReadyView {
                ready: true,
                phase: "serving".into(),
                version: "0.1.0".into(),
                components: vec![
                    part("ledger", true, &[("newest_entry", 123), ("lag_events", 0)]),
                    part("outbox", true, &[("outbox_operations", 2)]),
                    part("site/edge-b", false, &[]),
                ],
            }),
            services: vec![
                service("bad", "BROKEN", Some(false)),
                service("edge", "INSTANTIATED", Some(true)),
            ],
            operations: vec![operation("op-0123456789ab", "scale", "PROCESSING", (5, 11))],
            failed: vec![operation("op-f", "heal", "FAILED", (2, 3))],
            sites: vec![SiteView {
                name: "edge-a".into(),
                driver: "host".into(),
                jurisdiction: "DE".into(),
                latency_us: 1,
                total: vim::Resources { vcpus: 32, memory_mib: 32_768, instances: 32 },
                used: vim::Resources { vcpus: 24, memory_mib: 1_024, instances: 4 },
                attestation: "key valid until 2027".into(),
                problem: None,
            }],
            entries_per_minute: Some(42),
            now_s: 86_400,
            server: "socket".into(),
            ..Picture::default()
        }
    }

    fn screen(p: &Picture, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, p)).unwrap();
        let text = terminal.backend().to_string();
        text.lines().map(|l| format!("{}\n", l.trim_matches('"').trim_end())).collect()
    }

    #[test]
    fn golden_80_by_24() {
        let got = screen(&picture(), 80, 24);
        assert_eq!(got, include_str!("golden.txt"), "\n{got}");
    }

    #[test]
    fn help_and_too_small_screens() {
        let help = screen(&Picture { help: true, ..picture() }, 80, 24);
        assert!(help.contains("this help, and away with it"), "{help}");
        assert!(screen(&picture(), 79, 24).contains("too small"));
        let lost = screen(&Picture { lost: Some("refused\x1b[2J".into()), ..picture() }, 120, 40);
        assert!(lost.contains("socket does not answer: refused") && !lost.contains('\x1b'), "{lost}");
        screen(&Picture::default(), 200, 24);
    }
}
