//! Hosts in namespaces: their addresses, what they serve, what they ask.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dataplane_control::MacAddr;

use crate::support::{run, wire::within};

/// Bytes of `/large`.
pub const LARGE: usize = 1 << 20;
const WITHIN: Duration = Duration::from_secs(20);

/// Of a host, in networks of 24 and 64 bits.
pub struct Address {
    pub v4: &'static str,
    pub v6: &'static str,
}

/// Makes an interface one of a host. Frames leave it as they are on a wire: whole, and with their checksums.
pub fn host(namespace: &str, interface: &str, mac: Option<MacAddr>, address: &Address) {
    let settings = [
        "ipv6.conf.all.disable_ipv6=0",
        "ipv6.conf.default.disable_ipv6=0",
        "ipv6.conf.all.accept_ra=0",
        "ipv4.conf.all.rp_filter=0",
        "ipv4.conf.default.rp_filter=0",
    ];
    for setting in settings {
        run("ip", &format!("netns exec {namespace} sysctl -qw net.{setting}"));
    }
    run("ip", &format!("netns exec {namespace} sysctl -qw net.ipv6.conf.{interface}.disable_ipv6=0"));
    run("ip", &format!("-n {namespace} link set dev lo up"));
    if let Some(mac) = mac {
        run("ip", &format!("-n {namespace} link set dev {interface} address {mac}"));
    }
    run("ip", &format!("netns exec {namespace} ethtool -K {interface} tx off gro off"));
    run("ip", &format!("-n {namespace} address add {}/24 dev {interface}", address.v4));
    run("ip", &format!("-n {namespace} address add {}/64 dev {interface} nodad", address.v6));
}

fn command(namespace: &str, line: &str) -> Command {
    let mut it = Command::new("ip");
    it.args(["netns", "exec", namespace]).args(line.split_whitespace());
    it
}

/// What a program says, whether or not it succeeds.
pub fn asks(namespace: &str, line: &str) -> String {
    let output = command(namespace, line).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// What a program says on its standard output when it succeeds.
pub fn text(namespace: &str, line: &str) -> String {
    let output = command(namespace, line).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "`{line}`: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// A program that serves until it is dropped.
pub struct Daemon(Child);

impl Daemon {
    pub fn start(namespace: &str, line: &str) -> Self {
        let it = Self(command(namespace, line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        std::thread::sleep(Duration::from_millis(200));
        it
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves each connection in a thread of its own; all end with the test's process.
fn serve(
    namespace: &str,
    addresses: &[&'static str],
    port: u16,
    answer: impl Fn(TcpStream) -> std::io::Result<()> + Copy + Send + 'static,
) {
    for address in addresses.iter().copied() {
        let listener = within(namespace, move || TcpListener::bind((address, port)).unwrap()).join().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away early is its own affair.
                std::thread::spawn(move || drop(answer(stream)));
            }
        });
    }
}

/// Every byte's share of a sum, so that none may be elsewhere.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Answers what it received: how much, and its fingerprint.
pub fn serve_uploads(namespace: &str, addresses: &[&'static str], port: u16) {
    serve(namespace, addresses, port, |mut stream| {
        let mut all = vec![];
        stream.read_to_end(&mut all)?;
        write!(stream, "{} {:x}", all.len(), fingerprint(&all))
    });
}

/// Sends so many bytes, and hears that each arrived.
pub fn upload(namespace: &str, address: &'static str, port: u16, bytes: usize) {
    let said = within(namespace, move || {
        let all: Vec<u8> = (0..bytes).map(|n| (n * 7 + n / 251).to_le_bytes()[0]).collect();
        let mut stream = TcpStream::connect((address, port)).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        stream.write_all(&all).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        (said, format!("{} {:x}", all.len(), fingerprint(&all)))
    });
    let (said, expected) = said.join().unwrap();
    assert_eq!(said, expected, "{address}");
}

/// `/large`: a megabyte; anything else: the server's number. Connections are kept.
pub fn serve_http(namespace: &str, addresses: &[&'static str], port: u16, number: u16) {
    serve(namespace, addresses, port, move |stream| {
        stream.set_nodelay(true)?;
        let mut to = stream.try_clone()?;
        let mut from = BufReader::new(stream);
        loop {
            let mut request = String::new();
            if from.read_line(&mut request)? == 0 {
                return Ok(());
            }
            let mut header = String::new();
            while from.read_line(&mut header)? > 2 {
                header.clear();
            }
            let body = match request.contains(" /large ") {
                true => vec![b'x'; LARGE],
                false => number.to_string().into_bytes(),
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            to.write_all(&[head.as_bytes(), &body].concat())?;
        }
    });
}

/// Sends every datagram back.
pub fn serve_echo(namespace: &str, addresses: &[&'static str], port: u16) {
    for address in addresses.iter().copied() {
        let socket = within(namespace, move || UdpSocket::bind((address, port)).unwrap()).join().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                // Nobody there any more.
                let _gone = socket.send_to(&buffer[..n], from);
            }
        });
    }
}

/// Whether a datagram came back as it was sent, from a new port.
pub fn transfer(from: &str, to: &str, port: u16, datagram: &[u8]) -> bool {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.connect((to, port)).unwrap();
    // An error is an answer to what was sent before.
    let mut buffer = vec![0; 1 << 16];
    socket.send(datagram).is_ok() && socket.recv(&mut buffer).is_ok_and(|n| buffer[..n] == *datagram)
}
