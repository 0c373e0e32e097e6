//! The documents show promises by tests; each such command must choose at least one.
//!
//! A filter that chooses nothing is no error to `cargo test`: nothing fails, and nothing is shown. So every `cargo test`
//! between backticks in the documents is held against the sources of the targets that it names, without compiling them: the
//! package and its targets exist, and each filter is part of the path of a test (`module::function`). What begins with an
//! option or with a package's name goes on with the command before it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{Finding, docs};
use crate::workspace::{Metadata, Package};

/// Options of `cargo test` and of tests that are followed by a value.
const VALUED: [&str; 5] = ["--features", "--target", "--profile", "--test-threads", "--skip"];

/// A `cargo test`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Command {
    packages: Vec<String>,
    /// Kind of target and its name; empty: any of that kind.
    targets: Vec<(&'static str, String)>,
    filters: Vec<String>,
}

/// What chooses no test.
pub fn check(root: &Path, metadata: &Metadata) -> anyhow::Result<Vec<Finding>> {
    let members: BTreeMap<&str, &Package> = metadata.members().map(|p| (p.name.as_str(), p)).collect();
    let mut findings = Vec::new();
    for file in docs::documents(root)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let mut package = None;
        for (line, words) in spans(&text) {
            let Some(command) = command(&words, &members, &mut package) else { continue };
            for why in problems(&command, &members)? {
                findings
                    .push(Finding::new(format!("{name}:{line}"), format!("`{}`: {why}", words.join(" "))));
            }
        }
    }
    Ok(findings)
}

/// What is between backticks outside of blocks, with its line; it may go on in the next.
fn spans(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut inside = false;
    let prose: Vec<&str> = text
        .lines()
        .map(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            if inside || fence { "" } else { line }
        })
        .collect();
    let (mut out, mut line) = (Vec::new(), 1);
    for (i, part) in prose.join("\n").split('`').enumerate() {
        if i % 2 == 1 {
            out.push((line, docs::words(part)));
        }
        line += part.matches('\n').count();
    }
    out
}

/// The command of these words; `package` is that of the one before.
fn command(
    words: &[String],
    members: &BTreeMap<&str, &Package>,
    package: &mut Option<String>,
) -> Option<Command> {
    let mut words = words.iter().map(String::as_str).peekable();
    let mut it = Command::default();
    match words.peek().copied()? {
        "cargo" if words.clone().nth(1) == Some("test") => {
            words.nth(1);
        }
        "--test" | "--lib" | "--bins" if package.is_some() => {}
        name if members.contains_key(name) && words.clone().nth(1).is_some_and(|w| w == "--test") => {
            it.packages.extend(words.next().map(Into::into));
        }
        _ => return None,
    }
    while let Some(word) = words.next() {
        match word {
            "-p" | "--package" => it.packages.extend(words.next().map(Into::into)),
            "--test" => it.targets.push(("test", words.next()?.into())),
            "--bin" => it.targets.push(("bin", words.next()?.into())),
            "--lib" => it.targets.push(("lib", String::new())),
            "--bins" => it.targets.push(("bin", String::new())),
            valued if VALUED.contains(&valued) => drop(words.next()),
            option if option.starts_with('-') => {}
            // `…` and the like.
            filter if filter.chars().all(|c| c.is_alphanumeric() || "_:".contains(c)) => {
                it.filters.push(filter.into());
            }
            _ => {}
        }
    }
    match it.packages.last() {
        Some(last) => *package = Some(last.clone()),
        None => it.packages.extend(package.clone()),
    }
    Some(it)
}

