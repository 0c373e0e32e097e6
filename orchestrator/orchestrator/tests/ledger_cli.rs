//! Every command of `mandate ledger` as a process, on a small ledger that is real: what it says, what it answers in JSON, and
//! how it ends when it is given something bad. The ledger itself: the tests of the crate `ledger`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[allow(dead_code, reason = "other tests use what this one does not")]
#[path = "common/home.rs"]
mod home;

use std::{
    fs,
    process::{Command, Stdio},
};

use home::{Home, packed};
use serde_json::Value;
use trust::{UnixTime, witness::WitnessSigner};

/// Entries of the ledger of these tests: its genesis, and a package.
const ENTRIES: u64 = 2;
const WITNESS: &str = "witness.example/w1";

/// A founded ledger with a package, nobody serving it; `None`: not root.
fn ledger() -> Option<Home> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: `mandate serve` opens host sites, which needs root; run this test as root");
        return None;
    }
    let h = Home::new();
    h.json(0, &["init"]);
    let serve = h.serve();
    h.json(0, &["package", "push", &packed(&h, "vfw_vnf"), "--as", "provider/provider"]);
    drop(serve);
    Some(h)
}

/// It ends with 0 and says this.
fn says(h: &Home, words: &[&str], arguments: &[&str]) -> String {
    let out = h.run(arguments);
    let (text, errors) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(0), "{arguments:?}\n{text}\n{errors}");
    for word in words {
        assert!(text.contains(word), "{arguments:?} does not say `{word}`:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours into a pipe: {text}");
    text
}

/// It ends with this exit code and error code, and says why and what to do, in words and in JSON.
fn refuses(h: &Home, exit: i32, code: &str, word: &str, arguments: &[&str]) {
    let out = h.run(arguments);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(exit), "{arguments:?}\n{text}");
    // What the parser refuses is said in its own words, with its code in JSON only.
    let named = code == "USAGE" || text.contains(code);
    assert!(named && text.contains(word), "{arguments:?} does not say {code} and {word}: {text}");
    assert!(out.stdout.is_empty(), "errors are not answers");
    let problem = h.json(exit, arguments);
    assert_eq!(problem["code"], code, "{problem}");
    assert!(problem["detail"].is_string(), "{problem}");
}

/// What it says to do next.
fn next(h: &Home, exit: i32, hint: &str, arguments: &[&str]) {
    let problem = h.json(exit, arguments);
    let said = problem["hint"].as_str().unwrap_or_default();
    assert!(said.contains(hint), "{arguments:?}: the hint is not about {hint}: {problem}");
}

/// A target without room, and one that nobody writes to: nothing stays there, not the key either.
fn no_room(h: &Home) {
    let target = h.path("elsewhere");
    fs::create_dir_all(&target).unwrap();
    for (options, hint) in [("size=8k", "make room there"), ("ro", "you may write to")] {
        // In a mount namespace of its own, which ends with it.
        let script = r#"mount -t tmpfs -o "$1" none "$2" || exit 77
            "$3" ledger backup "$2/backup" --json 2>"$4"; code=$?; ls -A "$2"; exit $code"#;
        let said = h.path("said");
        let mut c = Command::new("unshare");
        c.args(["--mount", "sh", "-c", script, "sh", options, &target, env!("CARGO_BIN_EXE_mandate"), &said]);
        let out = c.env("MANDATE_HOME", h.path("home")).stdin(Stdio::null()).output().unwrap();
        let (left, text) =
            (String::from_utf8_lossy(&out.stdout), fs::read_to_string(&said).unwrap_or_default());
        if out.status.code() == Some(77) || text.is_empty() {
            eprintln!("SKIPPED: a full target needs mounts (unshare --mount, CAP_SYS_ADMIN): {out:?}");
            return;
        }
        let problem: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!((out.status.code(), &problem["code"]), (Some(2), &Value::from("UNWRITABLE")), "{problem}");
        assert!(problem["hint"].as_str().unwrap().contains(hint), "{problem}");
        assert_eq!(left, "", "{options}: nothing stays");
    }
}

/// What it writes to a terminal.
fn on_a_terminal(h: &Home, arguments: &[&str], no_color: bool) -> Option<String> {
    let line: Vec<String> = std::iter::once(env!("CARGO_BIN_EXE_mandate"))
        .chain(arguments.iter().copied())
        .map(|a| format!("'{a}'"))
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::null());
    script.env("MANDATE_HOME", h.path("home")).env("TERM", "xterm").env_remove("NO_COLOR");
    if no_color {
        script.env("NO_COLOR", "1");
    }
    match script.output() {
        Ok(out) => Some(String::from_utf8_lossy(&out.stdout).into_owned()),
        Err(_) => {
            eprintln!("SKIPPED: colours on a terminal need `script` (apt install bsdutils)");
            None
        }
    }
}

