//! Firewall and load balancer in one process and in two, over memif; a thousand configurations under load; the end under load; two
//! packet threads. What needs a network namespace says so when it skips.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_precision_loss)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dataplane_control::{Configuration, protocol::Request, traffic::TrafficReport};
use serde_json::{Value, json};
use support::{
    Bench, Process, can_run, configuration,
    frames::{read_pcap, udp4, write_pcap},
    memif::{self, Row, memif, port, profile},
    run,
};

fn balancer(client: &str, backend: &str) -> Value {
    json!({ "load_balancer": { "client": client, "backend": backend, "table_size": 5,
        "vips": [{ "id": "dns", "address": "192.0.2.10", "protocol": 17, "port": 53 }],
        "backends": [{ "id": "b", "number": 1, "mac": "02:00:00:00:00:11", "weight": 1 }] } })
}

fn firewall(outside: &str, inside: &str, allowed: &str) -> Value {
    json!({ "firewall": { "outside": outside, "inside": inside, "rules": [
        { "id": "dns", "from": outside, "action": "allow", "protocol": 17, "destination_ports": allowed } ] } })
}

fn chain(generation: u64, ports: Value, allowed: &str) -> Configuration {
    let functions = json!([firewall("outside", "between", allowed), balancer("between", "inside")]);
    chain_of(generation, ports, functions)
}

fn chain_of(generation: u64, ports: Value, functions: Value) -> Configuration {
    configuration(json!({
        "instance": "chain", "generation": generation, "ports": ports,
        "function": { "chain": {
            "links": [{ "name": "between", "mac": "02:00:00:00:00:04" }],
            "functions": functions,
        } },
    }))
}

fn ports_of(process: &Process) -> Value {
    let document: Value = serde_json::from_slice(&process.document).unwrap();
    document["ports"].clone()
}

#[test]
fn firewall_and_balancer_in_one_process() {
    let mut row = Row::start(|ports| chain(1, ports, "53"), &[]);
    let report = row.generator.client().run(profile(32, 4_000, 300)).unwrap();
    assert_eq!((report.loss_ppm, report.groups["dns"].misrouted), (0, 0), "{report:?}");
    assert_eq!(report.neighbours.values().next().unwrap().to_string(), "02:00:00:00:00:04", "the balancer's");
    let status = row.middle.status();
    assert_eq!(status.function, "chain");
    assert!(status.counters["rule.dns"] > report.tx_frames && status.counters["backend.b"] > 0, "{status:?}");

    // Both are configured as one.
    let ports = ports_of(&row.middle);
    assert_eq!(row.middle.configure(&chain(2, ports.clone(), "54")).generation, 2);
    let report = row.generator.client().run(profile(32, 4_000, 100)).unwrap();
    assert_eq!(report.rx_frames, 0, "{report:?}");
    row.middle.configure(&chain(3, ports, "50-60"));
    let report = row.generator.client().run(profile(32, 4_000, 200)).unwrap();
    assert_eq!(report.loss_ppm, 0, "{report:?}");
    row.stop();
}

#[test]
fn a_balancer_in_a_chain_leaves_out_who_does_not_answer() {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new();
    let namespace = bench.namespace("chain");
    let inside = |command: &str| run("ip", &format!("netns exec {namespace} ip {command}"));
    inside("link set lo up");
    inside("address add 192.0.2.101/32 dev lo");
    // Nobody has the second one's address, and no frame to it comes back.
    let checked = |generation: u64, ports: Value, allowed: &str| {
        let mut balancer = balancer("between", "inside");
        let backend = |id: &str, number: u8, mac: &str, last: u8| json!({ "id": id, "number": number, "mac": mac, "weight": 1, "addresses": [format!("192.0.2.{last}")] });
        balancer["load_balancer"]["backends"] =
            json!([backend("b", 1, "02:00:00:00:00:11", 101), backend("gone", 2, "02:00:00:00:00:12", 102)]);
        balancer["load_balancer"]["health"] =
            json!({ "probe": "icmp", "interval_ms": 100, "timeout_ms": 50 });
        chain_of(generation, ports, json!([firewall("outside", "between", allowed), balancer]))
    };
    let ports = Row::ports(&bench);
    let middle = bench.start(&namespace, &checked(1, ports.clone(), "53"));
    let mut row = Row::around(bench, middle);
    // What it got of 64 new connections from that flow on, and what did not come back: those that are there stay where they are.
    let to_gone = |row: &mut Row, first: u32| {
        let before = row.middle.counter("backend.gone");
        let mut profile = profile(64, 4_000, 150);
        profile.groups[0].first = first;
        let report = row.generator.client().run(profile).unwrap();
        (row.middle.counter("backend.gone") - before, report.tx_frames - report.rx_frames)
    };
    let until = |row: &mut Row, first: u32, wanted: bool| {
        let (began, mut first) = (Instant::now(), first);
        while (to_gone(row, first).0 > 0) != wanted {
            first += 64;
            assert!(began.elapsed() < Duration::from_secs(10), "never {wanted}");
        }
    };
    until(&mut row, 0, false);
    assert_eq!(to_gone(&mut row, 20_000), (0, 0));
    // It stays out with another configuration, and is back when it answers.
    row.middle.configure(&checked(2, ports, "50-60"));
    assert_eq!(to_gone(&mut row, 30_000), (0, 0));
    inside("address add 192.0.2.102/32 dev lo");
    until(&mut row, 40_000, true);
    row.stop();
}