fn problems(command: &Command, members: &BTreeMap<&str, &Package>) -> anyhow::Result<Vec<String>> {
    let mut out = Vec::new();
    let mut tests = Vec::new();
    for name in &command.packages {
        let Some(package) = members.get(name.as_str()) else {
            out.push(format!("there is no package `{name}`"));
            continue;
        };
        for target in &package.targets {
            let is_wanted = |(kind, name): &(&str, String)| {
                target.kind.iter().any(|k| k == kind) && (name.is_empty() || *name == target.name)
            };
            if command.targets.is_empty() || command.targets.iter().any(is_wanted) {
                read(&target.src_path, true, "", &mut tests)?;
            }
        }
    }
    for (kind, name) in command.targets.iter().filter(|(_, name)| !name.is_empty()) {
        let mut all =
            command.packages.iter().filter_map(|p| members.get(p.as_str())).flat_map(|p| &p.targets);
        if !all.any(|t| t.name == *name && t.kind.iter().any(|k| k == kind)) {
            out.push(format!("{} has no {kind} `{name}`", command.packages.join(", ")));
        }
    }
    let unmatched = command.filters.iter().filter(|f| !tests.iter().any(|t: &String| t.contains(f.as_str())));
    out.extend(unmatched.map(|f| format!("no test there has `{f}` in its path")));
    Ok(out)
}

/// Adds the paths of the tests in a file and the modules below it.
fn read(file: &Path, is_root: bool, module: &str, tests: &mut Vec<String>) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let beside = file.parent().unwrap_or(Path::new(""));
    let stem = file.file_stem().unwrap_or_default();
    let below = if is_root || stem == "mod" { beside.to_owned() } else { beside.join(stem) };
    let (mut inline, mut path, mut is_test) = (String::new(), None, false);
    // A macro's tests have the names that it is given, one a line: `name: …;`.
    let by_macro = text.contains("fn $");
    for line in text.lines() {
        let code = line.trim_start().trim_start_matches("pub ").trim_start_matches("async ");
        let word = |from: &str| -> Option<String> {
            let rest = code.strip_prefix(from)?;
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            (!name.is_empty()).then_some(name)
        };
        if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(given) = code.strip_prefix("#[path = \"").and_then(|p| p.split('"').next()) {
            path = Some(beside.join(given));
        } else if let Some(name) = word("mod ") {
            if code.ends_with('{') && !line.starts_with(' ') {
                inline = format!("{name}::");
            } else if code.ends_with(';') {
                let nested = format!("{module}{inline}{name}::");
                let found = path.take().or_else(|| module_file(&below, &name));
                found.map_or(Ok(()), |found| read(&found, false, &nested, tests))?;
            }
        } else if line == "}" {
            inline.clear();
        } else if let Some(name) = word("fn ").filter(|_| std::mem::take(&mut is_test)) {
            tests.push(format!("{module}{inline}{name}"));
        } else if let Some(name) = word("").filter(|name| by_macro && code[name.len()..].starts_with(": ")) {
            tests.push(format!("{module}{inline}{name}"));
        }
    }
    Ok(())
}

fn module_file(below: &Path, name: &str) -> Option<PathBuf> {
    [below.join(format!("{name}.rs")), below.join(name).join("mod.rs")].into_iter().find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_between_backticks_and_may_go_on_in_the_next_line() {
        let text = "```sh\ncargo test no\n```\n| `x` | `A=1 cargo test\n-p a b` |\n";
        let found = spans(text);
        assert_eq!(
            found.iter().map(|(line, words)| (*line, words.join(" "))).collect::<Vec<_>>(),
            [(4, "x".to_owned()), (4, "cargo test -p a b".to_owned()),]
        );
    }

    #[test]
    fn tests_are_found_wherever_their_module_is() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write(
            "all.rs",
            "mod a;\n#[path = \"deep/other.rs\"]\nmod b;\n#[test]\nfn here() {}\nfn helper() {}\n",
        );
        write("a/mod.rs", "mod c;\nmod tests {\n    #[tokio::test]\n    async fn inline() {}\n}\n");
        write("a/c.rs", "proptest! {\n    #[test]\n    /// Documented.\n    fn drawn(n: u8) {}\n}\n");
        write(
            "deep/other.rs",
            "macro_rules! m {\n    #[test]\n    fn $name() {}\n}\nm! {\n    elsewhere: 1;\n}\n",
        );
        let mut tests = vec![];
        read(&dir.path().join("all.rs"), true, "", &mut tests).unwrap();
        assert_eq!(tests, ["a::c::drawn", "a::tests::inline", "b::elsewhere", "here"]);
    }
}
