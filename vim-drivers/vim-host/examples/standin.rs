//! A stand-in for tests of the driver alone: as `launch …` it becomes what it is told to start, without measuring
//! anything or giving anything up; otherwise it speaks the control protocol and touches no packet.
//!
//! It proves nothing about launcher or data plane: `tests/real.rs` runs the same suite with the real ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use dataplane_control::{
    Configuration,
    protocol::{Request, Response, Status, VERSION, read_frame, write_frame},
};
use trust::Digest;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("launch") => launch(&arguments),
        _ => serve(&arguments),
    }
}

fn value(arguments: &[String], name: &str) -> String {
    let at = arguments.iter().position(|a| a == name).unwrap_or_else(|| panic!("no {name}"));
    arguments[at + 1].clone()
}

fn launch(arguments: &[String]) {
    if arguments.iter().any(|a| a == "--cgroup") {
        let procs = PathBuf::from(value(arguments, "--cgroup")).join("cgroup.procs");
        fs::write(procs, std::process::id().to_string()).unwrap();
    }
    let image = value(arguments, "--image");
    let found = Digest::of(fs::read(&image).unwrap()).to_string();
    assert_eq!(found, value(arguments, "--expect-image"), "another image");
    let namespace = fs::File::open(value(arguments, "--netns")).unwrap();
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    nix::unistd::setsid().unwrap();
    fs::write(value(arguments, "--pidfile"), std::process::id().to_string()).unwrap();
    let mut command = Command::new(image);
    command.arg("--config").arg(value(arguments, "--configuration"));
    command.arg("--control").arg(value(arguments, "--control"));
    panic!("{}", command.exec());
}

fn serve(arguments: &[String]) {
    let document = fs::read(value(arguments, "--config")).unwrap();
    let status = Arc::new(Mutex::new(status(&document, false).unwrap()));
    let path = PathBuf::from(value(arguments, "--control"));
    let listener = UnixListener::bind(&path).unwrap();
    let instance = status.lock().unwrap().instance.clone();
    std::thread::spawn(move || take(&instance));
    for stream in listener.incoming() {
        let (status, path) = (status.clone(), path.clone());
        std::thread::spawn(move || talk(&mut stream.unwrap(), &status, &path));
    }
}

/// What an instance's name says that it takes: `…/takes-256-mib` of memory, `…/spins-2` threads without rest.
fn take(instance: &str) {
    let number = |before: &str| {
        let rest = instance.split_once(before)?.1;
        rest.split('-').next()?.parse::<usize>().ok()
    };
    for _ in 0..number("/spins-").unwrap_or(0) {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    let mut taken = Vec::new();
    for _ in 0..number("/takes-").unwrap_or(0) {
        // Slowly enough that whoever started it has its answer before the end.
        std::thread::sleep(std::time::Duration::from_millis(20));
        taken.push(vec![1_u8; 1 << 20]);
    }
    std::hint::black_box(&taken);
}

fn status(document: &[u8], isolated: bool) -> Result<Status, String> {
    let parsed = Configuration::parse(document).map_err(|e| e.to_string())?;
    Ok(Status {
        instance: parsed.instance,
        function: "reflector".into(),
        generation: parsed.generation,
        configuration: Configuration::digest(document),
        isolated,
        pid: std::process::id(),
        connections: 0,
        counters: BTreeMap::new(),
    })
}

fn talk(stream: &mut UnixStream, status: &Mutex<Status>, path: &PathBuf) {
    while let Ok(Some(request)) = read_frame::<Request>(stream) {
        let answer = match request {
            Request::Hello { .. } => Response::Hello { version: VERSION },
            Request::Shutdown => {
                fs::remove_file(path).unwrap();
                write_frame(stream, &Response::Bye).unwrap();
                std::process::exit(0);
            }
            other => change(&mut status.lock().unwrap(), other),
        };
        if write_frame(stream, &answer).is_err() {
            return;
        }
    }
}

fn change(running: &mut Status, request: Request) -> Response {
    let refuse = |message: String| Response::Error { code: "CONFIGURATION_REFUSED".into(), message };
    match request {
        Request::Isolate { on } => running.isolated = on,
        Request::Configure { document } => match status(document.as_bytes(), running.isolated) {
            Err(problem) => return refuse(problem),
            Ok(new) if new.configuration == running.configuration => {}
            Ok(new) if new.generation <= running.generation => return refuse("an old generation".into()),
            Ok(new) => *running = new,
        },
        Request::Run { .. } => return refuse("a stand-in sends nothing".into()),
        _ => {}
    }
    Response::Status(Box::new(running.clone()))
}
