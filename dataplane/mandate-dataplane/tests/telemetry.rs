//! What is seen of a running function: counters without asking the packet thread, Prometheus' exposition, captures, flow
//! records, and decisions of rules. Needs no privilege; what `promtool`, tcpdump and tshark say is asked where they are installed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_precision_loss)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use dataplane_control::{
    Configuration, Function,
    capture::Capture,
    config::{Rule, RuleAction},
    protocol::{COUNTERS_AGE_MS, ProtocolError, Request, Status},
};
use serde_json::json;
use support::{
    Bench, configuration,
    frames::{read_pcap, udp4, write_pcap},
    memif::{Row, blocked, firewall, port, profile},
};

/// Output of a program with this input, if it is installed; a failure is a failure.
fn asked(program: &str, arguments: &[&str], input: &str) -> Option<String> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED: `{program}` is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn scrape(stream: &mut (impl Read + Write)) -> String {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    body.to_owned()
}

/// The format's grammar, line by line: each family once, together, with its help and type before its samples.
fn families(page: &str) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut families: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    let (mut current, mut kind) = (String::new(), String::new());
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap().to_owned();
            assert!(families.insert(current.clone(), BTreeMap::new()).is_none(), "{current} is there twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            assert_eq!(name, current);
            assert!(["counter", "gauge", "histogram"].contains(&of), "{line}");
            assert_eq!(of == "counter", name.ends_with("_total"), "{line}");
            kind = of.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let base = base.filter(|_| kind == "histogram").unwrap_or(name);
            assert_eq!(base, current, "{line}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{line}"
            );
            assert!(series == name || series.ends_with("\"}"), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(families.get_mut(base).unwrap().insert(series.to_owned(), value).is_none(), "{line}");
        }
    }
    families
}

#[test]
fn counters_are_read_without_the_packet_thread_and_prometheus_takes_them() {
    let bench = Bench::new();
    let place = bench.path("metrics");
    let option = format!("unix:{}", place.display());
    let mut row = Row::start_in(bench, |ports| firewall(1, ports), &["--metrics", &option]);
    let report = row.generator.client().run(blocked(16, 4_000, 300)).unwrap();
    assert!(report.rx_frames > 100, "{report:?}");
    std::thread::sleep(Duration::from_millis(COUNTERS_AGE_MS));

    let asked_before = row.middle.counter("worker.commands");
    let mut client = row.middle.client();
    let began = Instant::now();
    let mut seen = client.status(&Request::Counters).unwrap();
    for _ in 1..500 {
        seen = client.status(&Request::Counters).unwrap();
    }
    let each_us = began.elapsed().as_micros() / 500;
    let status = row.middle.status();
    eprintln!("counters: {each_us} µs each");
    assert_eq!(status.counters["worker.commands"] - asked_before, 1, "only the status before");
    for name in ["rule.dns", "drop.no_rule", "rx_frames.outside", "tx_frames.inside"] {
        assert!(status.counters[name] > 0, "{name}");
        assert_eq!(seen.counters[name], status.counters[name], "{name}");
    }

    let page = scrape(&mut UnixStream::connect(&place).unwrap());
    let families = families(&page);
    let value = |family: &str, labels: &str| {
        let family = format!("mandate_dataplane_{family}");
        families[&family][&format!("{family}{labels}")]
    };
    let same = |family: &str, labels: &str, counter: &str| {
        let count = u32::try_from(status.counters[counter]).unwrap();
        assert!((value(family, labels) - f64::from(count)).abs() < 0.5, "{counter}\n{page}");
    };
    same("rule_frames_total", "{rule=\"dns\"}", "rule.dns");
    same("dropped_frames_total", "{reason=\"no_rule\"}", "drop.no_rule");
    same("port_rx_frames_total", "{port=\"outside\"}", "rx_frames.outside");
    let document = Configuration::parse(&row.middle.document).unwrap();
    let room = document.function.max_connections() as f64;
    assert!(
        (value("connections_max", "") - room).abs() < 0.5 && value("connections_half_open", "") < 0.5,
        "{page}"
    );
    assert!(value("worker_busy_seconds_total", "{worker=\"0\"}") > 0.0, "{page}");
    assert!(value("report_age_seconds", "{worker=\"0\"}") < 0.5, "{page}");
    assert!(page.contains("mandate_dataplane_info{instance=\"firewall\",function=\"firewall\","), "{page}");
    let bursts = |part: &str| {
        let family = "mandate_dataplane_worker_burst_frames";
        families[family][&format!("{family}_{part}{{worker=\"0\"}}")]
    };
    let (sum, count) = (bursts("sum"), bursts("count"));
    assert!(count >= 1.0 && sum >= count && sum <= 32.0 * count, "{page}");
    if let Some(words) = asked("promtool", &["check", "metrics"], &page) {
        assert_eq!(words, "");
    }
    row.stop();
    assert!(!place.exists(), "removed at the end");
}

