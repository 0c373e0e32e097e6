//! `mandate plan`: what would be done about an intent if it were approved now, and why there.

use std::path::{Path, PathBuf};

use clap::Args;
use ledger_contract::{Intent, intent::INTENT_PAYLOAD};
use trust::Envelope;

use super::{
    context::Context,
    failure::{Exit, Failure},
    files, intent,
    output::{Cell, Paint, Style, Table},
};
use crate::views::{PlacementView, PlanView, TableView};

/// Largest file: an intent in base64 with its signatures.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A dry run.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The intent, signed or not
    file: PathBuf,
    /// Also what Z is made of, the reason against every other site, and what the policy demands of one (attestation, TEE)
    #[arg(long)]
    explain: bool,
}

/// Runs the command; what cannot be planned is an answer, with exit code 1.
pub async fn run(context: &Context, args: &PlanArgs) -> Result<Exit, Failure> {
    let intent = of(&args.file)?;
    let plan = context.client()?.plan(&intent).await.map_err(|e| context.client_failure(e))?;
    context.ui.show(&plan, |style| render(&plan, args.explain, style))?;
    Ok(if plan.feasible { Exit::Ok } else { Exit::Refused })
}

/// From the document that `intent new` wrote, or the envelope that `intent sign` wrote.
fn of(path: &Path) -> Result<Intent, Failure> {
    let bytes = files::read(path, MAX_FILE_BYTES)?;
    let payload = match Envelope::from_json(&bytes) {
        Ok(envelope) if envelope.payload_type == INTENT_PAYLOAD => envelope.payload,
        Ok(other) => {
            let detail = format!("{}: payload type `{}`", path.display(), other.payload_type);
            return Err(Failure::usage("NOT_AN_INTENT", "Not an intent", detail)
                .hint("name what `mandate intent new` or `mandate intent sign` wrote"));
        }
        Err(_) => bytes,
    };
    intent::parse(path, &payload)
}

fn render(plan: &PlanView, explain: bool, style: Style) -> String {
    let mut out = match plan.feasible {
        true => format!(
            "{} {} of {}: {} steps\n",
            style.check(true),
            style.paint(Paint::Bold, &plan.action),
            style.paint(Paint::Cyan, &plan.ns_instance_id),
            plan.steps.len()
        ),
        false => format!(
            "{} {} of {}: {} {}\n",
            style.check(false),
            style.paint(Paint::Bold, &plan.action),
            style.paint(Paint::Cyan, &plan.ns_instance_id),
            style.paint(Paint::Red, plan.code.as_deref().unwrap_or_default()),
            style.paint(Paint::Plain, plan.detail.as_deref().unwrap_or_default()),
        ),
    };
    if !plan.steps.is_empty() {
        out.push_str(&format!("\n{}", steps(plan).render(style)));
    }
    if let Some(placement) = &plan.placement {
        // Why nothing has a place is said already.
        if plan.feasible {
            out.push_str(&placed(placement, style));
        }
        out.extend(placement.tables.iter().filter(|_| explain).map(|table| explained(table, style)));
    }
    out.extend(plan.demands.iter().filter(|_| explain).map(|table| explained(table, style)));
    out
}

fn steps(plan: &PlanView) -> Table {
    let mut table = Table::new(&[">STEP", "WHAT", "SITE", "AFTER", "TAKEN BACK BY"], "");
    for s in &plan.steps {
        let needs: Vec<String> = s.needs.iter().map(u32::to_string).collect();
        table.row([
            s.id.into(),
            (&s.what).into(),
            Cell::new(Paint::Cyan, &s.site),
            Cell::new(Paint::Dim, needs.join(", ")),
            Cell::new(Paint::Dim, s.undo.as_deref().unwrap_or("-")),
        ]);
    }
    table
}

fn placed(placement: &PlacementView, style: Style) -> String {
    let mut sites = Table::new(&["MEMBER", "SITE"], "no member has a place");
    for (member, site) in &placement.sites {
        sites.row([member.into(), Cell::new(Paint::Green, site)]);
    }
    format!("\n{}\n{}", style.paint(Paint::Bold, &placement.headline), sites.render(style))
}

fn explained(table: &TableView, style: Style) -> String {
    format!("\n{}\n{}", style.paint(Paint::Bold, &table.title), rows(table).render(style))
}

fn rows(table: &TableView) -> Table {
    let mut out = Table::titled(&table.columns);
    for row in &table.rows {
        out.row(row.iter().map(|cell| {
            let paint = match cell.as_str() {
                "cannot" => Paint::Red,
                c if c.starts_with('+') => Paint::Yellow,
                _ => Paint::Plain,
            };
            Cell::new(paint, cell)
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::PlannedStepView;

    const PLAIN: Style = Style { color: false, unicode: false };

    fn plan() -> PlanView {
        PlanView {
            ns_instance_id: "ns-1".into(),
            action: "deploy".into(),
            feasible: true,
            code: None,
            detail: None,
            site: Some("edge-a".into()),
            steps: vec![PlannedStepView {
                id: 1,
                what: "make link a".into(),
                action: "ensure network".into(),
                object: "ns-1/a".into(),
                site: "edge-a".into(),
                needs: vec![],
                undo: Some("remove network".into()),
            }],
            placement: Some(PlacementView {
                sites: [("fw".to_owned(), "edge-a".to_owned())].into(),
                headline: "Z = 7: nothing is cheaper (2 nodes searched)".into(),
                tables: vec![TableView {
                    title: "Why not elsewhere".into(),
                    columns: vec!["member".into(), "Z".into()],
                    rows: vec![vec!["fw".into(), "+3".into()]],
                }],
            }),
            demands: Some(TableView {
                title: "The policy demands".into(),
                columns: vec!["what".into(), "edge-a".into()],
                rows: vec![vec!["TEE".into(), "no: none".into()]],
            }),
        }
    }

    #[test]
    fn golden_plan() {
        let brief = "+ deploy of ns-1: 1 steps\n\n\
                     STEP  WHAT         SITE    AFTER  TAKEN BACK BY\n   \
                     1  make link a  edge-a         remove network\n\n\
                     Z = 7: nothing is cheaper (2 nodes searched)\n\
                     MEMBER  SITE\nfw      edge-a\n";
        assert_eq!(render(&plan(), false, PLAIN), brief);
        let explained = render(&plan(), true, PLAIN);
        let demands = "\nThe policy demands\nWHAT  EDGE-A\nTEE   no: none\n";
        assert_eq!(explained, format!("{brief}\nWhy not elsewhere\nMEMBER  Z\nfw      +3\n{demands}"));
        let refused = PlanView {
            feasible: false,
            code: Some("NO_SITE".into()),
            detail: Some("no site can take `fw`".into()),
            steps: vec![],
            ..plan()
        };
        let said = "x deploy of ns-1: NO_SITE no site can take `fw`\n";
        assert_eq!(render(&refused, false, PLAIN), said, "once");
        assert_eq!(
            render(&refused, true, PLAIN),
            format!("{said}\nWhy not elsewhere\nMEMBER  Z\nfw      +3\n{demands}")
        );
    }
}
