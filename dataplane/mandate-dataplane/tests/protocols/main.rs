//! Real protocols through running processes: Linux end points in namespaces, a bad line between them, and the firewall alone
//! or the firewall and the load balancer in between.
//!
//! TCP over a line that loses, reorders and doubles frames; HTTP (`curl`, `wrk`), DNS (`dig`, `dnsmasq`), `iperf3`,
//! QUIC (`gtlsclient` and `gtlsserver` of ngtcp2, HTTP/3) and datagrams as it sends them, ICMP echo and errors, path-MTU discovery, fragments; IPv4 and IPv6.
//! Needs root and those programs, and says so when it skips.

#![allow(clippy::unwrap_used, clippy::panic)]

mod ends;
mod line;
#[path = "../support/mod.rs"]
mod support;

use std::{
    net::UdpSocket,
    process::Command,
    time::{Duration, Instant},
};

use dataplane_control::{Configuration, MacAddr};
use ends::{Address, Daemon, asks, host, serve_echo, serve_http, serve_uploads, text, transfer, upload};
use line::{Line, Quality};
use serde_json::{Value, json};
use support::{Bench, Process, can_run, run, wire::within};

const CLIENT: Address = Address { v4: "198.51.100.1", v6: "2001:db8:1::1" };
const SERVER: Address = Address { v4: "192.0.2.10", v6: "2001:db8::10" };
const BOTH: [&str; 2] = [SERVER.v4, SERVER.v6];
const HTTP: u16 = 80;
const DNS: u16 = 53;
const UPLOAD: u16 = 9000;
/// Of `iperf3`.
const MEASURE: u16 = 5201;
const QUIC: u16 = 443;
/// Of `gtlsserver`: QUIC as ngtcp2 speaks it, HTTP/3.
const HTTP3: u16 = 8443;
/// A line as bad as people still work over.
const BAD: Quality = Quality { lost: 10, late: 20, twice: 5 };
const GOOD: Quality = Quality { lost: 0, late: 0, twice: 0 };

fn programs_are_there(names: &[&str]) -> bool {
    let missing: Vec<&&str> = names
        .iter()
        .filter(|n| {
            Command::new("sh")
                .args(["-c", &format!("command -v {n}")])
                .output()
                .is_ok_and(|o| !o.status.success())
        })
        .collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: needs {missing:?}: cargo testbed up installs them");
    }
    missing.is_empty()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn af_packet(name: &str, interface: &str, mac: MacAddr) -> Value {
    json!({ "name": name, "driver": { "af_packet": { "interface": interface } }, "mac": mac })
}

/// As an operator writes it.
fn configuration(document: &Value) -> Configuration {
    Configuration::parse(document.to_string().as_bytes()).unwrap()
}

fn firewall() -> Configuration {
    let allowed = [(6, "80"), (6, "53"), (6, "5201"), (6, "9000"), (17, "53"), (17, "443-444"), (17, "8443")];
    let mut rules: Vec<Value> =
        allowed.map(|(protocol, ports)| json!({ "protocol": protocol, "destination_ports": ports })).into();
    rules.extend([1, 58].map(|protocol| json!({ "protocol": protocol })));
    for (n, rule) in rules.iter_mut().enumerate() {
        rule["id"] = format!("allow-{n}").into();
        rule["from"] = "outside".into();
        rule["action"] = "allow".into();
    }
    configuration(&json!({
        "instance": "firewall", "generation": 1,
        "ports": [af_packet("outside", "fo", mac(2)), af_packet("inside", "fi", mac(3))],
        "function": { "firewall": { "outside": "outside", "inside": "inside", "rules": rules } },
    }))
}

fn backend_mac(number: u16) -> MacAddr {
    mac(0x10 + u8::try_from(number).unwrap())
}

fn balancer(generation: u64, backends: u16) -> Configuration {
    let services = [(6, HTTP), (6, DNS), (6, MEASURE), (6, UPLOAD), (17, DNS), (17, QUIC), (17, HTTP3)];
    let vip = |address: &str, (protocol, port): (u8, u16)| json!({ "id": format!("{address}-{protocol}-{port}"), "address": address, "protocol": protocol, "port": port });
    let vips: Vec<Value> = BOTH.iter().flat_map(|a| services.map(|s| vip(a, s))).collect();
    let backends: Vec<Value> = (1..=backends)
        .map(|n| json!({ "id": format!("backend-{n}"), "number": n, "mac": backend_mac(n), "weight": 1 }))
        .collect();
    let function = json!({ "client": "client", "backend": "backend", "vips": vips, "backends": backends, "table_size": 4099 });
    configuration(&json!({
        "instance": "balancer", "generation": generation,
        "ports": [af_packet("client", "lc", mac(4)), af_packet("backend", "lb", mac(5))],
        "function": { "load_balancer": function },
    }))
}

