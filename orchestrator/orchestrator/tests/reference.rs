//! docs/reference.md against the program: the table of commands and exit codes is made from the command line itself, and
//! every error code in the sources is explained there, and no other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory as _};
use orchestrator::cli::Cli;

const BEGIN: &str = "<!-- made: MANDATE_WRITE_REFERENCE=1 cargo test -p orchestrator --test reference -->\n";
const END: &str = "<!-- end -->\n";

/// What says something with a code to somebody.
const SOURCES: [&str; 17] = [
    "orchestrator/orchestrator",
    "orchestrator/lcm",
    "orchestrator/mano-osm",
    "orchestrator/osm-gateway",
    "ledger-bridge/ledger-contract",
    "ledger-bridge/trust",
    "ledger-bridge/ledger",
    "descriptors/descriptors",
    "descriptors/supply",
    "dataplane/attestation",
    "dataplane/dataplane-control",
    "dataplane/dataplane-engine",
    "dataplane/mandate-dataplane",
    "dataplane/mandate-launcher",
    "vim-drivers/vim",
    "vim-drivers/vim-host",
    "vim-drivers/vim-openstack",
];

/// Commands that do without `mandate serve`, by the beginning of their lines.
const ALONE: [&str; 18] = [
    "init",
    "serve",
    "completions",
    "man",
    "cosign",
    "openstack policy",
    "package lint",
    "package pack",
    "package sign",
    "package verify",
    "intent new scale",
    "intent new heal",
    "intent new migrate",
    "intent new isolate",
    "intent new terminate",
    "intent sign",
    "approval verify",
    "evidence verify",
];
/// The same, whole groups or with exceptions.
const ALONE_TOO: [&str; 9] = [
    "ledger fsck",
    "ledger backup",
    "ledger restore",
    "ledger witness",
    "ledger package-chaincode",
    "ledger join",
    "governance organisation",
    "governance revoke",
    "standing ",
];
/// Commands that end with 4: what they start may not complete.
const CARRIED_OUT: [&str; 5] = ["intent submit", "intent watch", "site clean", "site enrol", "status"];

/// Commands that end with 6: they follow an operation that a person may have to decide about.
const UNDECIDED: [&str; 2] = ["intent submit", "intent watch"];

/// What `intent new` takes whatever the action.
const OF_EVERY_INTENT: [&str; 7] =
    ["service", "tenant", "expires_in", "id", "depends_on", "emergency", "output"];

/// Words in capitals that are no error codes: of others' formats, the environment, headings.
const OTHERS: [&str; 44] = [
    "NOT_INSTANTIATED",
    "IN_USE",
    "CHANGE_VNFPKG",
    "SCALE_VNF",
    "SCALE_OUT",
    "SCALE_IN",
    "PARTIALLY_COMPLETED",
    "FAILED_TEMP",
    "ROLLED_BACK",
    "DISK_GB",
    "PREFER_LARGE",
    "SIZE_2MB",
    "CARGO_PKG_VERSION",
    "DESCRIBED_BY",
    "INSTANTIATING",
    "LC_ALL",
    "LC_CTYPE",
    "NS_INSTANCE",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SCREAMING_SNAKE_CASE",
    "SHA2_256",
    "SIZE_1GB",
    "CARGO_FEATURE_PCAP",
    "MEMORY_MB",
    "SOFT_DELETED",
    "TRAFFIC_REFUSED",
    "OUT_DIR",
    "PKG_CONFIG",
    "NOT_OVER",
    "CAP_NET_RAW",
    "INJECTED",
    "BAD_GATEWAY",
    "LENGTH_REQUIRED",
    "REQUEST_TIMEOUT",
    "BAD_REQUEST",
    "GATEWAY_TIMEOUT",
    "INTERNAL_SERVER_ERROR",
    "NOT_IMPLEMENTED",
    "REQUEST_ENTITY_TOO_LARGE",
    "SERVICE_UNAVAILABLE",
    "SET_PROJECT",
    "UNPROCESSABLE_ENTITY",
    "UNSUPPORTED_MEDIA_TYPE",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document() -> String {
    fs::read_to_string(root().join("docs/reference.md")).unwrap()
}

fn leaves(command: &Command, path: &str, out: &mut Vec<(String, Command)>) {
    for inner in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let path = format!("{path} {}", inner.get_name()).trim().to_owned();
        match inner.has_subcommands() {
            true => leaves(inner, &path, out),
            false => out.push((path, inner.clone())),
        }
    }
}