#[test]
fn reading_the_ledger_and_its_proofs() {
    let Some(h) = ledger() else { return };
    for line in [vec!["ledger", "log"], vec!["ledger", "head"], vec!["ledger", "proof", "0"]] {
        refuses(&h, 3, "SERVE_NOT_RUNNING", "mandate serve", &line);
    }
    let _serve = h.serve();

    let text = says(&h, &["ENTRY", "genesis", "package", "vfw_vnf", "approved"], &["ledger", "log"]);
    assert_eq!(text.lines().filter(|l| l.contains("approved")).count(), 2, "{text}");
    let entries = h.json(0, &["ledger", "log"]);
    assert_eq!(entries.as_array().unwrap().len() as u64, ENTRIES);
    assert_eq!(h.json(0, &["ledger", "log", "--from", "1", "--limit", "1"]).as_array().unwrap().len(), 1);
    says(&h, &["no entries from there on"], &["ledger", "log", "--from", "99"]);
    refuses(&h, 2, "USAGE", "--limit", &["ledger", "log", "--limit", "0"]);

    says(&h, &["signature verified: 2 entries"], &["ledger", "head"]);
    let head = h.json(0, &["ledger", "head"]);
    assert_eq!((&head["verified"], &head["size"]), (&Value::Bool(true), &Value::from(ENTRIES)));
    refuses(&h, 2, "WITNESS_KEY", "name+id+key", &["ledger", "head", "--witness", "nonsense"]);
    let stranger = WitnessSigner::new(WITNESS, &[1; 32]).unwrap().key().to_string();
    refuses(&h, 1, "TOO_FEW_WITNESSES", "witness", &["ledger", "head", "--witness", &stranger]);
    let line = ["ledger", "head", "--witness", &stranger, "--quorum", "2"];
    assert!(h.json(2, &line)["hint"].as_str().unwrap().contains("1 to 1"));

    says(&h, &["inclusion", "leaf 1 of 2", "from the trust roots alone"], &["ledger", "proof", "1"]);
    let proof = h.json(0, &["ledger", "proof", "1"]);
    assert_eq!((&proof["verified"], &proof["root"]), (&Value::Bool(true), &head["root"]));
    refuses(&h, 2, "NOT_FOUND", "9999", &["ledger", "proof", "9999"]);
    refuses(&h, 2, "USAGE", "POSITION", &["ledger", "proof", "first"]);

    for arguments in [&["ledger", "log"][..], &["ledger", "head"], &["ledger", "proof", "1"]] {
        let Some(coloured) = on_a_terminal(&h, arguments, false) else { return };
        assert!(coloured.contains("\u{1b}["), "a terminal has colours: {coloured}");
        let plain = on_a_terminal(&h, arguments, true).unwrap();
        assert!(!plain.contains("\u{1b}[3") && plain.len() > 20, "NO_COLOR: {plain}");
    }
}

