//! `mandate package lint`: the verdict on a descriptor, a source directory or a package, with the place in the source.
//!
//! Reads no more of a file than its kind may have, and of a directory only what a verdict depends on. Whatever can be
//! read gets a verdict (exit code 0 or 1); only what cannot be read fails (2). Tests: below and `tests/cli.rs`.

use std::{
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, renderer::DecorStyle};
use descriptors::{
    Diagnostic, Severity,
    dir::{self, DirError},
    lint::{self, MAX_DESCRIPTOR_BYTES, Report},
    package::MAX_PACKAGE_BYTES,
};

use super::{
    context::Context,
    failure::{Exit, Failure, chain},
    output::{Paint, Style, printable},
};

/// Width of an excerpt, characters.
const WIDTH: usize = 140;
/// Characters of a line handed to the renderer; a finding further to the right is named without its line.
const MAX_LINE: usize = 2000;
/// What `--help` says beyond the argument.
pub const AFTER_HELP: &str = "\
Exit codes: 0 accepted (warnings do not reject), 1 rejected, 2 it cannot be read.
--json gives {\"verdict\":\"accept|reject\",\"dialect\",\"diagnostics\":[{\"severity\",\"code\",\"path\",\"line\",\"column\",
\"message\",\"hint\"}]}; the codes are listed in docs/lint.md.";

/// Runs the command.
pub fn run(context: &Context, path: &Path) -> Result<Exit, Failure> {
    let report = report(path)?;
    context.ui.show(&report, |style| render(path, &report, style))?;
    Ok(if report.is_accepted() { Exit::Ok } else { Exit::Refused })
}

fn report(path: &Path) -> Result<Report, Failure> {
    if path == Path::new("-") {
        return stream(std::io::stdin().lock(), path, "<stdin>")
            .map(|bytes| lint::bytes(&bytes, "<stdin>", None));
    }
    let name = path.display().to_string();
    let meta = std::fs::metadata(path).map_err(|e| Failure::unreadable(path, &e))?;
    if meta.is_dir() {
        return directory(path, &name);
    }
    if !meta.is_file() {
        // Opening a pipe may wait for ever, and a device may never end.
        let detail = format!("{name}: neither a file nor a directory");
        return Err(Failure::usage("UNREADABLE", "Cannot read a file", detail)
            .hint("for a stream, name `-` and pipe it into the command"));
    }
    let bytes =
        File::open(path).map_err(|e| Failure::unreadable(path, &e)).and_then(|f| stream(f, path, &name))?;
    Ok(lint::bytes(&bytes, &name, Some(&dir::beside(path))))
}

/// A package up to its bound, a descriptor up to its own; one byte more says that there is more.
fn stream(mut from: impl Read, path: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let failed = |e: std::io::Error| {
        if name.starts_with('<') {
            Failure::usage("UNREADABLE", "Cannot read", format!("{name}: {e}")).hint("pipe a file in")
        } else {
            Failure::unreadable(path, &e)
        }
    };
    from.by_ref().take(4).read_to_end(&mut bytes).map_err(failed)?;
    let limit = if lint::is_package(&bytes) { MAX_PACKAGE_BYTES } else { MAX_DESCRIPTOR_BYTES as u64 };
    from.take(limit + 1 - bytes.len() as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn directory(path: &Path, name: &str) -> Result<Report, Failure> {
    match dir::outline(path) {
        Ok(source) => Ok(lint::source(&source)),
        Err(e @ DirError::Io { .. }) => {
            Err(Failure::usage("UNREADABLE", "Cannot read a package's source", chain(&e))
                .hint("run it as a user who may read every file of it"))
        }
        Err(e) => Ok(lint::unacceptable(name, &e.to_string())),
    }
}

// ---- for people

fn render(path: &Path, report: &Report, style: Style) -> String {
    let renderer = if style.color { Renderer::styled() } else { Renderer::plain() };
    let decor = if style.unicode { DecorStyle::Unicode } else { DecorStyle::Ascii };
    let renderer = renderer.decor_style(decor).term_width(WIDTH);
    let mut out = String::new();
    for d in &report.diagnostics {
        out.push_str(&excerpt(d, report.sources.get(&d.file), &renderer));
        out.push_str("\n\n");
    }
    out.push_str(&summary(path, report, style));
    out
}

fn summary(path: &Path, report: &Report, style: Style) -> String {
    let errors = report.diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let (paint, word) = match report.is_accepted() {
        true => (Paint::Green, "accepted"),
        false => (Paint::Red, "rejected"),
    };
    let dialect = report.dialect.map_or_else(|| "unknown descriptor".to_owned(), |d| d.to_string());
    let elsewhere = report.is_accepted() && !report.is_deployable();
    format!(
        "{} {}: {dialect}, {errors} errors, {} warnings{}\n",
        printable(&path.display().to_string()),
        style.paint(paint, word),
        report.diagnostics.len() - errors,
        if elsewhere { "; OSM deploys it, Mandate does not" } else { "" }
    )
}

/// As rustc shows it: what, where, the line with a caret, and what to do.
fn excerpt(d: &Diagnostic, source: Option<&String>, renderer: &Renderer) -> String {
    let level = match d.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let (title, code) = (printable(&d.message), d.code.to_string());
    let line = source.and_then(|s| s.lines().nth(usize::try_from(d.line).ok()?.checked_sub(1)?));
    let (node, file) = (printable(&d.path), printable(&d.file));
    let (line_number, column) =
        (usize::try_from(d.line).unwrap_or(usize::MAX), usize::try_from(d.column).unwrap_or(usize::MAX));
    let shown = line.and_then(|l| marked(l, column));
    let mut group = Group::with_title(level.primary_title(&title).id(&code));
    if let Some((text, span)) = &shown {
        let mark = AnnotationKind::Primary.span(span.clone());
        let mark = if node.is_empty() { mark } else { mark.label(&node) };
        group = group.element(Snippet::source(text).line_start(line_number).path(&file).annotation(mark));
    } else {
        group = group.element(Origin::path(&file).line(line_number).char_column(column));
    }
    let hint = d.hint.as_deref().map(printable).filter(|h| !h.is_empty());
    if let Some(hint) = &hint {
        group = group.element(Level::HELP.message(hint.as_str()));
    }
    if d.refused_by_osm {
        group = group.element(Level::NOTE.message("OSM refuses it too"));
    }
    renderer.render(&[group])
}

/// A line and the bytes of the word that begins at a column (from 1), if there is something to see. What could drive a
/// terminal is replaced, character by character.
fn marked(line: &str, column: usize) -> Option<(String, Range<usize>)> {
    let column = column.checked_sub(1).filter(|c| *c < MAX_LINE)?;
    let shown = line.chars().take(MAX_LINE);
    let text: String =
        shown.map(|c| if c == '\t' { " ".into() } else { printable(&c.to_string()) }).collect();
    let (start, first) = text.char_indices().nth(column)?;
    let rest = text.get(start..)?;
    let word = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}')).unwrap_or(rest.len());
    let word = rest.get(..word).map_or(0, |w| w.trim_end_matches(':').len());
    Some((text, start..start + word.max(first.len_utf8())))
}

/// The argument of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct LintArgs {
    /// YAML file, directory or package; `-` is stdin
    pub path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { color: false, unicode: false };

    fn rendered(text: &[u8], style: Style) -> String {
        render(Path::new("d.yaml"), &lint::bytes(text, "d.yaml", None), style)
    }

    #[test]
    fn a_finding_is_shown_in_its_line() {
        let text = b"vnfd:\n  id: x\n  prodct-name: x\n  vdu: []\n  df: [{id: d}]\n";
        let shown = rendered(text, PLAIN);
        let expected = "\
error[UNKNOWN_KEY]: unknown key `prodct-name`
 --> d.yaml:3:3
  |
3 |   prodct-name: x
  |   ^^^^^^^^^^^ /vnfd/prodct-name
  |
  = help: did you mean `product-name`?
  = note: OSM refuses it too
";
        assert!(shown.contains(expected), "{shown}");
        assert!(shown.ends_with("d.yaml rejected: sol006-vnfd, 1 errors, 5 warnings\n"), "{shown}");
        assert!(!shown.contains('\x1b'));
        let coloured = rendered(text, Style { color: true, unicode: true });
        assert!(coloured.contains("\x1b["), "{coloured}");
    }

    #[test]
    fn a_hostile_line_stays_short_and_harmless() {
        let long = format!("vnfd: {{\"\u{1b}]0;x\u{7}\u{202e}{}\": 1, id: x}}\n", "é".repeat(100_000));
        let shown = rendered(long.as_bytes(), PLAIN);
        assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown}");
        assert!(shown.lines().all(|l| l.chars().count() < 400), "{shown}");
        assert_eq!(marked(&"a".repeat(5000), 3000), None);
        assert_eq!(marked("", 9), None);
        assert_eq!(marked("\tü: x", 2).unwrap().1, 1..3);
    }
}