/// Arguments as the usage line has them: `FILE --as ORG/NAME [-o FILE]`.
fn arguments(command: &Command, intent: bool) -> String {
    let own = command
        .get_arguments()
        .filter(|a| !a.is_global_set() && a.get_id() != "help" && a.get_id() != "version");
    let own = own.filter(|a| !intent || !OF_EVERY_INTENT.contains(&a.get_id().as_str()));
    let (positional, options): (Vec<_>, Vec<_>) = own.partition(|a| a.is_positional());
    let mut words = Vec::new();
    for a in positional.into_iter().chain(options) {
        let value =
            a.get_value_names().map(|v| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        let name = a.get_long().map(|l| format!("--{l}"));
        let takes = a.get_action().takes_values();
        let word = match (name, value.filter(|_| takes)) {
            (Some(name), Some(value)) => format!("{name} {value}"),
            (Some(name), None) => name,
            (None, value) => value.unwrap_or_else(|| a.get_id().to_string().to_uppercase()),
        };
        words.push(if a.is_required_set() { word } else { format!("[{word}]") });
    }
    words
        .join(" ")
        .replace("COUNTRY[,latency-us=N,cost=N,vcpus=N,memory-mib=N,instances=N,first-uid=N,clouds=FILE,cloud=NAME]", "COUNTRY[,…]")
        .replace('|', "\\|")
}

fn exits(line: &str) -> String {
    let begins = |list: &[&str]| list.iter().any(|p| line.starts_with(p) && line != "standing list");
    let mut codes = vec!["0", "1", "2"];
    if !begins(&ALONE) && !begins(&ALONE_TOO) {
        codes.push("3");
    }
    if begins(&CARRIED_OUT) {
        codes.push("4");
    }
    codes.push("5");
    if UNDECIDED.contains(&line) {
        codes.push("6");
    }
    codes.join(" ")
}

fn made() -> String {
    let mut command = Cli::command();
    command.build();
    let help = command.get_after_help().unwrap().to_string();
    let mut out = String::from("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for line in help.lines().skip(1).take_while(|l| !l.is_empty()) {
        match line.trim().split_once("  ").filter(|(code, _)| code.parse::<u8>().is_ok()) {
            Some((code, text)) => {
                let _ = writeln!(out, "| {code} | {text} |");
            }
            None => {
                let end = out.trim_end_matches(" |\n").len();
                out.truncate(end);
                let _ = writeln!(out, " {} |", line.trim());
            }
        }
    }
    out.push_str("\n## Commands\n\nEach takes `--home`, `--socket`, `--url` with `--client`, `--json`, `--color` and `--help`.\n");
    out.push_str("`intent new` takes `--service NAME [--tenant NAME] [--expires-in DURATION] [--id ID] [--depends-on INTENT] [--emergency REASON] [--output FILE]` for each action.\n\n");
    out.push_str("| `mandate …` | what | arguments | exit codes |\n|---|---|---|---|\n");
    let mut all = Vec::new();
    leaves(&command, "", &mut all);
    for (line, command) in all {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        let arguments = arguments(&command, line.starts_with("intent new"));
        let arguments = if arguments.is_empty() { String::new() } else { format!("`{arguments}`") };
        let _ = writeln!(out, "| `{line}` | {about} | {arguments} | {} |", exits(&line));
    }
    out.push('\n');
    out
}

#[test]
fn the_table_of_commands_is_the_programs() {
    let text = document();
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of what is made");
    let (found, after) = rest.split_once(END).expect("the end of what is made");
    let made = made();
    if std::env::var_os("MANDATE_WRITE_REFERENCE").is_some() {
        fs::write(root().join("docs/reference.md"), format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
        return;
    }
    let missing: Vec<_> = made.lines().filter(|l| !found.contains(l)).collect();
    let gone: Vec<_> = found.lines().filter(|l| !made.contains(l)).collect();
    assert!(
        found == made,
        "docs/reference.md is not what the program says; make it again as the comment in it says\nnew: {missing:#?}\nold: {gone:#?}"
    );
}

fn is_code(word: &str) -> bool {
    let legal = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let whole = word.starts_with(|c: char| c.is_ascii_uppercase()) && !word.ends_with('_');
    word.len() >= 3 && whole && word.chars().all(legal)
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            rust_files(&path, out);
        } else if name.ends_with(".rs") && !name.contains("test") {
            out.push(path);
        }
    }
}

