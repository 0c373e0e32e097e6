//! `mandate status`: how the orchestrator and its peers do.

use super::{
    context::Context,
    failure::{Exit, Failure},
    output::{Cell, Paint, Style, Table},
};
use crate::views::ReadyView;

/// Shows it; not ready is [`Exit::OperationFailed`], so that scripts can wait for it.
pub async fn run(context: &Context) -> Result<Exit, Failure> {
    let ready = context.client()?.ready().await.map_err(|e| context.client_failure(e))?;
    context.ui.show(&ready, |style| render(&ready, style))?;
    Ok(if ready.ready { Exit::Ok } else { Exit::OperationFailed })
}

fn render(view: &ReadyView, style: Style) -> String {
    let mut table = Table::new(&["PART", "STATE", "FOUND"], "no parts");
    for c in &view.components {
        let (paint, state) = match (c.ready, c.optional) {
            (true, _) => (Paint::Green, "ready"),
            (false, true) => (Paint::Yellow, "degraded"),
            (false, false) => (Paint::Red, "not ready"),
        };
        table.row([Cell::new(Paint::Cyan, &c.name), Cell::new(paint, state), (&c.detail).into()]);
    }
    let whole = match (view.ready, view.phase.as_str()) {
        (true, _) => style.paint(Paint::Green, "ready"),
        (false, "draining") => style.paint(Paint::Yellow, "draining: nothing new is taken"),
        (false, _) => style.paint(Paint::Red, "not ready"),
    };
    format!("mandate {}: {whole}\n\n{}", style.paint(Paint::Plain, &view.version), table.render(style))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::ComponentView;

    #[test]
    fn golden() {
        let part = |name: &str, ready, optional, detail: &str| ComponentView {
            name: name.into(),
            ready,
            optional,
            detail: detail.into(),
            values: Default::default(),
        };
        let view = ReadyView {
            ready: true,
            phase: "serving".into(),
            version: "0.1.0".into(),
            components: vec![
                part("journal", true, false, "a commit reached the disk"),
                part("ledger", false, true, "no answer within 3 s"),
                part("clock", false, false, "9 s behind"),
            ],
        };
        assert_eq!(
            render(&view, Style { color: false, unicode: false }),
            "mandate 0.1.0: ready\n\n\
             PART     STATE      FOUND\n\
             journal  ready      a commit reached the disk\n\
             ledger   degraded   no answer within 3 s\n\
             clock    not ready  9 s behind\n"
        );
    }
}
