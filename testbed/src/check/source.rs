//! Source as tokens: comments and strings cannot deceive, nor does formatting matter.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use anyhow::Context as _;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Finding;
use crate::workspace::Metadata;

/// The only crates with unsafe code.
const UNSAFE_ALLOWED: &[&str] = &["dpdk-sys", "dpdk"];

/// Crates without I/O, async, clock and randomness: time, ids and nonces are arguments.
const PURE: &[&str] = &[
    "trust",
    "attestation",
    "dataplane-control",
    "ledger-contract",
    "fabric",
    "supply",
    "descriptors",
    "lcm",
    "dataplane-engine",
];

/// Where a pure crate may read files all the same: a package's source directory.
const MAY_READ_FILES: &[&str] = &["descriptors/descriptors/src/dir.rs"];

/// What a pure crate must not name. Types such as `std::net::IpAddr` are values and fine.
const IMPURE_PATHS: &[&str] = &[
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "std::time::SystemTime",
    "std::time::Instant",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::collections::hash_map::RandomState",
];
/// What a pure crate must not depend on.
const IMPURE_CRATES: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "futures",
    "reqwest",
    "hyper",
    "axum",
    "nix",
    "libc",
    "rusqlite",
    "getrandom",
    "rand",
    "fastrand",
    "chrono",
    "time",
];
/// Crates that are drivers; only the orchestrator's wiring may name them.
const DRIVERS: &[&str] = &["vim_host", "vim_openstack", "vim_kubevirt", "ledger_fabric"];

/// A file of one of our crates, without its test modules.
pub struct Source {
    krate: String,
    /// For messages: from the workspace's root.
    path: String,
    tokens: Vec<Token>,
}

/// An identifier or a path (`std::fs`), and its line.
struct Token {
    text: String,
    line: usize,
}

