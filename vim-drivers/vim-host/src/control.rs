//! The control protocol over an instance's UNIX socket: blocking, bounded, off the runtime's workers.

use std::{os::unix::net::UnixStream, path::Path, time::Duration};

use dataplane_control::protocol::{Client, ProtocolError, Request, Response, Status};

use crate::{blocking, error::HostError};

/// Longest wait for an answer that needs no work.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// Longest wait for a configuration to be built and swapped in.
pub(crate) const CONFIGURE: Duration = Duration::from_secs(60);

/// One exchange on a connection of its own.
pub(crate) async fn exchange<T: Send + 'static>(
    socket: &Path,
    limit: Duration,
    f: impl FnOnce(&mut Client<UnixStream>) -> Result<T, ProtocolError> + Send + 'static,
) -> Result<T, HostError> {
    let socket = socket.to_owned();
    blocking(move || {
        let connect = || -> Result<_, ProtocolError> {
            let stream = UnixStream::connect(&socket)?;
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
            Client::new(stream)
        };
        Ok(connect().and_then(|mut client| f(&mut client))?)
    })
    .await
}

/// A request that is answered with a status.
pub(crate) async fn status(socket: &Path, request: Request, limit: Duration) -> Result<Status, HostError> {
    exchange(socket, limit, move |client| client.status(&request)).await
}

/// Asks it to drain and exit.
pub(crate) async fn shutdown(socket: &Path, limit: Duration) -> Result<(), HostError> {
    let ask = |client: &mut Client<UnixStream>| match client.ask(&Request::Shutdown)? {
        Response::Bye => Ok(()),
        other => Err(ProtocolError::Unexpected(format!("{other:?}"))),
    };
    exchange(socket, limit, ask).await
}
