//! A man in the middle before a TPM: passes everything on, keeps the first quote it sees, and from then on answers
//! every request for a quote with that one.
//!
//! It takes the place of the TPM's socket for as long as it lives. What it sends is a true quote of the true TPM,
//! signed by the registered key: only its nonce is of another challenge.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::Context as _;

/// `TPM2_Quote` (TPM 2.0 Part 2, 6.5.2).
const QUOTE: [u8; 4] = [0, 0, 1, 0x58];
/// Tag, size, code.
const HEADER_BYTES: usize = 10;
/// Largest frame passed on, bytes.
const MAX_FRAME_BYTES: usize = 1 << 16;

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    first: Mutex<Option<Vec<u8>>>,
    replayed: AtomicUsize,
}

/// The man in the middle; the TPM has its socket back when this is dropped.
#[derive(Debug)]
pub struct Replay {
    socket: PathBuf,
    real: PathBuf,
    shared: Arc<Shared>,
}

impl Replay {
    /// Steps between a TPM's socket and its clients.
    pub fn before(socket: &Path) -> anyhow::Result<Self> {
        let real = socket.with_extension("real");
        fs::rename(socket, &real).with_context(|| format!("no TPM socket at {}", socket.display()))?;
        let it = Self { socket: socket.to_owned(), real, shared: Arc::default() };
        let listener = UnixListener::bind(socket).context("cannot take the TPM's place")?;
        let (real, shared) = (it.real.clone(), Arc::clone(&it.shared));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::Relaxed) {
                    break;
                }
                // One client at a time, as a TPM without a resource manager has it. A client that breaks off is done.
                let _done = UnixStream::connect(&real).and_then(|tpm| shared.serve(client, tpm));
            }
        });
        Ok(it)
    }

    /// How often an old quote was sent for a new challenge.
    pub fn replayed(&self) -> usize {
        self.shared.replayed.load(Ordering::Relaxed)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the listener; both may be gone already.
        let _woken = UnixStream::connect(&self.socket);
        let _restored = fs::rename(&self.real, &self.socket);
    }
}

impl Shared {
    fn serve(&self, mut client: UnixStream, mut tpm: UnixStream) -> io::Result<()> {
        loop {
            let request = read_frame(&mut client)?;
            let quote = request.get(6..HEADER_BYTES) == Some(&QUOTE);
            let kept = if quote { self.kept() } else { None };
            let answer = match kept {
                Some(old) => {
                    self.replayed.fetch_add(1, Ordering::Relaxed);
                    old
                }
                None => {
                    tpm.write_all(&request)?;
                    read_frame(&mut tpm)?
                }
            };
            if quote && succeeded(&answer) {
                self.keep(&answer);
            }
            client.write_all(&answer)?;
        }
    }

    fn kept(&self) -> Option<Vec<u8>> {
        self.first.lock().ok().and_then(|first| first.clone())
    }

    fn keep(&self, answer: &[u8]) {
        if let Ok(mut first) = self.first.lock() {
            first.get_or_insert_with(|| answer.to_vec());
        }
    }
}

fn succeeded(answer: &[u8]) -> bool {
    answer.get(6..HEADER_BYTES) == Some(&[0; 4])
}

fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER_BYTES];
    from.read_exact(&mut frame)?;
    let size = u32::from_be_bytes([frame[2], frame[3], frame[4], frame[5]]) as usize;
    if !(HEADER_BYTES..=MAX_FRAME_BYTES).contains(&size) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    frame.resize(size, 0);
    from.read_exact(&mut frame[HEADER_BYTES..])?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(code: [u8; 4], body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        [&[0x80, 1][..], &size.to_be_bytes(), &code, body].concat()
    }

    fn ask(socket: &Path, request: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(request).unwrap();
        read_frame(&mut stream).unwrap()
    }

    #[test]
    fn the_second_quote_is_the_first_and_all_else_passes() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("tpm.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                while let Ok(request) = read_frame(&mut stream) {
                    stream.write_all(&frame([0; 4], &request[HEADER_BYTES..])).unwrap();
                }
            }
        });
        {
            let replay = Replay::before(&socket).unwrap();
            assert_eq!(ask(&socket, &frame(QUOTE, b"one"))[HEADER_BYTES..], *b"one");
            assert_eq!(ask(&socket, &frame([0, 0, 1, 0x7e], b"read"))[HEADER_BYTES..], *b"read");
            assert_eq!(ask(&socket, &frame(QUOTE, b"two"))[HEADER_BYTES..], *b"one");
            assert_eq!(replay.replayed(), 1);
        }
        assert_eq!(ask(&socket, &frame(QUOTE, b"three"))[HEADER_BYTES..], *b"three", "the TPM is back");
    }
}