/// Every `src/**/*.rs` and `build.rs` of our crates.
pub fn read(metadata: &Metadata, root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for package in metadata.members() {
        let dir = package.manifest_path.parent().context("a manifest is in a directory")?;
        let mut files = Vec::new();
        collect(&dir.join("src"), &mut files)?;
        files.extend(Some(dir.join("build.rs")).filter(|p| p.is_file()));
        for file in files {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let path = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            let tokens = tokens(&text).with_context(|| format!("{path} is no Rust"))?;
            sources.push(Source { krate: package.name.clone(), path, tokens });
        }
    }
    Ok(sources)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

fn tokens(text: &str) -> anyhow::Result<Vec<Token>> {
    let stream = TokenStream::from_str(text).map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut out = Vec::new();
    walk(stream, &mut out);
    Ok(out)
}

/// Identifiers as they come; `a::b::{c, d::e}` as `a::b::c` and `a::b::d::e`.
fn walk(stream: TokenStream, out: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut i = 0;
    while i < trees.len() {
        match &trees[i] {
            TokenTree::Punct(p) if p.as_char() == '#' && is_cfg_test(trees.get(i + 1)) => {
                i = after_item(&trees, i + 2);
                continue;
            }
            TokenTree::Ident(_) => {
                i = path(&trees, i, "", out);
                continue;
            }
            TokenTree::Group(g) => walk(g.stream(), out),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        i += 1;
    }
}

/// Reads the path that begins at `i`; returns the index after it.
fn path(trees: &[TokenTree], mut i: usize, prefix: &str, out: &mut Vec<Token>) -> usize {
    let mut text = prefix.to_owned();
    let mut line = 0;
    loop {
        match trees.get(i) {
            Some(TokenTree::Ident(ident)) => {
                if !text.is_empty() {
                    text.push_str("::");
                }
                text.push_str(&ident.to_string());
                line = ident.span().start().line;
                i += 1;
            }
            Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = g.stream().into_iter().collect();
                let mut at = 0;
                while at < inner.len() {
                    at = if matches!(inner[at], TokenTree::Ident(_)) {
                        path(&inner, at, &text, out)
                    } else {
                        at + 1
                    };
                }
                return i + 1;
            }
            _ => break,
        }
        if !(is_colon(trees.get(i)) && is_colon(trees.get(i + 1))) {
            break;
        }
        i += 2;
    }
    out.push(Token { text, line });
    i
}

fn is_colon(tree: Option<&TokenTree>) -> bool {
    matches!(tree, Some(TokenTree::Punct(p)) if p.as_char() == ':')
}

fn is_cfg_test(tree: Option<&TokenTree>) -> bool {
    matches!(tree, Some(TokenTree::Group(g)) if g.stream().to_string().replace(' ', "") == "cfg(test)")
}

/// The index after the item that begins at `i`.
fn after_item(trees: &[TokenTree], i: usize) -> usize {
    let ends = |t: &TokenTree| match t {
        TokenTree::Group(g) => g.delimiter() == Delimiter::Brace,
        TokenTree::Punct(p) => p.as_char() == ';',
        _ => false,
    };
    trees.iter().skip(i).position(ends).map_or(trees.len(), |n| i + n + 1)
}

/// `unsafe` outside the two crates that may.
pub fn unsafe_code(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for s in sources.iter().filter(|s| !UNSAFE_ALLOWED.contains(&s.krate.as_str())) {
        for t in s.tokens.iter().filter(|t| t.text == "unsafe") {
            findings.push(Finding::new(
                format!("{}:{}", s.path, t.line),
                format!("unsafe code; only {} may have it", UNSAFE_ALLOWED.join(" and ")),
            ));
        }
    }
    findings
}

/// What pure crates name and depend on.
pub fn purity(metadata: &Metadata, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for s in sources.iter().filter(|s| PURE.contains(&s.krate.as_str())) {
        for t in &s.tokens {
            if let Some(bad) = IMPURE_PATHS.iter().find(|bad| is_or_below(&t.text, bad)) {
                if *bad == "std::fs" && MAY_READ_FILES.contains(&s.path.as_str()) {
                    continue;
                }
                findings.push(Finding::new(
                    format!("{}:{}", s.path, t.line),
                    format!("{bad} in the pure crate {}: take what it gives as an argument", s.krate),
                ));
            }
        }
    }
    for p in metadata.members().filter(|p| PURE.contains(&p.name.as_str())) {
        let normal = p.dependencies.iter().filter(|d| d.kind.is_none());
        for d in normal.filter(|d| IMPURE_CRATES.contains(&d.name.as_str())) {
            findings.push(Finding::new(&p.name, format!("is pure and must not depend on {}", d.name)));
        }
    }
    findings
}

fn is_or_below(path: &str, bad: &str) -> bool {
    path.strip_prefix(bad).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Concrete drivers named outside the orchestrator's wiring.
pub fn drivers(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for s in sources.iter().filter(|s| s.krate == "orchestrator" && !s.path.contains("/wiring")) {
        for t in &s.tokens {
            if let Some(driver) = DRIVERS.iter().find(|d| is_or_below(&t.text, d)) {
                findings.push(Finding::new(
                    format!("{}:{}", s.path, t.line),
                    format!("{driver} is named; only the wiring may name a concrete driver"),
                ));
            }
        }
    }
    findings
}

/// Every crate inherits the lint table, but for the two that must allow unsafe code.
pub fn lints(metadata: &Metadata) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for p in metadata.members().filter(|p| !UNSAFE_ALLOWED.contains(&p.name.as_str())) {
        let text = fs::read_to_string(&p.manifest_path)?;
        let manifest: toml::Table = toml::from_str(&text)?;
        let inherits = manifest.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            findings.push(Finding::new(
                format!("{}/Cargo.toml", p.name),
                "has no `[lints] workspace = true`: the workspace's lints do not apply to it",
            ));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        tokens(source).unwrap().into_iter().map(|t| t.text).collect()
    }

    #[test]
    fn use_trees_are_unfolded() {
        let found = texts("use std::{fs::{self, File}, io, time::Instant as Now};");
        for wanted in ["std::fs::self", "std::fs::File", "std::io", "std::time::Instant"] {
            assert!(found.iter().any(|f| f == wanted), "{wanted}: {found:?}");
        }
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        let source = r##"
            //! unsafe
            /* std::fs */ fn f() -> &'static str { "unsafe" }
            #[cfg(test)]
            mod tests { use std::fs; fn g() { unsafe {} } }
            #[cfg(test)]
            use std::process;
            fn h() { let x = r#"unsafe"#; }
        "##;
        let found = texts(source);
        assert!(!found.iter().any(|f| f == "unsafe" || f.starts_with("std::")), "{found:?}");
        assert!(found.iter().any(|f| f == "h"), "what comes after a test module is read: {found:?}");
    }

    #[test]
    fn a_prefix_is_not_the_path() {
        assert!(is_or_below("std::fs::File", "std::fs") && is_or_below("std::fs", "std::fs"));
        assert!(
            !is_or_below("std::fsx", "std::fs") && !is_or_below("std::net::IpAddr", "std::net::TcpStream")
        );
    }
}