/// The client, and a line to the firewall, which runs.
struct Near {
    line: Line,
    firewall: Process,
    client: String,
    inside: String,
}

fn near(bench: &mut Bench) -> Near {
    let [client, line, inside] = ["-c", "-l", "-f"].map(|name| bench.namespace(name));
    bench.link((&client, "c0"), (&line, "near"));
    bench.link((&line, "far"), (&inside, "fo"));
    host(&client, "c0", Some(mac(1)), &CLIENT);
    Near { line: Line::start(&line, "near", "far"), firewall: firewall_in(bench, &inside), client, inside }
}

fn firewall_in(bench: &mut Bench, inside: &str) -> Process {
    // Its second port must be there when it starts.
    let next = bench.namespace("-n");
    bench.link((inside, "fi"), (&next, "n0"));
    bench.start(inside, &firewall())
}

#[test]
fn a_server_behind_the_firewall() {
    if !can_run() || !programs_are_there(&["ethtool", "ping"]) {
        return;
    }
    let mut bench = Bench::new();
    let mut near = near(&mut bench);
    let [router, server] = [near.inside.replace("-f", "-n"), bench.namespace("-s")];
    bench.link((&router, "n1"), (&server, "s0"));
    host(&router, "n0", None, &Address { v4: "198.51.100.254", v6: "2001:db8:1::fe" });
    host(&router, "n1", None, &Address { v4: "192.0.2.1", v6: "2001:db8::1" });
    host(&server, "s0", None, &SERVER);
    run(
        "ip",
        &format!("netns exec {router} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"),
    );
    // The way is narrower than both ends know.
    run("ip", &format!("-n {router} link set dev n1 mtu 1280"));
    for (namespace, v4, v6) in
        [(&near.client, "198.51.100.254", "2001:db8:1::fe"), (&server, "192.0.2.1", "2001:db8::1")]
    {
        run("ip", &format!("-n {namespace} route add default via {v4}"));
        run("ip", &format!("-6 -n {namespace} route add default via {v6}"));
    }
    serve_uploads(&server, &BOTH, UPLOAD);
    serve_echo(&server, &BOTH, QUIC);

    echo_and_errors(&near.client);
    path_mtu_is_discovered(&near.client);
    // The server sends no longer than its link may carry, for the fragments that it answers.
    run("ip", &format!("-n {server} link set dev s0 mtu 1280"));
    fragments(&mut near);
    near.line.quality(BAD);
    for address in BOTH {
        let began = Instant::now();
        upload(&near.client, address, UPLOAD, 1 << 20);
        eprintln!("{address}: 1 MiB over a bad line in {:?}; {:?}", began.elapsed(), near.line.done());
    }
    near.line.quality(GOOD);
    assert_eq!(near.firewall.terminate(), Some(0));
}