#[test]
fn firewall_and_balancer_in_two_processes() {
    let bench = Bench::new();
    let between = port("inside", memif(&bench, "between", false), 5);
    let start = |instance: &str, ports: Value, function: Value| {
        let document = json!({ "instance": instance, "generation": 1, "ports": ports, "function": function });
        bench.start_here(&configuration(document), &[])
    };
    let balancer = start(
        "balancer",
        json!([
            port("client", memif(&bench, "between", true), 4),
            port("backend", memif(&bench, "inside", true), 3)
        ]),
        balancer("client", "backend"),
    );
    let filter = start(
        "firewall",
        json!([port("outside", memif(&bench, "outside", true), 2), between]),
        firewall("outside", "inside", "53"),
    );
    let reflector = json!({ "reflector": { "port": "p", "number": 1, "addresses": ["192.0.2.10"] } });
    let reflector = start("reflector", json!([port("p", memif(&bench, "inside", false), 0x11)]), reflector);
    let generator = json!({ "generator": { "port": "p" } });
    let mut generator = start("generator", json!([port("p", memif(&bench, "outside", false), 1)]), generator);
    let mut client = generator.client();
    let connected = (0..50).any(|_| client.run(profile(1, 1_000, 20)).unwrap().rx_frames > 0);
    assert!(connected);
    let report = client.run(profile(32, 4_000, 300)).unwrap();
    assert_eq!((report.loss_ppm, report.groups["dns"].misrouted), (0, 0), "{report:?}");
    for process in [generator, filter, balancer, reflector] {
        assert_eq!(process.terminate(), Some(0));
    }
}

const CONFIGURATIONS: u64 = 1_000;

#[test]
fn a_thousand_configurations_lose_nothing() {
    let mut row = Row::start(|ports| memif::firewall(1, ports), &[]);
    let ports = ports_of(&row.middle);
    let done = Arc::new(AtomicBool::new(false));
    let mut client = row.generator.client();
    let until = done.clone();
    let traffic = thread::spawn(move || {
        let mut reports: Vec<TrafficReport> = vec![];
        while !until.load(Ordering::Relaxed) {
            reports.push(client.run(profile(64, 2_000, 1_000)).unwrap());
        }
        reports
    });
    let mut control = row.middle.client();
    let began = Instant::now();
    for generation in 2..=CONFIGURATIONS + 1 {
        let document = memif::firewall(generation, ports.clone()).to_bytes();
        let document = String::from_utf8(document).unwrap();
        assert_eq!(control.status(&Request::Configure { document }).unwrap().generation, generation);
    }
    let took = began.elapsed();
    done.store(true, Ordering::Relaxed);
    let reports = traffic.join().unwrap();
    let sent: u64 = reports.iter().map(|r| r.tx_frames).sum();
    let lost: u64 = reports.iter().map(|r| r.tx_frames - r.rx_frames).sum();
    eprintln!("{CONFIGURATIONS} configurations in {} ms, {sent} frames sent, {lost} lost", took.as_millis());
    assert!(sent > 1_000 && lost == 0, "{lost} of {sent} lost");
    row.stop();
}

#[test]
fn what_was_received_before_the_end_is_sent() {
    let bench = Bench::new();
    let (from, to, log) = (bench.path("in.pcap"), bench.path("out.pcap"), bench.path("log"));
    let frames: Vec<Vec<u8>> = (0..60_000_u16)
        .map(|i| udp4([198, 51, 100, 7], [192, 0, 2, 10], (1024 + i % 512, 53), usize::from(i % 900)))
        .collect();
    write_pcap(&from, &frames);
    let ports = json!([
        port("outside", json!({ "pcap_file": { "receive": from } }), 2),
        port("inside", json!({ "pcap_file": { "transmit": to } }), 3)
    ]);
    let process = bench.spawn_logging(&memif::firewall(1, ports), &[], fs::File::create(&log).unwrap());
    // In the middle of it, if it is slow enough for that.
    let until = Instant::now() + Duration::from_secs(10);
    while fs::metadata(&to).map_or(0, |m| m.len()) < 4096 && Instant::now() < until {
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(process.terminate(), Some(0));
    let sent = read_pcap(&to);
    eprintln!("{} of {} frames before the end", sent.len(), frames.len());
    assert!(!sent.is_empty() && sent == frames[..sent.len()], "a frame is missing, or is cut");
    let said = format!("drained received={0} sent={0}\n", sent.len());
    let words = fs::read_to_string(&log).unwrap();
    assert!(words.contains(&said), "{said}{words}");
}

/// CPU time of each packet thread so far; the first is the process's main thread.
fn packet_threads(process: &Process) -> Vec<Duration> {
    let tasks = format!("/proc/{}/task", process.pid());
    let mut times = vec![];
    for task in fs::read_dir(&tasks).unwrap() {
        let task = task.unwrap();
        let name = fs::read_to_string(task.path().join("comm")).unwrap();
        let main = task.file_name().to_str() == Some(&process.pid().to_string());
        if main || name.trim() == "packets" {
            let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap();
            times.push(Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap()));
        }
    }
    times
}

