//! Ports of 127.0.0.1 that nobody listens on.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Context as _;

/// The first of `bases` from which on `count` ports are free.
pub fn row(bases: impl IntoIterator<Item = u16> + Clone, count: u16) -> anyhow::Result<u16> {
    let ends = || Some((bases.clone().into_iter().min()?, bases.clone().into_iter().max()?));
    let found = bases.clone().into_iter().find(|base| free(*base, count));
    found.with_context(|| {
        let (first, last) = ends().unwrap_or_default();
        format!("no {count} free ports in a row in {first}..={last} of 127.0.0.1")
    })
}

/// Are `count` ports from `base` on free?
pub fn free(base: u16, count: u16) -> bool {
    (base..base + count).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// Does somebody listen?
pub fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_a_port_that_is_taken_is_none() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(listens(port) && !free(port, 1));
        let e = row([port], 1).unwrap_err().to_string();
        assert!(e.contains(&port.to_string()), "{e}");
    }
}
