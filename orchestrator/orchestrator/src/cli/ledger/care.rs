//! Commands on the ledger's directory itself: `fsck`, `backup`, `restore`, `witness …`. None of them needs the
//! orchestrator; backing up and the witnesses work while it runs.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use ledger::{
    LedgerError, backup,
    fsck::{self, Report},
    witness,
};
use trust::witness::WitnessKey;

use super::{
    super::{
        context::Context,
        failure::{Exit, Failure},
        files,
        output::{Cell, Paint, Style, Table, Ui},
    },
    trouble::{Doing, failure},
};

/// Largest cosigned checkpoint read, bytes.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// Commands on the witnesses of the log.
#[derive(Debug, Subcommand)]
pub enum WitnessCommand {
    /// Keep the cosignatures of a witness from now on
    Add {
        /// The witness's public key: name+id+key, of type 4 (cosignature/v1)
        key: String,
    },
    /// Keep no more cosignatures of a witness
    Remove {
        /// Its name
        name: String,
    },
    /// List the witnesses, and what they have cosigned
    List,
    /// Take a checkpoint of this ledger that a witness has cosigned
    Import {
        /// File with the cosigned checkpoint
        file: PathBuf,
    },
}

/// A bar over entries; hidden when nobody looks.
fn bar(ui: &Ui, what: &str) -> ProgressBar {
    if !ui.progress {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0).with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} entries, {eta} left") {
        bar.set_style(style.progress_chars(if ui.err.unicode { "━╸ " } else { "=> " }));
    }
    bar
}

fn progress(bar: &ProgressBar) -> impl FnMut(u64, u64) + '_ {
    |at, of| {
        bar.set_length(of);
        bar.set_position(at);
    }
}

/// `mandate ledger fsck`.
pub fn check(context: &Context, dir: Option<&Path>) -> Result<Exit, Failure> {
    let own = context.home.ledger();
    let report = match dir {
        Some(dir) => checked(context, dir, Doing::CheckDir(dir)),
        None => checked(context, &own, Doing::Own),
    }?;
    context.ui.show(&report, |style| render(&report, style))?;
    Ok(if report.findings.is_empty() { Exit::Ok } else { Exit::Refused })
}

fn checked(context: &Context, dir: &Path, doing: Doing<'_>) -> Result<Report, Failure> {
    let bar = bar(&context.ui, "checking");
    let report = fsck::fsck(dir, progress(&bar));
    bar.finish_and_clear();
    report.map_err(|e| failure(&e, doing))
}

fn render(report: &Report, style: Style) -> String {
    let mut table = Table::new(&["CODE", "FILE", "PLACE", "WHAT IS WRONG", "WHAT TO DO"], "");
    for f in &report.findings {
        table.row([
            Cell::new(Paint::Red, f.code),
            f.file.display().to_string().into(),
            f.place.clone().into(),
            f.problem.clone().into(),
            f.action.into(),
        ]);
    }
    let more = if report.more > 0 { format!("and {} more\n", report.more) } else { String::new() };
    let derived =
        report.derived.map_or_else(|| "no derived state".to_owned(), |n| format!("derived state of {n}"));
    let summary = format!(
        "{}: {} entries, {} decided again, {} tiles, {derived}\nroot {}\n",
        report.ledger, report.entries, report.decided, report.tiles, report.root
    );
    match report.findings.is_empty() {
        true => format!("{summary}{}\n", style.paint(Paint::Green, "nothing is wrong")),
        false => format!("{}{more}{summary}", table.render(style)),
    }
}

/// `mandate ledger backup`.
pub fn backup(context: &Context, to: &Path) -> Result<Exit, Failure> {
    let bar = bar(&context.ui, "copying");
    let own = context.home.ledger();
    let copied = backup::backup(&own, to, progress(&bar));
    bar.finish_and_clear();
    let copied = copied.map_err(|e| failure(&e, Doing::Backup { to }))?;
    let new = match copied.files {
        0 => "nothing is new".to_owned(),
        1 => "1 file is new".to_owned(),
        n => format!("{n} files are new"),
    };
    context.ui.show(&copied, |style| {
        format!(
            "{} {} of {} entries, root {}\n{new}; it holds the log's key: keep it as secret\n",
            style.paint(Paint::Green, "backed up"),
            copied.ledger,
            copied.size,
            copied.root
        )
    })
}