/// The product's part of a source file, without its comments.
fn product(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().map(|l| l.split("//").next().unwrap_or_default()).fold(String::new(), |mut all, l| {
        all.push_str(l);
        all.push('\n');
        all
    })
}

/// Codes in the sources: string literals of several words in capitals, and those of one word that are given to what makes
/// an error.
fn in_sources() -> (BTreeMap<String, String>, String) {
    const MAKERS: [&str; 8] =
        ["usage(", "refused(", "internal(", "fault(", "refuse(", "failure(", "check(", "find("];
    let (mut found, mut everything) = (BTreeMap::new(), String::new());
    for source in SOURCES {
        let mut files = Vec::new();
        rust_files(&root().join(source).join("src"), &mut files);
        for file in files {
            let text = product(&fs::read_to_string(&file).unwrap());
            let mut parts = text.split('"');
            let mut before = parts.next().unwrap_or_default();
            while let (Some(literal), Some(next)) = (parts.next(), parts.next()) {
                let before_it = before.trim_end();
                let status = before_it.trim_end_matches(|c: char| c.is_ascii_digit() || c == ',' || c == ' ');
                let maker =
                    MAKERS.iter().any(|m| before_it.ends_with(m)) || status.ends_with("Problem::new(");
                if is_code(literal) && (literal.contains('_') || maker) && !literal.starts_with("MANDATE_") {
                    found.insert(literal.to_owned(), file.display().to_string());
                }
                before = next;
            }
            everything.push_str(&text);
        }
    }
    OTHERS.iter().for_each(|other| drop(found.remove(*other)));
    (found, everything)
}

#[test]
fn every_code_is_explained_and_every_explained_code_is_real() {
    let text = document();
    let after = text.split_once(END).unwrap().1;
    let explained: BTreeSet<&str> = after.split('`').skip(1).step_by(2).filter(|w| is_code(w)).collect();
    let (codes, everything) = in_sources();
    assert!(codes.len() > 250, "the sources have some codes: {}", codes.len());
    let lint = fs::read_to_string(root().join("docs/lint.md")).unwrap();
    let unexplained: Vec<_> = codes
        .iter()
        .filter(|(code, _)| !explained.contains(code.as_str()) && !lint.contains(&format!("`{code}`")))
        .collect();
    assert!(unexplained.is_empty(), "explain these in docs/reference.md: {unexplained:#?}");
    let real = |code: &&&str| {
        let kebab = code.to_ascii_lowercase().replace('_', "-");
        let camel: String =
            code.split('_').map(|w| format!("{}{}", &w[..1], w[1..].to_ascii_lowercase())).collect();
        [
            format!("\"{code}\""),
            format!("\"{kebab}\""),
            format!("{camel} "),
            format!("{camel},"),
            format!("\"{code}_"),
        ]
        .iter()
        .any(|form| everything.contains(form))
    };
    let unreal: Vec<_> = explained.iter().filter(|c| !real(c)).collect();
    assert!(unreal.is_empty(), "docs/reference.md explains what no source says: {unreal:?}");
}
