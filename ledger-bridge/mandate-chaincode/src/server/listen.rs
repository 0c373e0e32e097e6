//! Connections of peers, their handshakes done.

use std::{io, time::Duration};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once: one for each peer, and room for those that connect again.
const MAX_HANDSHAKES: usize = 64;
/// Pause after the machine had no socket for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A connection, whatever it is made of.
pub(super) trait ReadWrite: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ReadWrite for T {}

impl Connected for Box<dyn ReadWrite> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Every connection; dropping the stream closes the port.
pub(super) fn connections(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
) -> impl Stream<Item = io::Result<Box<dyn ReadWrite>>> {
    let (done, ready) = mpsc::channel(MAX_HANDSHAKES);
    stream::unfold((listener, tls, done, ready), async |(listener, tls, done, mut ready)| {
        loop {
            tokio::select! {
                Some(connection) = ready.recv() => return Some((Ok(connection), (listener, tls, done, ready))),
                accepted = listener.accept(), if done.capacity() > 0 => match accepted {
                    Ok((socket, from)) => {
                        let Ok(place) = done.clone().try_reserve_owned() else { continue };
                        let tls = tls.clone();
                        tokio::spawn(async move {
                            match handshake(socket, tls).await {
                                Ok(connection) => drop(place.send(connection)),
                                Err(problem) => tracing::warn!(%from, %problem, "a connection was refused"),
                            }
                        });
                    }
                    Err(problem) => {
                        tracing::warn!(%problem, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    })
}

async fn handshake(socket: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<Box<dyn ReadWrite>> {
    socket.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(socket)) };
    let stream = timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)).await;
    Ok(Box::new(stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??))
}
