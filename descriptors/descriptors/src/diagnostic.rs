//! What is wrong with a descriptor, where, and what to do about it.

use std::fmt;

use serde::Serialize;

use crate::yaml::Mark;

/// More would only scroll the first ones off the screen.
pub const MAX_DIAGNOSTICS: usize = 200;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The standard or a peer wants it otherwise, or Mandate does not deploy it (`NOT_DEPLOYABLE`, `UNSUPPORTED`).
    Warning,
    /// The descriptor is wrong: OSM refuses it, or it cannot mean what it says.
    Error,
}

/// What kind of finding it is; stable names, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// Not YAML.
    YamlSyntax,
    /// Larger, deeper or with more aliases than a descriptor needs.
    YamlBounds,
    /// YAML that two readers read differently: the same key twice, a key that is no text, a tag, a merge key.
    YamlAmbiguous,
    /// A good document of a kind that is not read here: TOSCA, pre-SOL006, NST, KNF, or the other descriptor.
    Unsupported,
    /// A key that SOL006 and OSM's augments do not have.
    UnknownKey,
    /// A mapping where a list or a value belongs, or the like.
    WrongType,
    /// A value outside its type, range or enumeration.
    BadValue,
    /// A list item without its key.
    MissingKey,
    /// Two list items with the same key.
    Duplicate,
    /// A node that YANG calls mandatory and OSM does not enforce.
    MissingMandatory,
    /// A reference to something that is not there.
    DanglingReference,
    /// A list, value or connection that is defined and that nothing uses.
    Unused,
    /// Statements of which only one can hold.
    Conflict,
    /// Hardware or roles that a management network does not go together with.
    ManagementNetwork,
    /// A node of another vendor's module: kept, not read.
    ForeignAugment,
    /// Nothing that Mandate could deploy; as a warning, something that OSM deploys and Mandate does not.
    NotDeployable,
    /// A scaling aspect that adds nothing, or more than the profile allows.
    Scaling,
    /// Accepted and not acted upon by Mandate.
    Ignored,
    /// A placeholder that `pack` fills in.
    Placeholder,
    /// The day-0 file does not fit the VDU.
    Day0,
    /// A file of the package is missing, unused or not what it is said to be.
    File,
    /// The package itself: damaged, beyond a bound, or with an entry that no package may have.
    Archive,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One finding. As JSON it has `severity`, `code`, `path`, `line`, `column`, `message` and `hint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The kind of finding.
    pub code: Code,
    /// The file, as the caller named it.
    #[serde(skip)]
    pub file: String,
    /// The node, as a JSON pointer (`/vnfd/vdu/0/name`); empty for the document. In another file of the package than
    /// its descriptor: that file's path, `#`, and the pointer (`cloud_init/vfw.cfg#/mandate`).
    pub path: String,
    /// Line, counted from 1.
    pub line: u32,
    /// Column in characters, counted from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do, if more can be said than "correct it".
    pub hint: Option<String>,
    /// Whether OSM's northbound interface refuses it too (4xx); what it lets through is found here only.
    #[serde(skip)]
    pub refused_by_osm: bool,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        write!(f, "{}:{}:{}: {severity}[{}]", self.file, self.line, self.column, self.code)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl Diagnostic {
    /// Whether there can be no value of the model beside it: an error, or something that Mandate does not deploy.
    #[must_use]
    pub fn prevents_deployment(&self) -> bool {
        self.severity == Severity::Error || matches!(self.code, Code::NotDeployable | Code::Unsupported)
    }

    /// Adds what to do about it.
    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Notes that OSM refuses it too.
    pub(crate) fn osm(&mut self) -> &mut Self {
        self.refused_by_osm = true;
        self
    }
}

/// Collects the findings of one file.
pub(crate) struct Lint {
    file: String,
    out: Vec<Diagnostic>,
    dropped: Diagnostic,
}

impl Lint {
    pub(crate) fn new(file: &str) -> Self {
        let dropped = blank(file);
        Self { file: file.to_owned(), out: Vec::new(), dropped }
    }

    pub(crate) fn error(
        &mut self,
        code: Code,
        path: &str,
        at: Mark,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.push(Severity::Error, code, path, at, message.into())
    }

    pub(crate) fn warning(
        &mut self,
        code: Code,
        path: &str,
        at: Mark,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.push(Severity::Warning, code, path, at, message.into())
    }

    /// Errors always count; warnings beyond [`MAX_DIAGNOSTICS`] are dropped, and so are errors beyond twice that.
    fn push(
        &mut self,
        severity: Severity,
        code: Code,
        path: &str,
        at: Mark,
        message: String,
    ) -> &mut Diagnostic {
        let file = self.file.clone();
        let (line, column) = (at.line, at.column);
        let it =
            Diagnostic { severity, code, path: path.to_owned(), line, column, message, file, ..blank("") };
        let room = if severity == Severity::Error { MAX_DIAGNOSTICS * 2 } else { MAX_DIAGNOSTICS };
        if self.out.len() >= room {
            self.dropped = it;
            return &mut self.dropped;
        }
        let index = self.out.len();
        self.out.push(it);
        &mut self.out[index]
    }

    /// Whether a finding keeps a descriptor from being a value of the model.
    pub(crate) fn prevents_deployment(&self) -> bool {
        self.out.iter().any(Diagnostic::prevents_deployment)
    }

    /// Whether nothing more is kept: hints need not be looked up any more.
    pub(crate) fn is_full(&self) -> bool {
        self.out.len() >= MAX_DIAGNOSTICS * 2
    }

    /// In the order of the document.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.out.sort_by_key(|d| (d.line, d.column));
        for d in &mut self.out {
            one_line(&mut d.path);
            one_line(&mut d.message);
            if let Some(hint) = &mut d.hint {
                one_line(hint);
            }
        }
        self.out
    }
}

/// Names and values are repeated as they stand in the file; what would end the line or steer a terminal is escaped.
fn one_line(text: &mut String) {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(bad) {
        *text = text
            .chars()
            .map(|c| if bad(c) { c.escape_default().to_string() } else { c.to_string() })
            .collect();
    }
}

fn blank(file: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: Code::YamlSyntax,
        file: file.to_owned(),
        path: String::new(),
        line: 1,
        column: 1,
        message: String::new(),
        hint: None,
        refused_by_osm: false,
    }
}

/// Whether any of them is an error.
#[must_use]
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}
