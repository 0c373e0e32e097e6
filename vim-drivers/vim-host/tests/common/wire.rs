//! Frames put on a wire without any data plane, and other ends for control sockets.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::net::UnixListener},
    path::Path,
};

use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket},
};

/// Sends frames out of an interface of a named namespace, in order.
pub fn emit(namespace: &str, interface: &str, frames: &[Vec<u8>]) -> Result<(), String> {
    let file =
        File::open(Path::new("/run/netns").join(namespace)).map_err(|e| format!("{namespace}: {e}"))?;
    let (interface, frames) = (interface.to_owned(), frames.to_vec());
    let sent = std::thread::spawn(move || -> io::Result<()> {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let address = getifaddrs()?
            .filter(|i| i.interface_name == interface)
            .find_map(|i| i.address?.as_link_addr().copied())
            .ok_or(io::ErrorKind::NotFound)?;
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll)?;
        bind(fd.as_raw_fd(), &address)?;
        for frame in frames {
            send(fd.as_raw_fd(), &frame, MsgFlags::empty())?;
        }
        Ok(())
    });
    sent.join().map_err(|_| "the sender panicked".to_owned())?.map_err(|e| e.to_string())
}

/// Listens in another's place, and never answers.
pub fn squat(socket: &Path) -> Result<UnixListener, String> {
    drop(std::fs::remove_file(socket));
    UnixListener::bind(socket).map_err(|e| e.to_string())
}
