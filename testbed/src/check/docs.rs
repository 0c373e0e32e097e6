//! The documents show commands; each must be one that the programs accept.
//!
//! Every line of a `sh` block that begins with `cargo testbed` or `mandate` is parsed by the real command line (with
//! `--help` at its end, so that nothing is done).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser as _;

use super::Finding;
use crate::{cli::Cli, command, workspace::Metadata};

const HELP_LIMIT: Duration = Duration::from_secs(10);

/// A command that a document shows.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    place: String,
    words: Vec<String>,
}

/// What does not exist; and why the commands of `mandate` could not be tried, if so.
pub fn check(root: &Path, metadata: &Metadata) -> anyhow::Result<(Vec<Finding>, Option<String>)> {
    let mut shown = Vec::new();
    for file in documents(root)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        shown.extend(commands(&name, &text));
    }
    let mandate = metadata.target_directory.join("debug").join("mandate");
    let mut findings = Vec::new();
    let mut untried = 0;
    let mut known = BTreeMap::new();
    for s in shown {
        let refused = match s.words[0].as_str() {
            "cargo" => testbed(&s.words[1..]),
            _ if mandate.is_file() => {
                known.entry(s.words.clone()).or_insert_with(|| program(&mandate, &s.words[1..])).clone()
            }
            _ => {
                untried += 1;
                None
            }
        };
        if let Some(why) = refused {
            findings.push(Finding::new(s.place, format!("`{}`: {why}", s.words.join(" "))));
        }
    }
    let skipped = (untried > 0)
        .then(|| format!("{untried} commands of `mandate`: build it first, `cargo build -p orchestrator`"));
    Ok((findings, skipped))
}

pub(super) fn documents(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = [root.join("README.md")].into_iter().filter(|p| p.is_file()).collect();
    let mut dirs = vec![root.join("docs")];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn commands(name: &str, text: &str) -> Vec<Shown> {
    let mut out = Vec::new();
    let mut inside = false;
    let mut lines = text.lines().enumerate();
    while let Some((i, line)) = lines.next() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && matches!(language, "sh" | "bash" | "console");
            continue;
        }
        if !inside {
            continue;
        }
        let mut whole = line.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            let Some((_, next)) = lines.next() else { break };
            whole.push_str(next.trim());
        }
        let words = words(whole.strip_prefix("$ ").unwrap_or(&whole));
        let ours = words.first().is_some_and(|w| w == "mandate")
            || words.len() > 1 && words[0] == "cargo" && words[1] == "testbed";
        if ours {
            out.push(Shown { place: format!("{name}:{}", i + 1), words });
        }
    }
    out
}

/// The words of a simple command: quotes are removed, what comes after a pipe, redirection or comment is not it.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let (mut quote, mut begun) = (None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None, '|' | '>' | '<' | '&' | ';') => break,
            (None, '#') if word.is_empty() => break,
            (None, c) if c.is_whitespace() => {
                if begun {
                    out.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (_, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun && !word.is_empty() {
        out.push(word);
    }
    // `VARIABLE=value command`
    let first = out.iter().position(|w| !w.contains('=')).unwrap_or(out.len());
    out.split_off(first)
}

fn testbed(arguments: &[String]) -> Option<String> {
    let line = arguments.iter().map(String::as_str).chain(["--help"]);
    match Cli::try_parse_from(line) {
        Err(e) if e.kind() == clap::error::ErrorKind::DisplayHelp => None,
        Err(e) => Some(first_line(&e.to_string())),
        Ok(_) => None,
    }
}

fn program(program: &Path, arguments: &[String]) -> Option<String> {
    let mut c = Command::new(program);
    c.args(arguments).arg("--help").env("NO_COLOR", "1");
    match command::capture(&mut c, HELP_LIMIT) {
        Ok(out) if out.status.success() => None,
        Ok(out) => Some(first_line(&out.stderr)),
        Err(e) => Some(format!("{e:#}")),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("refused").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_sh_blocks_only() {
        let text = "mandate in prose\n```sh\n# a comment\nA=1 mandate init --tpm 'a b' \\\n  --json | jq .\nls\n```\n```json\nmandate no\n```\n\
                    ```console\n$ cargo testbed test # all\n```\n";
        let found: Vec<(String, String)> =
            commands("x.md", text).into_iter().map(|s| (s.place, s.words.join(","))).collect();
        let wanted = [("x.md:4", "mandate,init,--tpm,a b,--json"), ("x.md:12", "cargo,testbed,test")];
        assert_eq!(found, wanted.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn a_command_that_does_not_exist_is_found() {
        let refused = |line: &str| testbed(&words(line)[1..]);
        assert_eq!(refused("cargo testbed up tpm"), None);
        assert!(refused("cargo testbed up moon").is_some_and(|w| w.contains("moon")));
        assert!(refused("cargo testbed test --no-such-option").is_some());
    }
}