#[test]
fn checking_copying_and_putting_back() {
    let Some(h) = ledger() else { return };
    let (kept, dir) = (h.path("kept"), h.path("home/ledger"));
    {
        let _serve = h.serve();
        refuses(&h, 2, "IN_USE", "mandate ledger backup", &["ledger", "fsck"]);
        says(&h, &["backed up", "of 2 entries", "keep it as secret"], &["ledger", "backup", &kept]);
    }
    let text = says(&h, &["2 entries, 2 decided again", "nothing is wrong"], &["ledger", "fsck"]);
    assert!(text.contains("root "), "{text}");
    let checked = h.json(0, &["ledger", "fsck", "--dir", &kept]);
    assert_eq!((&checked["entries"], &checked["findings"]), (&Value::from(ENTRIES), &serde_json::json!([])));
    refuses(&h, 2, "NO_LEDGER", "/nowhere", &["ledger", "fsck", "--dir", "/nowhere"]);
    next(&h, 2, "--dir DIR", &["ledger", "fsck", "--dir", "/nowhere"]);
    next(&h, 2, "--dir", &["ledger", "fsck", "--dir", &h.path("home")]);
    next(&h, 2, "that is a file", &["ledger", "fsck", "--dir", &h.path("home/trust.json")]);

    // The same again adds nothing; another ledger's backup, and what is no backup, are left alone.
    let again = h.json(0, &["ledger", "backup", &kept]);
    assert_eq!((&again["size"], &again["files"]), (&Value::from(ENTRIES), &Value::from(0)));
    says(&h, &["nothing is new"], &["ledger", "backup", &kept]);
    next(&h, 2, "outside of the home", &["ledger", "backup", &dir]);
    no_room(&h);
    let other = Home::new();
    other.json(0, &["init"]);
    refuses(&other, 1, "OTHER_LEDGER", &kept, &["ledger", "backup", &kept]);
    let stuff = h.path("stuff");
    fs::create_dir_all(&stuff).unwrap();
    fs::write(format!("{stuff}/notes"), "mine").unwrap();
    refuses(&h, 2, "EXISTS", &stuff, &["ledger", "backup", &stuff]);

    // One byte of an entry.
    let bad = h.path("bad");
    h.json(0, &["ledger", "backup", &bad]);
    let file = format!("{bad}/tail");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let out = h.run(&["ledger", "fsck", "--dir", &bad]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("WHAT TO DO") && !text.contains("nothing is wrong"), "{text}");
    assert!(!h.json(1, &["ledger", "fsck", "--dir", &bad])["findings"].as_array().unwrap().is_empty());

    refuses(&h, 2, "EXISTS", "ledger", &["ledger", "restore", &kept]);
    next(&h, 2, &format!("mv {dir} {dir}.lost"), &["ledger", "restore", &kept]);
    fs::rename(&dir, h.path("gone")).unwrap();
    refuses(&h, 2, "NO_LEDGER", "ledger", &["ledger", "fsck"]);
    next(&h, 2, "ledger restore", &["ledger", "fsck"]);
    refuses(&h, 1, "BACKUP_DAMAGED", "nothing was restored", &["ledger", "restore", &bad]);
    refuses(&h, 2, "NO_LEDGER", "/nowhere", &["ledger", "restore", "/nowhere"]);
    next(&h, 2, "mandate ledger backup", &["ledger", "restore", "/nowhere"]);
    assert!(!fs::exists(&dir).unwrap());
    says(&h, &["restored", "of 2 entries"], &["ledger", "restore", &kept]);
    assert_eq!(h.json(0, &["ledger", "fsck"])["root"], checked["root"]);

    let Some(coloured) = on_a_terminal(&h, &["ledger", "fsck"], false) else { return };
    assert!(coloured.contains("\u{1b}[32mnothing is wrong"), "{coloured}");
    let plain = on_a_terminal(&h, &["ledger", "fsck"], true).unwrap();
    assert!(plain.contains("nothing is wrong") && !plain.contains("\u{1b}[3"), "{plain}");
}

#[test]
fn witnesses_and_what_they_cosign() {
    let Some(h) = ledger() else { return };
    let _serve = h.serve();
    let witness = WitnessSigner::new(WITNESS, &[1; 32]).unwrap();
    let key = witness.key().to_string();
    says(&h, &["no witnesses", "mandate ledger witness add KEY"], &["ledger", "witness", "list"]);
    refuses(&h, 2, "WITNESS_KEY", "name+id+key", &["ledger", "witness", "add", "nonsense"]);
    says(&h, &[WITNESS, "never"], &["ledger", "witness", "add", &key]);
    let listed = h.json(0, &["ledger", "witness", "list"]);
    assert_eq!(listed["witnesses"][0]["key"], key.as_str());
    assert_eq!(listed["witnesses"][0]["cosigned_size"], Value::Null);

    let head = h.json(0, &["ledger", "head"])["checkpoint"].as_str().unwrap().to_owned();
    let (bare, cosigned) = (h.path("bare"), h.path("cosigned"));
    fs::write(&bare, &head).unwrap();
    refuses(&h, 1, "COSIGNATURE", "witness", &["ledger", "witness", "import", &bare]);
    refuses(&h, 2, "UNREADABLE", "/nowhere", &["ledger", "witness", "import", "/nowhere"]);
    fs::write(&cosigned, witness.cosign(&head, UnixTime(1_800_000_000)).unwrap()).unwrap();
    says(&h, &[WITNESS, "2027-01-15"], &["ledger", "witness", "import", &cosigned]);
    let listed = h.json(0, &["ledger", "witness", "list"]);
    assert_eq!(listed["witnesses"][0]["cosigned_size"], ENTRIES);
    // Whoever asks for this witness is given its word.
    let believed = h.json(0, &["ledger", "head", "--witness", &key]);
    assert_eq!(believed["cosigned"], serde_json::json!([WITNESS]));

    says(&h, &["no witnesses"], &["ledger", "witness", "remove", WITNESS]);
    refuses(&h, 2, "WITNESS", WITNESS, &["ledger", "witness", "remove", WITNESS]);
}