fn echo_and_errors(client: &str) {
    for address in BOTH {
        let said = text(client, &format!("ping -n -c 20 -i 0.01 -W 2 {address}"));
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    // A router on the way says that the packet was too old: an error about a tracked connection.
    let said = asks(client, &format!("ping -n -c 1 -t 1 -W 2 {}", SERVER.v4));
    assert!(said.contains("Time to live exceeded"), "{said}");
    let said = asks(client, &format!("ping -n -c 1 -t 1 -W 2 {}", SERVER.v6));
    assert!(said.contains("Hop limit"), "{said}");
    // The server says that nobody listens, and the client is told.
    for (from, to) in [("0.0.0.0", SERVER.v4), ("::", SERVER.v6)] {
        let refused = within(client, move || {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect((to, 444)).unwrap();
            socket.send(b"anybody there?").unwrap();
            socket.recv(&mut [0; 10]).unwrap_err().kind()
        });
        assert_eq!(refused.join().unwrap(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
}

fn path_mtu_is_discovered(client: &str) {
    for address in BOTH {
        upload(client, address, UPLOAD, 300_000);
        let route = text(client, &format!("ip route get {address}"));
        assert!(route.contains("mtu 1280"), "{route}");
    }
}

/// A datagram in fragments comes back in fragments. IPv4: DPDK's `af_packet` lets the kernel put fragments together
/// (`PACKET_FANOUT_FLAG_DEFRAG`); what is longer than a frame then is cut, and counted.
fn fragments(near: &mut Near) {
    for (from, to) in [("0.0.0.0", SERVER.v4), ("::", SERVER.v6)] {
        let before = near.firewall.counter("drop.truncated");
        let came = within(&near.client, move || transfer(from, to, QUIC, &[7; 2000])).join().unwrap();
        let cut = near.firewall.counter("drop.truncated") - before;
        eprintln!("{to}: a datagram in fragments came back: {came}; cut: {cut}");
        let counters = near.firewall.status().counters;
        assert!(came || to == SERVER.v4 && cut > 0, "{to}: {counters:?}");
    }
}

#[test]
fn a_service_behind_the_chain() {
    if !can_run() || !programs_are_there(&["ethtool", "curl", "wrk", "iperf3", "dig", "dnsmasq"]) {
        return;
    }
    let mut bench = Bench::new();
    let near = near(&mut bench);
    // The firewall's next namespace has the balancer in it.
    let balancing = near.inside.replace("-f", "-n");
    let bridge = bench.namespace("-b");
    run("ip", &format!("-n {balancing} link set dev n0 down"));
    run("ip", &format!("-n {balancing} link set dev n0 name lc"));
    run("ip", &format!("-n {balancing} link set dev lc up"));
    run("ip", &format!("-n {bridge} link add br0 type bridge stp_state 0 mcast_snooping 0"));
    run("ip", &format!("-n {bridge} link set dev br0 up"));
    bench.link((&balancing, "lb"), (&bridge, "b0"));
    run("ip", &format!("-n {bridge} link set dev b0 master br0"));
    let servers: Vec<String> = (1..=2).map(|number| server(&mut bench, &bridge, number)).collect();
    for (version, prefix) in [("-4", "192.0.2.0/24"), ("-6", "2001:db8::/64")] {
        run("ip", &format!("{version} -n {} route add {prefix} dev c0", near.client));
    }
    let mut lb = bench.start(&balancing, &balancer(1, 1));
    // A client and a server of `iperf3` need two connections to the same backend.
    let _measures = Daemon::start(&servers[0], "iperf3 -s");
    let client = near.client.clone();
    for (address, back) in [(SERVER.v4, ""), (SERVER.v6, "-R")] {
        let said = text(&client, &format!("iperf3 -c {address} -t 1 {back} --connect-timeout 5000"));
        let line = said.lines().rfind(|l| l.contains("receiver")).unwrap_or_else(|| panic!("{said}"));
        eprintln!("iperf3 {address} {back}: {line}");
    }
    lb.configure(&balancer(2, 2));
    near.line.quality(Quality { lost: 2, late: 5, twice: 2 });
    let _names: Vec<Daemon> = servers.iter().map(|s| names(s)).collect();
    http(&client);
    dns(&client);
    datagrams_as_quic_sends_them(&client);
    http3(&client, &servers);
    near.line.quality(BAD);
    for address in BOTH {
        upload(&client, address, UPLOAD, 1 << 18);
    }
    eprintln!("the line: {:?}", near.line.done());
    for number in 1..=2 {
        assert!(lb.counter(&format!("backend.backend-{number}")) > 0, "{:?}", lb.status().counters);
    }
    assert_eq!(lb.terminate(), Some(0));
    assert_eq!(near.firewall.terminate(), Some(0));
}

/// A backend has the service's addresses and answers through the balancer.
fn server(bench: &mut Bench, bridge: &str, number: u16) -> String {
    let namespace = bench.namespace(&format!("-s{number}"));
    let outer = format!("b{number}");
    bench.link((&namespace, "s0"), (bridge, &outer));
    run("ip", &format!("-n {bridge} link set dev {outer} master br0"));
    let own = Address {
        v4: ["10.0.0.1", "10.0.0.2"][usize::from(number) - 1],
        v6: ["fd00::1", "fd00::2"][usize::from(number) - 1],
    };
    host(&namespace, "s0", Some(backend_mac(number)), &own);
    run("ip", &format!("-n {namespace} address add {}/32 dev lo", SERVER.v4));
    run("ip", &format!("-n {namespace} address add {}/128 dev lo", SERVER.v6));
    for (version, gateway) in [("-4", "10.0.0.254"), ("-6", "fd00::fe")] {
        run(
            "ip",
            &format!(
                "{version} -n {namespace} neighbour add {gateway} lladdr {} dev s0 nud permanent",
                mac(5)
            ),
        );
        run("ip", &format!("{version} -n {namespace} route add default via {gateway} dev s0"));
    }
    serve_uploads(&namespace, &BOTH, UPLOAD);
    serve_echo(&namespace, &BOTH, QUIC);
    serve_http(&namespace, &BOTH, HTTP, number);
    namespace
}

fn http(client: &str) {
    let mut answered = std::collections::BTreeSet::new();
    for address in ["192.0.2.10", "[2001:db8::10]"] {
        for _ in 0..8 {
            let said = text(client, &format!("curl -sS --fail --max-time 10 http://{address}/who"));
            answered.insert(said.trim().to_owned());
        }
        let said = text(
            client,
            &format!(
                "curl -sS --fail --max-time 20 -o /dev/null -w %{{size_download}} http://{address}/large"
            ),
        );
        assert_eq!(said, ends::LARGE.to_string());
    }
    assert_eq!(answered, ["1", "2"].map(str::to_owned).into(), "both backends");
    let said = text(client, "wrk -t 1 -c 20 -d 2s --timeout 5s http://192.0.2.10/who");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    let rate = said.lines().find(|l| l.contains("Requests/sec")).unwrap_or_else(|| panic!("{said}"));
    eprintln!("wrk: {}", rate.trim());
}

fn names(namespace: &str) -> Daemon {
    let listen = BOTH.map(|a| format!("--listen-address={a}")).join(" ");
    let daemon = "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces \
                  --user=root --pid-file= --address=/service.test/192.0.2.99";
    Daemon::start(namespace, &format!("{daemon} {listen}"))
}

fn dns(client: &str) {
    for address in BOTH {
        for (over, times) in [("+notcp", 10), ("+tcp", 3)] {
            for _ in 0..times {
                let said =
                    text(client, &format!("dig +short {over} +tries=5 +timeout=2 @{address} service.test A"));
                // It says when it asks again: the line loses some.
                let answers: Vec<&str> = said.lines().filter(|l| !l.starts_with(";;")).collect();
                assert_eq!(answers, ["192.0.2.99"], "{address} {over}: {said}");
            }
        }
    }
}

/// Long first datagrams, short ones after them; from one port to another, both ways.
fn datagrams_as_quic_sends_them(client: &str) {
    for (from, to) in [("0.0.0.0", SERVER.v4), ("::", SERVER.v6)] {
        let came = within(client, move || {
            let mut initial = vec![0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
            initial.resize(1200, 0xaa);
            (0..20)
                .filter(|n| transfer(from, to, QUIC, if n % 4 == 0 { &initial } else { &[0x43; 60] }))
                .count()
        });
        let came = came.join().unwrap();
        // The line loses some: in each direction, and what is lost is not sent again.
        assert!(came >= 15, "{to}: {came} of 20 answered");
    }
}

/// A megabyte by HTTP/3 from whichever backend, over the line as it is; IPv4 and IPv6.
fn http3(client: &str, servers: &[String]) {
    if !programs_are_there(&["gtlsclient", "gtlsserver", "openssl"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (key, certificate) = (at("key.pem"), at("certificate.pem"));
    run(
        "openssl",
        &format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=service.test"
        ),
    );
    let body: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    std::fs::write(at("large"), &body).unwrap();
    let document_root = directory.path().display();
    let serve = |s: &String| {
        BOTH.map(|a| {
            Daemon::start(s, &format!("gtlsserver -q -d {document_root} {a} {HTTP3} {key} {certificate}"))
        })
    };
    let _daemons: Vec<[Daemon; 2]> = servers.iter().map(serve).collect();
    for address in BOTH {
        for n in 0..3 {
            let to = at(&format!("{n}-{address}"));
            std::fs::create_dir(&to).unwrap();
            let began = Instant::now();
            text(
                client,
                &format!(
                    "gtlsclient -q --exit-on-all-streams-close --timeout 20s --download {to} {address} {HTTP3} https://service.test/large"
                ),
            );
            let came = std::fs::read(format!("{to}/large")).unwrap();
            assert!(came == body, "{address}: {} of {} octets", came.len(), body.len());
            eprintln!("{address}: 1 MiB by HTTP/3 in {:?}", began.elapsed());
        }
    }
}
