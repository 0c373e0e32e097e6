//! The launcher killed (SIGKILL) around its `TPM2_PCR_Extend`, and files as such a death leaves them, on a real swtpm.
//! A proxy between launcher and TPM stops at that command: before it reaches the TPM, or before its answer comes back.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
};

use crate::common::{Instance, Machine, appraised, claim, digest_of, failed, machine, nonce, ok, reference};
use mandate_launcher::tpm::Tpm;
use trust::Digest;

const PCR_EXTEND: [u8; 4] = [0, 0, 1, 0x82];

#[derive(Clone, Copy, PartialEq)]
enum Stop {
    /// Logged, not extended.
    BeforeTheTpm,
    /// Logged, extended, but the launcher never hears of it.
    BeforeTheAnswer,
}

fn frame(from: &mut UnixStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 10];
    from.read_exact(&mut bytes).ok()?;
    let size = u32::from_be_bytes(bytes[2..6].try_into().unwrap()) as usize;
    bytes.resize(size, 0);
    from.read_exact(&mut bytes[10..]).ok()?;
    Some(bytes)
}

/// Serves one client until it extends; says so and keeps the client waiting until it is gone.
fn relay(listener: &UnixListener, tpm: &Path, stop: Stop, reached: &Sender<()>) -> Option<()> {
    let mut client = listener.accept().ok()?.0;
    let mut tpm = UnixStream::connect(tpm).ok()?;
    loop {
        let command = frame(&mut client)?;
        let stopped = command[6..10] == PCR_EXTEND;
        if !(stopped && stop == Stop::BeforeTheTpm) {
            tpm.write_all(&command).ok()?;
            let answer = frame(&mut tpm)?;
            if !stopped {
                client.write_all(&answer).ok()?;
            }
        }
        if stopped {
            drop(tpm);
            reached.send(()).ok()?;
            return frame(&mut client).map(drop);
        }
    }
}

fn proxy(machine: &Machine, stop: Stop) -> (PathBuf, Receiver<()>) {
    let path = machine.path("proxy.sock");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let tpm = machine.path("tpm.sock");
    let (sender, receiver) = channel();
    std::thread::spawn(move || relay(&listener, &tpm, stop, &sender));
    (path, receiver)
}

/// Launches through the proxy and kills the launcher at the stop.
fn die_at(machine: &mut Machine, it: &Instance, stop: Stop) {
    let (path, reached) = proxy(machine, stop);
    let direct = std::mem::replace(&mut machine.tcti, format!("swtpm:path={}", path.display()));
    let mut launcher = machine.launch_command(it, &digest_of(&it.image)).spawn().unwrap();
    machine.tcti = direct;
    reached.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    assert!(!it.control.with_extension("json").exists(), "nothing runs that was not extended");
}

#[test]
fn killed_around_the_extension() {
    for stop in [Stop::BeforeTheTpm, Stop::BeforeTheAnswer] {
        let Some(mut machine) = machine() else { return };
        let ak = machine.ak(&[]);
        let vfw = machine.instance("vfw");
        die_at(&mut machine, &vfw, stop);
        assert_eq!(machine.log_lines().len(), 1);
        // A quote comes first: the attempt is in the evidence, but no process claims to be its result.
        let evidence = machine.quote(&[], &nonce(), &[]);
        let result = appraised(&evidence, &reference(&ak, &[&vfw]));
        assert_eq!(failed(&result), ["IMAGE:vfw", "CONFIGURATION:vfw", "CLAIMS"]);
        // The driver tries again.
        let claims = [claim(&vfw, machine.launch(&vfw))];
        let evidence = machine.quote(&claims, &nonce(), &[]);
        assert!(appraised(&evidence, &reference(&ak, &[&vfw])).affirming);
        assert_eq!(evidence.log.len(), 2);
    }
}

#[test]
fn the_next_launcher_says_what_it_repaired() {
    for (stop, words) in [(Stop::BeforeTheTpm, "extended with it now"), (Stop::BeforeTheAnswer, "")] {
        let Some(mut machine) = machine() else { return };
        let vfw = machine.instance("vfw");
        die_at(&mut machine, &vfw, stop);
        let stderr = String::from_utf8(ok(machine.measure(&vfw)).stderr).unwrap();
        assert!(if words.is_empty() { stderr.is_empty() } else { stderr.contains(words) }, "{stderr}");
        assert_eq!(machine.log_lines().len(), 2);
    }
}

#[test]
fn torn_line_is_cut_at_every_byte() {
    let Some(machine) = machine() else { return };
    let ak = machine.ak(&[]);
    let vfw = machine.instance("vfw");
    ok(machine.measure(&vfw));
    let good = fs::read(machine.log()).unwrap();
    let begun = br#"{"seq":1,"event":"configure","instance":"vfw","configuration":"sha256:00"#;
    for length in (1..begun.len()).step_by(9) {
        fs::write(machine.log(), [&good[..], &begun[..length]].concat()).unwrap();
        let evidence = machine.quote(&[], &nonce(), &[]);
        assert_eq!(failed(&appraised(&evidence, &reference(&ak, &[]))), Vec::<&str>::new(), "{length}");
        assert_eq!(fs::read(machine.log()).unwrap(), good);
    }
}

#[test]
fn objects_of_dead_clients_do_not_fill_the_tpm() {
    let Some(machine) = machine() else { return };
    machine.ak(&[]);
    // Three is what a TPM keeps loaded; a client that dies leaves its own.
    for client in 0..3 {
        let mut tpm = Tpm::open(&machine.tcti.parse().unwrap()).unwrap();
        tpm.create_primary(&Digest::of(format!("client {client}"))).unwrap();
    }
    machine.ak(&["--rotate"]);
    machine.quote(&[], &nonce(), &["--ak-generation", "0"]);
}