#[test]
fn metrics_on_the_loopback_interface() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let row = Row::start(|ports| firewall(1, ports), &["--metrics", &free]);
    assert!(scrape(&mut TcpStream::connect(&free).unwrap()).contains("mandate_dataplane_generation 1\n"));
    row.stop();
}

#[test]
fn a_capture_has_what_was_asked_for_and_others_read_it() {
    let mut row = Row::start(|ports| firewall(1, ports), &[]);
    let file = row.bench.path("dropped.pcapng");
    let capture: Capture = serde_json::from_value(json!({
        "filter": { "port": "outside", "protocol": 17, "destination_ports": "5000-6000", "verdict": "no_rule",
                    "source": "198.51.100.0/24" },
        "limit": 100, "duration_ms": 5_000, "snaplen": 64, "path": file,
    }))
    .unwrap();
    let sent = row.send(blocked(16, 4_000, 500));
    let report = row.middle.client().capture(capture.clone()).unwrap();
    assert_eq!((report.frames, report.missed), (100, 0), "{report:?}");
    assert_eq!(report.file_bytes, fs::metadata(&file).unwrap().len());
    let sent = sent.join().unwrap();
    assert_eq!(sent.loss_ppm, 0, "{sent:?}");

    let path = file.to_str().unwrap();
    if let Some(words) = asked("tcpdump", &["-n", "-r", path], "") {
        let lines: Vec<&str> = words.lines().collect();
        assert_eq!(lines.len(), 100, "{words}");
        assert!(
            lines.iter().all(|l| l.contains("IP 198.51.100.1.") && l.contains(" > 192.0.2.10.5353: ")),
            "{words}"
        );
    }
    let fields = [
        "-T",
        "fields",
        "-e",
        "frame.comment",
        "-e",
        "frame.interface_name",
        "-e",
        "frame.len",
        "-e",
        "frame.cap_len",
    ];
    if let Some(words) = asked("tshark", &[&["-r", path][..], &fields].concat(), "") {
        let different: BTreeSet<&str> = words.lines().collect();
        assert_eq!(different.into_iter().collect::<Vec<_>>(), ["drop: no_rule\toutside\t200\t64"], "{words}");
    }

    // A file is never written over, and what cannot be is said.
    let code = |capture: &Capture, row: &mut Row| match row.middle.client().capture(capture.clone()) {
        Err(ProtocolError::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(code(&capture, &mut row), "CAPTURE_FILE");
    let mut wrong = capture.clone();
    wrong.filter.port = Some("nowhere".into());
    assert_eq!(code(&wrong, &mut row), "CAPTURE_REFUSED");
    wrong = Capture { limit: 0, ..capture.clone() };
    assert_eq!(code(&wrong, &mut row), "CAPTURE_REFUSED");

    // Without traffic it ends with the time.
    let silent = row.bench.path("silent.pcapng");
    let quiet = Capture { duration_ms: 100, path: silent.to_str().unwrap().into(), ..capture };
    assert_eq!(row.middle.client().capture(quiet).unwrap().frames, 0);
    row.stop();
}

/// The data records that messages carry, counted by set, by their own lengths.
fn records(messages: &[Vec<u8>]) -> BTreeMap<u16, usize> {
    let mut sets = BTreeMap::new();
    for message in messages {
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        assert_eq!((word(0), usize::from(word(2))), (10, message.len()));
        let mut at = 16;
        while at < message.len() {
            *sets.entry(word(at)).or_default() += 1;
            at += usize::from(word(at + 2));
        }
        assert_eq!(at, message.len());
    }
    sets
}

#[test]
fn flow_records_tell_of_both_ends_of_connections() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let to = collector.local_addr().unwrap().to_string();
    let mut row = Row::start(|ports| firewall(1, ports), &["--ipfix", &to]);
    let report = row.generator.client().run(profile(40, 4_000, 200)).unwrap();
    assert_eq!(report.loss_ppm, 0, "{report:?}");
    row.middle.wait_for(|s| s.connections == 0);
    let (mut messages, mut buffer) = (vec![], [0; 2048]);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        if let Ok(length) = collector.recv(&mut buffer) {
            messages.push(buffer[..length].to_vec());
        }
    }
    let sets = records(&messages);
    assert!(sets.contains_key(&2) && sets.contains_key(&3) && sets.contains_key(&256), "{sets:?}");

    // As datagrams to IPFIX's port in a capture, for who reads it without us.
    let file = row.bench.path("ipfix.pcap");
    let datagram = |message: &Vec<u8>| {
        let mut frame = udp4([192, 0, 2, 1], [192, 0, 2, 2], (5000, 4739), message.len());
        frame[42..42 + message.len()].copy_from_slice(message);
        frame
    };
    write_pcap(&file, &messages.iter().map(datagram).collect::<Vec<_>>());
    let names = [
        "cflow.srcaddr",
        "cflow.dstaddr",
        "cflow.srcport",
        "cflow.dstport",
        "cflow.protocol",
        "cflow.selector_name",
    ];
    let fields = names.iter().flat_map(|n| ["-e", n]);
    let arguments: Vec<&str> = [
        "-r",
        file.to_str().unwrap(),
        "-d",
        "udp.port==4739,cflow",
        "-Y",
        "cflow",
        "-T",
        "fields",
        "-E",
        "separator=;",
    ]
    .into_iter()
    .chain(fields)
    .collect();
    let Some(words) = asked("tshark", &arguments, "") else { return row.stop() };
    let mut sources: BTreeMap<String, usize> = BTreeMap::new();
    for line in words.lines() {
        let columns: Vec<Vec<&str>> = line.split(';').map(|c| c.split(',').collect()).collect();
        for (port, (destination, rule)) in columns[2].iter().zip(columns[1].iter().zip(&columns[5])) {
            if !port.is_empty() {
                assert_eq!((*destination, *rule), ("192.0.2.10", "dns"), "{line}");
                *sources.entry((*port).to_owned()).or_default() += 1;
            }
        }
    }
    // Each was opened and closed once in that run; the first of them also while the row was connected.
    let twice = sources.values().filter(|n| **n == 2).count();
    assert!(sources.len() == 40 && twice >= 39, "{sources:?}\n{words}");
    row.stop();
}

