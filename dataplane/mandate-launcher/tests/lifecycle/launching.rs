//! What holds affirms; what does not is refused with its own code.

use std::{fs, io::Write as _, time::Instant};

use crate::common::{NOW, PCR, USER, appraised, claim, digest_of, failed, machine, nonce, ok, reference};
use attestation::log;
use mandate_launcher::{confine::Confinement, tpm::Tpm};
use trust::Digest;

#[test]
fn launch_quote_affirm() {
    let Some(mut machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let (vfw, vlb) = (machine.instance("ns1/vfw/0"), machine.instance("ns1/vlb/0"));
    let claims = [claim(&vfw, machine.launch(&vfw)), claim(&vlb, machine.launch(&vlb))];
    let reference = reference(&ak, &[&vfw, &vlb]);
    let evidence = machine.quote(&claims, &nonce(), &[]);
    let result = appraised(&evidence, &reference);
    assert!(result.affirming, "{:#?}", result.checks);
    assert_eq!(evidence.log.len(), 2);
    // To record tests/evidence.json of the attestation crate anew.
    if let Some(path) = std::env::var_os("MANDATE_RECORD_EVIDENCE") {
        let case = serde_json::json!({
            "evidence": evidence, "reference": reference, "nonce": nonce(), "at": NOW,
        });
        fs::write(path, serde_json::to_vec(&case).unwrap()).unwrap();
    }
}

#[test]
fn another_nonce() {
    let Some(mut machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let vfw = machine.instance("vfw");
    let claims = [claim(&vfw, machine.launch(&vfw))];
    let replayed = machine.quote(&claims, &Digest::of("yesterday"), &[]);
    assert_eq!(failed(&appraised(&replayed, &reference(&ak, &[&vfw]))), ["NONCE"]);
}

#[test]
fn rotated_key() {
    let Some(mut machine) = machine() else { return };
    let old = machine.ak(&[]);
    assert_eq!(machine.ak(&[]), old, "loading makes no other key");
    let vfw = machine.instance("vfw");
    let claims = [claim(&vfw, machine.launch(&vfw))];
    let log = machine.log();
    let new = machine.ak(&["--rotate", "--log", log.to_str().unwrap()]);
    assert_ne!(new.public_key, old.public_key);
    assert_eq!(new.pcr_baseline, old.pcr_baseline);
    let good = machine.quote(&claims, &nonce(), &[]);
    assert!(appraised(&good, &reference(&new, &[&vfw])).affirming);
    assert_eq!(failed(&appraised(&good, &reference(&old, &[&vfw]))), ["AK_REGISTERED", "SIGNATURE"]);
    let stale = machine.quote(&claims, &nonce(), &["--ak-generation", "0"]);
    assert_eq!(stale.ak, old.public_key);
    assert_eq!(failed(&appraised(&stale, &reference(&new, &[&vfw]))), ["AK_REGISTERED", "SIGNATURE"]);
}

#[test]
fn changed_binary() {
    let Some(mut machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let vfw = machine.instance("vfw");
    let reference = reference(&ak, &[&vfw]);
    let approved = digest_of(&vfw.image);
    fs::OpenOptions::new().append(true).open(&vfw.image).unwrap().write_all(b"x").unwrap();
    // An honest driver asks for the approved digest: refused, and nothing happened.
    let refused = machine.launch_command(&vfw, &approved).output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(!machine.log().exists());
    // One that lies starts it, and cannot hide it.
    let claims = [claim(&vfw, machine.launch(&vfw))];
    assert_eq!(failed(&appraised(&machine.quote(&claims, &nonce(), &[]), &reference)), ["IMAGE:vfw"]);
}

#[test]
fn changed_configuration() {
    let Some(mut machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let vfw = machine.instance("vfw");
    let before = reference(&ak, &[&vfw]);
    let claims = [claim(&vfw, machine.launch(&vfw))];
    fs::write(&vfw.configuration, r#"{"instance":"vfw","generation":2}"#).unwrap();
    ok(machine.measure(&vfw));
    let evidence = machine.quote(&claims, &nonce(), &[]);
    assert_eq!(failed(&appraised(&evidence, &before)), ["CONFIGURATION:vfw"]);
    // Measured as planned, but the process still runs the old one.
    assert_eq!(failed(&appraised(&evidence, &reference(&ak, &[&vfw]))), ["CONFIGURATION:vfw"]);
    let mut claims = claims;
    claims[0].configuration = digest_of(&vfw.configuration);
    let evidence = machine.quote(&claims, &nonce(), &[]);
    assert!(appraised(&evidence, &reference(&ak, &[&vfw])).affirming);
}

#[test]
fn configuration_of_another_instance_is_refused() {
    let Some(machine) = machine() else { return };
    let (vfw, vlb) = (machine.instance("vfw"), machine.instance("vlb"));
    fs::copy(&vlb.configuration, &vfw.configuration).unwrap();
    assert_eq!(machine.measure(&vfw).status.code(), Some(6));
    let launch = machine.launch_command(&vfw, &digest_of(&vfw.image)).output().unwrap();
    assert_eq!(launch.status.code(), Some(6));
    assert!(!machine.log().exists());
}

#[test]
fn tampered_log() {
    let Some(mut machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let vfw = machine.instance("vfw");
    let claims = [claim(&vfw, machine.launch(&vfw))];
    let reference = reference(&ak, &[&vfw]);
    let good = fs::read_to_string(machine.log()).unwrap();
    let hex = digest_of(&vfw.image).hex();
    fs::write(machine.log(), good.replace(&hex, &Digest::of("innocent").hex())).unwrap();
    // Extending on top of it would bury the contradiction: refused. A quote shows it.
    assert_eq!(machine.measure(&vfw).status.code(), Some(5));
    let evidence = machine.quote(&claims, &nonce(), &[]);
    assert_eq!(failed(&appraised(&evidence, &reference)), ["LOG_REPLAY", "IMAGE:vfw"]);
    // A missing line, too.
    fs::write(machine.log(), good.lines().next().unwrap().to_owned() + "\n").unwrap();
    assert_eq!(machine.measure(&vfw).status.code(), Some(5));
    let evidence = machine.quote(&claims, &nonce(), &[]);
    assert!(failed(&appraised(&evidence, &reference)).contains(&"LOG_REPLAY"));
    // Restored, everything is well again.
    fs::write(machine.log(), good).unwrap();
    assert!(appraised(&machine.quote(&claims, &nonce(), &[]), &reference).affirming);
}

#[test]
fn somebody_else_extends_the_pcr() {
    let Some(mut machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let vfw = machine.instance("vfw");
    let claims = [claim(&vfw, machine.launch(&vfw))];
    Tpm::open(&machine.tcti.parse().unwrap()).unwrap().pcr_extend(PCR, &Digest::of("intruder")).unwrap();
    assert_eq!(machine.measure(&vfw).status.code(), Some(5));
    let evidence = machine.quote(&claims, &nonce(), &[]);
    assert_eq!(failed(&appraised(&evidence, &reference(&ak, &[&vfw]))), ["LOG_REPLAY"]);
}

#[test]
fn what_runs_is_confined_and_is_what_was_measured() {
    let Some(mut machine) = machine() else { return };
    let vfw = machine.instance("vfw");
    let (image, configuration) = (digest_of(&vfw.image), fs::read_to_string(&vfw.configuration).unwrap());
    let pid = machine.launch(&vfw);
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(vfw.control.with_extension("json")).unwrap()).unwrap();
    let text = |field: &str| report[field].as_str().unwrap();
    let capabilities = [caps::Capability::CAP_NET_RAW, caps::Capability::CAP_IPC_LOCK].into();
    let (uid, gid) = (nix::unistd::Uid::from_raw(USER), nix::unistd::Gid::from_raw(USER + 1));
    let confinement = Confinement { uid, gid, capabilities };
    assert_eq!(confinement.differences(text("status")), Vec::<String>::new());
    assert_eq!(text("configuration"), configuration);
    assert_eq!(text("netns"), fs::read_link(machine.namespace()).unwrap().to_str().unwrap());
    assert_eq!((text("directory"), text("session")), ("/", pid.to_string().as_str()));
    assert_eq!(report["environment"], serde_json::json!([]));
    assert!(text("limits").lines().any(|l| l.starts_with("Max core file size") && l.contains(" 0 ")));
    // 0, 1, 2, the configuration, and the directory being listed.
    let fds = report["fds"].as_object().unwrap();
    assert_eq!(fds.len(), 5, "{fds:?}");
    assert_eq!(fds["0"], "/dev/null");
    let arguments: Vec<&str> =
        report["arguments"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    let control = vfw.control.to_str().unwrap();
    assert_eq!(arguments[..2], ["mandate-dataplane", "--config"]);
    assert_eq!(arguments[3..], ["--control", control, "--no-huge"]);
    assert_eq!(fs::read_to_string(vfw.control.with_extension("pid")).unwrap(), format!("{pid}\n"));
    // The files change; the process does not.
    fs::write(&vfw.image, "something else").unwrap();
    assert_eq!(digest_of(format!("/proc/{pid}/exe")), image);
}

/// In a user namespace that an ordinary user made: one id, no say over groups, and capabilities only inside.
#[test]
fn an_ordinary_user_in_a_user_namespace() {
    let Some(mut machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let vfw = machine.instance("vfw");
    let home = machine.path("home");
    fs::create_dir(&home).unwrap();
    for path in [&home, &machine.path("tpm.sock"), vfw.control.parent().unwrap()] {
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    }
    let program = home.join("mandate-launcher");
    fs::copy(env!("CARGO_BIN_EXE_mandate-launcher"), &program).unwrap();
    let log = home.join("event.log");
    let control = vfw.control.to_str().unwrap().to_owned();
    let mut unshare = std::process::Command::new("setpriv");
    let user = USER.to_string();
    unshare.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    unshare.args(["unshare", "--user", "--map-root-user", "--net"]).arg(&program);
    unshare.args(["launch", "--tpm", &machine.tcti, "--pcr", &PCR.to_string(), "--instance", "vfw"]);
    unshare
        .arg("--log")
        .arg(&log)
        .arg("--image")
        .arg(&vfw.image)
        .arg("--configuration")
        .arg(&vfw.configuration);
    unshare.args(["--expect-image", &digest_of(&vfw.image).to_string(), "--netns", "/proc/self/ns/net"]);
    unshare.args(["--user", "0:0", "--control", &control, "--cap", "net_raw"]);
    machine.adopt(unshare.spawn().unwrap());
    let report = vfw.control.with_extension("json");
    crate::common::wait("report", || report.exists());
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let status = report["status"].as_str().unwrap();
    for line in ["CapPrm:\t0000000000002000", "CapBnd:\t0000000000002000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    let lines = fs::read_to_string(log).unwrap();
    assert!(log::replay(&ak.pcr_baseline, lines.lines().skip(1).collect::<Vec<_>>().into_iter()).is_ok());
}

#[test]
fn inherited_descriptors_end() {
    let Some(mut machine) = machine() else { return };
    let vfw = machine.instance("vfw");
    // A shell leaves descriptor 9 open for what it starts, as a careless supervisor would.
    let command = machine.launch_command(&vfw, &digest_of(&vfw.image));
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", r#"exec 9</etc/passwd; exec "$@""#, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    machine.adopt(shell.spawn().unwrap());
    let report = vfw.control.with_extension("json");
    crate::common::wait("report", || report.exists());
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert!(report["fds"].get("9").is_none(), "{}", report["fds"]);
}

/// The arguments of a machine without a TPM: confined and compared, not measured; a part of the three is an error.
#[test]
fn without_a_tpm() {
    let Some(mut machine) = machine() else { return };
    let vfw = machine.instance("vfw");
    let good = digest_of(&vfw.image);
    let without = |names: &[&str], expected: &Digest| {
        let with = machine.launch_command(&vfw, expected);
        let mut command = std::process::Command::new(with.get_program());
        let mut arguments = with.get_args();
        while let Some(argument) = arguments.next() {
            match names.iter().any(|n| argument == *n) {
                true => drop(arguments.next()),
                false => drop(command.arg(argument)),
            }
        }
        command
    };
    let all = ["--tpm", "--log", "--pcr"];
    assert_eq!(without(&all[..1], &good).output().unwrap().status.code(), Some(2));
    assert_eq!(without(&all[1..], &good).output().unwrap().status.code(), Some(2));
    assert_eq!(without(&all, &Digest::of("another")).output().unwrap().status.code(), Some(3));
    let mut command = without(&all, &good);
    let stderr = fs::File::create(machine.path("stderr")).unwrap();
    machine.adopt(command.stderr(stderr).spawn().unwrap());
    let report = vfw.control.with_extension("json");
    crate::common::wait("report", || report.exists());
    assert!(fs::read_to_string(machine.path("stderr")).unwrap().contains("not measured"));
    assert!(!machine.log().exists());
}

#[test]
fn refusals_have_their_exit_codes() {
    let Some(machine) = machine() else { return };
    let vfw = machine.instance("vfw");
    let good = digest_of(&vfw.image);
    // A PCR that software can reset.
    let mut pcr = std::process::Command::new(env!("CARGO_BIN_EXE_mandate-launcher"));
    assert_eq!(
        pcr.args(["ak", "--tpm", &machine.tcti, "--pcr", "23"]).output().unwrap().status.code(),
        Some(2)
    );
    let link = machine.path("link");
    std::os::unix::fs::symlink(&vfw.image, &link).unwrap();
    let linked = crate::common::Instance { image: link, ..vfw.clone() };
    assert_eq!(machine.launch_command(&linked, &good).output().unwrap().status.code(), Some(6));
    let shut = machine.path("shut");
    fs::create_dir(&shut).unwrap();
    let elsewhere = crate::common::Instance { control: shut.join("control.sock"), ..vfw.clone() };
    assert_eq!(machine.launch_command(&elsewhere, &good).output().unwrap().status.code(), Some(6));
    let claims = machine.path("claims");
    fs::write(&claims, "[]").unwrap();
    let mut quote = machine.launcher("quote");
    quote
        .arg("--log")
        .arg(machine.log())
        .args(["--nonce", &nonce().to_string()])
        .arg("--claims")
        .arg(&claims);
    let output = quote.output().unwrap();
    assert_eq!(output.status.code(), Some(4), "no key was made yet");
    assert!(String::from_utf8_lossy(&output.stderr).contains("mandate-launcher ak"));
}

#[test]
fn launchers_take_turns() {
    let Some(machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let instances: Vec<_> = (0..8).map(|i| machine.instance(&format!("vdu/{i}"))).collect();
    std::thread::scope(|scope| {
        for it in &instances {
            let machine = &machine;
            scope.spawn(move || ok(machine.measure(it)));
            scope.spawn(move || machine.ak(&[]));
        }
    });
    let lines = machine.log_lines();
    assert_eq!(
        log::replay(&ak.pcr_baseline, lines.iter().map(String::as_str)).unwrap().measurements.len(),
        8
    );
    let evidence = machine.quote(&[], &nonce(), &[]);
    assert_eq!(failed(&appraised(&evidence, &reference(&ak, &[]))), Vec::<&str>::new());
}

/// A kernel resource manager lets two launchers at the TPM at once; the log's lock does not.
#[test]
fn a_locked_log_is_waited_for() {
    let Some(machine) = machine() else { return };
    let vfw = machine.instance("vfw");
    let held = fs::File::create(machine.path("event.log.lock")).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let measured = scope.spawn(|| machine.measure(&vfw));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!measured.is_finished() && !machine.log().exists());
        drop(held);
        ok(measured.join().unwrap());
    });
}

#[test]
fn a_restarted_tpm_begins_another_log() {
    let Some(mut machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let vfw = machine.instance("vfw");
    let before = [claim(&vfw, machine.launch(&vfw))];
    machine.restart_tpm();
    assert_eq!(machine.ak(&[]).public_key, ak.public_key, "the key survives");
    // What ran before is not attested by the new log.
    let evidence = machine.quote(&before, &nonce(), &[]);
    assert_eq!(failed(&appraised(&evidence, &reference(&ak, &[&vfw]))), ["IMAGE:vfw", "CONFIGURATION:vfw"]);
    let again = machine.instance("vfw");
    let claims = [claim(&again, machine.launch(&again))];
    let evidence = machine.quote(&claims, &nonce(), &[]);
    assert!(appraised(&evidence, &reference(&ak, &[&again])).affirming);
    let kept = fs::read_dir(machine.directory.path()).unwrap();
    let kept =
        kept.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("event.log.reset-"));
    assert_eq!(kept.count(), 1);
}

#[test]
fn a_busy_tpm_is_waited_for() {
    let Some(machine) = machine() else { return };
    let vfw = machine.instance("vfw");
    let held = Tpm::open(&machine.tcti.parse().unwrap()).unwrap();
    // Two more fill swtpm's queue: the next connection is refused at first.
    let path = machine.path("tpm.sock");
    let queued: Vec<_> = (0..2).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
    std::thread::scope(|scope| {
        let measured = scope.spawn(|| machine.measure(&vfw));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!measured.is_finished());
        drop((held, queued));
        ok(measured.join().unwrap());
    });
    assert_eq!(machine.log_lines().len(), 1);
}

#[test]
fn times() {
    let Some(mut machine) = machine() else { return };
    let timed = |what: &str, action: &mut dyn FnMut()| {
        let start = Instant::now();
        action();
        println!("{what}: {} ms", start.elapsed().as_millis());
    };
    timed("ak, made", &mut || drop(machine.ak(&[])));
    timed("ak, loaded", &mut || drop(machine.ak(&[])));
    let vfw = machine.instance("vfw");
    timed("launch until the image runs", &mut || {
        machine.launch(&vfw);
    });
    timed("measure", &mut || drop(ok(machine.measure(&vfw))));
    timed("quote", &mut || drop(machine.quote(&[], &nonce(), &[])));
    timed("ak --rotate", &mut || drop(machine.ak(&["--rotate"])));
    timed("quote, earlier generation", &mut || drop(machine.quote(&[], &nonce(), &["--ak-generation", "0"])));
}