/// `mandate ledger restore`: only what was checked whole.
pub fn restore(context: &Context, from: &Path) -> Result<Exit, Failure> {
    let own = context.home.ledger();
    let doing = Doing::Restore { from, own: &own };
    // Before the backup is checked, which takes its time.
    if std::fs::read_dir(&own).is_ok_and(|mut d| d.next().is_some()) {
        return Err(failure(&LedgerError::Exists { dir: own.clone() }, doing));
    }
    let report = checked(context, from, doing)?;
    if !report.findings.is_empty() {
        context.ui.note(&render(&report, context.ui.err));
        let detail = format!("{}: {} findings", from.display(), report.findings.len());
        return Err(Failure::refused(
            "BACKUP_DAMAGED",
            "The backup is damaged; nothing was restored",
            detail,
        )
        .hint(format!(
            "restore another backup; `mandate ledger fsck --dir {}` says what can be done about this one",
            from.display()
        )));
    }
    let bar = bar(&context.ui, "restoring");
    let copied = backup::restore(from, &own, progress(&bar));
    bar.finish_and_clear();
    let copied = copied.map_err(|e| failure(&e, doing))?;
    context.ui.show(&copied, |style| {
        format!(
            "{} {} of {} entries, root {}\nwhoever verified a later head notices; so does the journal of this home\n",
            style.paint(Paint::Green, "restored"),
            copied.ledger,
            copied.size,
            copied.root
        )
    })
}

/// `mandate ledger witness …`.
pub fn witness(context: &Context, command: WitnessCommand) -> Result<Exit, Failure> {
    let dir = context.home.ledger();
    let failure = |e| failure(&e, Doing::Own);
    match command {
        WitnessCommand::Add { key } => {
            let key = WitnessKey::parse(&key).map_err(|e| {
                Failure::usage("WITNESS_KEY", "Not a witness's key", e)
                    .hint("a key has the form name+id+key; ask the witness for its vkey of cosignature/v1")
            })?;
            witness::add(&dir, key).map_err(failure)?;
        }
        WitnessCommand::Remove { name } => {
            if !witness::remove(&dir, &name).map_err(failure)? {
                return Err(Failure::usage("WITNESS", "No such witness", name)
                    .hint("`mandate ledger witness list` names them"));
            }
        }
        WitnessCommand::List => {}
        WitnessCommand::Import { file } => {
            let note = files::text(&file, MAX_NOTE_BYTES)?;
            witness::import(&dir, &note).map_err(failure)?;
        }
    }
    list(context, &dir)
}

fn list(context: &Context, dir: &Path) -> Result<Exit, Failure> {
    let failure = |e| failure(&e, Doing::Own);
    let keys = witness::list(dir).map_err(failure)?;
    let cosigned = witness::cosigned(dir).map_err(failure)?;
    let size = cosigned.as_deref().and_then(super::super::proof::claimed_size);
    let rows: Vec<_> = keys
        .iter()
        .map(|k| {
            let time = cosigned.as_deref().and_then(|note| k.cosigned(note));
            serde_json::json!({ "name": k.name(), "key": k.to_string(), "cosigned_size": time.and(size), "time": time })
        })
        .collect();
    let document = serde_json::json!({ "witnesses": rows, "checkpoint": cosigned });
    context.ui.show(&document, |style| {
        let mut table = Table::new(
            &["WITNESS", ">ENTRIES", "COSIGNED"],
            "no witnesses; `mandate ledger witness add KEY`",
        );
        for k in &keys {
            let time = cosigned.as_deref().and_then(|note| k.cosigned(note));
            let (entries, when) = match (time, size) {
                (Some(time), Some(size)) => (size.to_string(), time.to_string()),
                _ => ("-".to_owned(), "never".to_owned()),
            };
            table.row([k.name().to_owned().into(), entries.into(), when.into()]);
        }
        table.render(style)
    })
}