/// Frames that each packet thread has seen so far.
fn by_worker(metrics: &Path) -> Vec<f64> {
    let mut stream = UnixStream::connect(metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let sums = page.lines().filter_map(|l| l.strip_prefix("mandate_dataplane_worker_burst_frames_sum"));
    sums.map(|l| l.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
}

/// M frames a second of CPU time, of each packet thread.
fn null_rate(workers: usize) -> Vec<f64> {
    let bench = Bench::new();
    let (metrics, null) = (bench.path("metrics"), json!({ "null": {} }));
    let ports = json!([port("outside", null.clone(), 2), port("inside", null, 3)]);
    let options = ["--workers", &workers.to_string(), "--metrics", &format!("unix:{}", metrics.display())];
    let mut process = bench.start_here(&memif::firewall(1, ports), &options);
    let measure = |process: &Process| {
        // What is shown is a tenth of a second old; both are of the same time, so it does not matter.
        (packet_threads(process), by_worker(&metrics))
    };
    thread::sleep(Duration::from_millis(300));
    let (cpu, frames) = measure(&process);
    thread::sleep(Duration::from_millis(1_500));
    let (cpu_after, frames_after) = measure(&process);
    assert_eq!((cpu.len(), frames.len()), (workers, workers));
    // One configuration for all of them, and sums of their counters.
    let ports = ports_of(&process);
    assert_eq!(process.configure(&memif::firewall(2, ports)).generation, 2);
    let status = process.status();
    assert!(status.counters["rx_frames.outside"] as f64 >= frames_after.iter().sum::<f64>() / 2.0);
    assert_eq!(process.terminate(), Some(0));
    let rate = |i: usize| (frames_after[i] - frames[i]) / (cpu_after[i] - cpu[i]).as_secs_f64() / 1e6;
    (0..workers).map(rate).collect()
}

#[test]
fn a_second_packet_thread_is_as_fast_as_the_first() {
    let one = null_rate(1)[0];
    let two = null_rate(2);
    let scale = two.iter().sum::<f64>() / one;
    eprintln!("one packet thread {one:.1} M frames per CPU second, two {two:.1?}: {scale:.2} times");
    // Reports and CPU times are not of the same moment, and others share the cores.
    assert!(scale > 1.4, "{scale}");
}

#[test]
fn both_directions_of_a_connection_meet_on_one_packet_thread() {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new();
    let [g, f, r] = ["-g", "-f", "-r"].map(|name| bench.namespace(name));
    bench.link((&g, "g0"), (&f, "fo"));
    bench.link((&f, "fi"), (&r, "r0"));
    let on = |name: &str, interface: &str, last| {
        port(name, json!({ "af_packet": { "interface": interface } }), last)
    };
    let metrics = bench.path("metrics");
    let options = ["--workers", "2", "--metrics", &format!("unix:{}", metrics.display())];
    let middle = memif::firewall(1, json!([on("outside", "fo", 2), on("inside", "fi", 3)]));
    let mut middle = bench.start_with(&f, &middle, &options);
    let end = |instance: &str, ports: Value, function: Value| {
        configuration(json!({ "instance": instance, "generation": 1, "ports": ports, "function": function }))
    };
    let reflector = json!({ "reflector": { "port": "p", "number": 1, "addresses": ["192.0.2.10"] } });
    let reflector = bench.start(&r, &end("reflector", json!([on("p", "r0", 0x11)]), reflector));
    let generator = json!({ "generator": { "port": "p" } });
    let mut generator = bench.start(&g, &end("generator", json!([on("p", "g0", 1)]), generator));
    let report = generator.client().run(profile(200, 4_000, 500)).unwrap();
    assert_eq!(report.loss_ppm, 0, "{report:?}\n{:#?}", middle.status());
    assert_eq!(report.groups["dns"].arrived, 200);
    let status = middle.wait_for(|s| s.counters.get("rule.dns").is_some_and(|n| *n >= 2 * report.tx_frames));
    assert_eq!(status.counters.get("drop.no_rule"), None, "an answer met no connection: {status:#?}");
    thread::sleep(Duration::from_millis(500));
    let frames = by_worker(&metrics);
    assert!(frames.len() == 2 && frames.iter().all(|n| *n > 500.0), "{frames:?}");
    for process in [generator, middle, reflector] {
        assert_eq!(process.terminate(), Some(0));
    }
}