/// firewallEvent, source port and rule of each data record of an IPv4 connection.
fn records_v4(message: &[u8]) -> Vec<(u8, u16, String)> {
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let (mut at, mut found) = (16, vec![]);
    while at < message.len() {
        let end = at + usize::from(word(at + 2));
        if word(at) == 256 {
            let mut record = at + 4;
            while record < end {
                let name = record + 35;
                let name_end = name + usize::from(message[record + 34]);
                let rule = String::from_utf8(message[name..name_end].to_vec()).unwrap();
                found.push((message[record + 16], word(record + 29), rule));
                record = name_end;
            }
        }
        at = end;
    }
    found
}

#[test]
fn decisions_of_rules_with_log_are_lines_and_records() {
    const DENIED: u16 = 1_000;
    let bench = Bench::new();
    let (from, log, place) = (bench.path("in.pcap"), bench.path("log"), bench.path("metrics"));
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let ask = |port, to| udp4([198, 51, 100, 7], [192, 0, 2, 10], (port, to), 20);
    // Two connections, one of them of three packets; one of a rule that is silent; then more than is written down.
    let first = [ask(1, 53), ask(1, 53), ask(2, 53), ask(1, 53), ask(3, 123)];
    let denied = (0..DENIED).map(|i| ask(10_000 + i, 23));
    write_pcap(&from, &first.into_iter().chain(denied).collect::<Vec<_>>());
    let mut document = firewall(
        3,
        json!([
            port("outside", json!({ "pcap_file": { "receive": from } }), 2),
            port("inside", json!({ "pcap_file": { "transmit": bench.path("out.pcap") } }), 3)
        ]),
    );
    let Function::Firewall(function) = &mut document.function else { panic!("a firewall") };
    function.rules[1].log = true;
    let telnet = Rule { id: "telnet".into(), action: RuleAction::Deny, ..function.rules[1].clone() };
    function.rules.push(Rule { destination_ports: Some("23".parse().unwrap()), ..telnet });
    // Hardly a connection is sampled.
    let to = collector.local_addr().unwrap().to_string();
    let metrics = format!("unix:{}", place.display());
    let options = ["--ipfix", &to, "--ipfix-every", "4294967295", "--metrics", &metrics];
    let mut process = bench.spawn_logging(&document, &options, fs::File::create(&log).unwrap()).started();
    let told = |s: &Status, name: &str| s.counters.get(name).copied().unwrap_or(0);
    let all = u64::from(DENIED) + 2;
    let status = process.wait_for(|s| told(s, "worker.log_lines") + told(s, "worker.log_suppressed") == all);
    let (lines, suppressed) = (told(&status, "worker.log_lines"), told(&status, "worker.log_suppressed"));
    // In one second or on both sides of its end.
    assert!((200..=400).contains(&lines), "{lines} lines");
    std::thread::sleep(Duration::from_millis(COUNTERS_AGE_MS));
    let page = scrape(&mut UnixStream::connect(&place).unwrap());
    let shown = format!("mandate_dataplane_worker_rule_log_suppressed_total{{worker=\"0\"}} {suppressed}\n");
    assert!(page.contains(&shown), "{shown}{page}");
    assert_eq!(process.terminate(), Some(0));

    let text = fs::read_to_string(&log).unwrap();
    let decisions: Vec<&str> = text
        .lines()
        .filter_map(|l| l.split_once("rule_log at_ms=")?.1.split_once(' '))
        .map(|l| l.1)
        .collect();
    let line = |action: &str, rule: &str, ports: (u16, u16)| {
        format!(
            "action={action} {rule} generation=3 port=\"outside\" protocol=17 source=198.51.100.7 source_port={} \
             destination=192.0.2.10 destination_port={}",
            ports.0, ports.1
        )
    };
    assert_eq!(decisions[0], line("\"allowed\"", "rule=\"dns\" index=1", (1, 53)), "{text}");
    assert_eq!(decisions[1], line("\"allowed\"", "rule=\"dns\" index=1", (2, 53)));
    let denied = line("\"denied\" reason=\"denied\"", "rule=\"telnet\" index=2", (10_000, 23));
    assert_eq!(decisions[2], denied);
    assert_eq!(decisions.len() as u64, lines);
    let said: u64 = text
        .lines()
        .filter_map(|l| l.split_once("suppressed=")?.1.split(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(said, suppressed, "{text}");

    let (mut exported, mut buffer) = (vec![], [0; 2048]);
    while let Ok(length) = collector.recv(&mut buffer) {
        exported.extend(records_v4(&buffer[..length]));
    }
    assert_eq!(exported.len() as u64, lines, "a record for each line");
    let dns = |port| (1, port, "dns".to_owned());
    assert_eq!(exported[..3], [dns(1), dns(2), (3, 10_000, "telnet".to_owned())]);
}

#[test]
fn flow_records_of_a_load_balancer_name_the_backend() {
    let balancer = |backend: &str| {
        let member = |id: &str, number: u8| json!({ "id": id, "number": number, "mac": format!("02:00:00:00:01:{number:02x}"), "weight": 1 });
        json!({ "load_balancer": {
            "client": "outside", "backend": backend, "idle_ms": 300, "max_connections": 1000, "table_size": 251,
            "vips": [{ "id": "dns", "address": "192.0.2.10", "protocol": 17, "port": 53 }],
            "backends": [member("first", 1), member("second", 2)],
        } })
    };
    let allow = json!([{ "id": "any", "from": "dmz", "action": "allow" }]);
    let firewall = json!({ "firewall": { "outside": "dmz", "inside": "inside", "rules": allow } });
    let links = json!([{ "name": "dmz", "mac": "02:00:00:00:00:99" }]);
    let row = json!({ "chain": { "links": links, "functions": [balancer("dmz"), firewall] } });
    for function in [balancer("inside"), row] {
        let bench = Bench::new();
        let (from, to) = (bench.path("in.pcap"), bench.path("out.pcap"));
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        collector.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let ask = |port| {
            let mut frame = udp4([198, 51, 100, 7], [192, 0, 2, 10], (port, 53), 20);
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
            frame
        };
        write_pcap(&from, &(1..=40).map(ask).collect::<Vec<_>>());
        let ports = json!([
            port("outside", json!({ "pcap_file": { "receive": from } }), 2),
            port("inside", json!({ "pcap_file": { "transmit": to } }), 3)
        ]);
        let document = json!({ "instance": "lb", "generation": 1, "ports": ports, "function": function });
        let option = collector.local_addr().unwrap().to_string();
        let mut process = bench.start_here(&configuration(document), &["--ipfix", &option]);
        process.wait_for(|s| s.counters.get("connections.opened").is_some_and(|n| *n >= 40));
        process.wait_for(|s| s.counters["connections.expired"] >= 40);
        assert_eq!(process.terminate(), Some(0));
        let (mut told, mut buffer) = (vec![], [0; 2048]);
        while let Ok(length) = collector.recv(&mut buffer) {
            told.extend(records_v4(&buffer[..length]));
        }
        let left = read_pcap(&to);
        assert_eq!(left.len(), 40);
        let backend = |frame: &Vec<u8>| if frame[5] == 1 { "first" } else { "second" };
        let expected = |event| {
            left.iter().map(move |f| (event, u16::from_be_bytes([f[34], f[35]]), backend(f).to_owned()))
        };
        let expected: BTreeSet<_> = expected(1).chain(expected(2)).collect();
        assert_eq!(told.len(), 80, "{told:?}");
        assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}
