//! The TPM, as far as the launcher needs it: read, extend, quote one PCR; keep an attestation key.
//!
//! TPM 2.0 frames are written here ([`codec`]) and sent to a socket or device ([`tcti`]): nine commands, no C library.
//! One client at a time and no resource manager: open, do, flush what was loaded, close. It never authorises with
//! anything but an empty password: a TPM whose owner has set one says `TPM_RC_BAD_AUTH`. Tests are in
//! `tests/lifecycle/`, on swtpm.

use std::io;

use attestation::ak::AkError;
use trust::Digest;

pub mod codec;
pub mod tcti;

use codec::{Command, Reader, Response, sized};
use tcti::{BUSY_MS, Backoff, Channel, Tcti};

const RH_OWNER: u32 = 0x4000_0001;
const CAP_HANDLES: u32 = 1;
const TRANSIENT_FIRST: u32 = 0x8000_0000;
const ALG_ECC: u16 = 0x0023;
const ALG_SHA256: u16 = 0x000b;
const ALG_ECDSA: u16 = 0x0018;
const ALG_NULL: u16 = 0x0010;
const ECC_NIST_P256: u16 = 0x0003;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign: it signs what this TPM made only.
const AK_ATTRIBUTES: u32 = 0x0005_0472;
/// Most handles asked for at once; more than any TPM keeps.
const MAX_HANDLES: u32 = 64;
const RC_OBJECT_MEMORY: u32 = 0x902;

/// What a TPM could not do.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// Nobody answers there.
    #[error(
        "no TPM at {tcti}: start swtpm (`swtpm socket --tpm2 --server type=unixio,path=… --tpmstate dir=… --flags not-need-init,startup-clear`) or name another in config.toml ([site.host.tpm] tcti)"
    )]
    Open {
        /// As given.
        tcti: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection failed, or the TPM was held by others for too long.
    #[error("TPM2_{command}: the TPM did not answer; is another client holding it, or has it ended?")]
    Transport {
        /// Which command.
        command: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TPM said no.
    #[error("TPM2_{command} answered {code:#05x} ({meaning})")]
    Code {
        /// Which command.
        command: &'static str,
        /// `TPM_RC`.
        code: u32,
        /// In words, with what to do.
        meaning: &'static str,
    },
    /// Not an answer of a TPM 2.0.
    #[error("TPM2_{command}: the answer is malformed at {field}; is a TPM 2.0 there?")]
    Response {
        /// Which command.
        command: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// No SHA-256 bank.
    #[error(
        "PCR {0} has no SHA-256 value: allocate the SHA-256 bank (`tpm2_pcrallocate sha256:all`) and restart"
    )]
    NoBank(u8),
    /// A key or signature of another kind than asked for.
    #[error("the TPM's attestation key: {0}")]
    Key(#[from] AkError),
    /// Another program's object where ours should be.
    #[error("the object at {handle:#010x} is not an attestation key of ours: move it (`tpm2_evictcontrol`)")]
    ForeignObject {
        /// Persistent handle.
        handle: u32,
    },
    /// A generation that cannot be.
    #[error("attestation key generation {0}: generations end at {max}", max = crate::ak::MAX_GENERATION)]
    Generation(u32),
    /// There is no key yet.
    #[error(
        "this TPM has no attestation key: make one with `mandate-launcher ak --tpm … --pcr …` and register it"
    )]
    NoKey,
}

/// An open TPM.
#[derive(Debug)]
pub struct Tpm {
    channel: Channel,
}

/// A loaded or persistent key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its handle.
    pub handle: u32,
    /// SubjectPublicKeyInfo, DER, base64.
    pub public_key: String,
}

/// A quote as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedQuote {
    /// `TPMS_ATTEST`, exact bytes.
    pub attest: Vec<u8>,
    /// DER, low-S, base64.
    pub signature: String,
}

impl Tpm {
    /// Opens a TPM, waiting a bounded time while others hold it.
    pub fn open(tcti: &Tcti) -> Result<Self, TpmError> {
        Ok(Self { channel: Channel::open(tcti)? })
    }

    /// Number of TPM resets: another value means that every PCR began anew.
    pub fn reset_count(&mut self) -> Result<u32, TpmError> {
        let response = self.run(&Command::new("ReadClock", 0x181))?;
        let mut r = response.parameters()?;
        r.u64("time")?;
        r.u64("clockInfo.clock")?;
        r.u32("clockInfo.resetCount")
    }

    /// The SHA-256 value of a PCR.
    pub fn pcr_read(&mut self, pcr: u8) -> Result<Digest, TpmError> {
        let response = self.run(&Command::new("PCR_Read", 0x17e).raw(&selection(pcr)))?;
        let mut r = response.parameters()?;
        r.u32("pcrUpdateCounter")?;
        // A bank that is not allocated comes back deselected, without a value.
        if r.expect("pcrSelectionOut", &selection(pcr)).is_err() || r.u32("pcrValues.count")? != 1 {
            return Err(TpmError::NoBank(pcr));
        }
        let value = r.sized("pcrValues")?.try_into();
        value.map(Digest).map_err(|_| TpmError::NoBank(pcr))
    }

    /// Extends the SHA-256 bank of a PCR.
    pub fn pcr_extend(&mut self, pcr: u8, event: &Digest) -> Result<(), TpmError> {
        let command =
            Command::new("PCR_Extend", 0x182).authorised(pcr.into()).u32(1).u16(ALG_SHA256).raw(&event.0);
        self.run(&command).map(drop)
    }

    /// Quotes exactly one PCR of the SHA-256 bank.
    pub fn quote(&mut self, key: u32, pcr: u8, qualifying: &Digest) -> Result<SignedQuote, TpmError> {
        let command = Command::new("Quote", 0x158)
            .authorised(key)
            .sized(&qualifying.0)
            .u16(ALG_NULL)
            .raw(&selection(pcr));
        let response = self.run(&command)?;
        let mut r = response.parameters()?;
        let attest = r.sized("quoted")?.to_vec();
        r.expect("signature.sigAlg", &ALG_ECDSA.to_be_bytes())?;
        r.expect("signature.hash", &ALG_SHA256.to_be_bytes())?;
        let signature = attestation::ak::signature_der(r.sized("signatureR")?, r.sized("signatureS")?)?;
        Ok(SignedQuote { attest, signature })
    }

    /// Derives the restricted P-256 signing key that belongs to `unique`; the same each time. Flush it.
    pub fn create_primary(&mut self, unique: &Digest) -> Result<Key, TpmError> {
        let mut public = template();
        public.extend(sized(&unique.0));
        public.extend(sized(&[0; 32]));
        let command = Command::new("CreatePrimary", 0x131)
            .authorised(RH_OWNER)
            .sized(&[0; 4]) // no password, no data
            .sized(&public)
            .sized(&[]) // outsideInfo
            .u32(0); // creationPCR
        let response = self.run(&command)?;
        let (handle, mut r) = response.handle_and_parameters()?;
        Ok(Key { handle, public_key: read_public(&mut r, handle)? })
    }

    /// The public half of a persistent key of ours.
    pub fn read_public(&mut self, handle: u32) -> Result<Key, TpmError> {
        let response = self.run(&Command::new("ReadPublic", 0x173).handle(handle))?;
        Ok(Key { handle, public_key: read_public(&mut response.parameters()?, handle)? })
    }

    /// Makes a loaded object persistent, or (with both handles the same) a persistent one go.
    pub fn evict_control(&mut self, object: u32, persistent: u32) -> Result<(), TpmError> {
        let command = Command::new("EvictControl", 0x120).authorised(RH_OWNER).handle(object).u32(persistent);
        self.run(&command).map(drop)
    }

    /// Unloads a transient object.
    pub fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        self.run(&flush_command(handle)).map(drop)
    }

    /// Handles of one kind, from `first` on, ascending.
    pub fn handles(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        let response = self.run(&handles_command(first))?;
        read_handles(&response)
    }

    /// Runs a command: waits while the TPM is busy with itself, makes room once when it is full.
    fn run(&mut self, command: &Command) -> Result<Response, TpmError> {
        let mut backoff = Backoff::new(BUSY_MS);
        let mut made_room = false;
        loop {
            let bytes = self.channel.transact(command.name(), &command.to_bytes())?;
            let response = Response::parse(command.name(), bytes)?;
            match response.code {
                0 => return Ok(response),
                RC_OBJECT_MEMORY if !made_room => {
                    made_room = true;
                    self.flush_orphans()?;
                }
                code if is_busy(code) && backoff.again() => {}
                code => return Err(TpmError::Code { command: command.name(), code, meaning: meaning(code) }),
            }
        }
    }

    /// Flushes transient objects of clients that died: we are the only client now, so nobody else uses them.
    fn flush_orphans(&mut self) -> Result<(), TpmError> {
        // Not through `run`, which would come back here.
        let ask = handles_command(TRANSIENT_FIRST);
        let bytes = self.channel.transact(ask.name(), &ask.to_bytes())?;
        for handle in read_handles(&Response::parse(ask.name(), bytes)?)? {
            let flush = flush_command(handle);
            self.channel.transact(flush.name(), &flush.to_bytes())?;
        }
        Ok(())
    }
}

fn flush_command(handle: u32) -> Command {
    Command::new("FlushContext", 0x165).u32(handle)
}

fn handles_command(first: u32) -> Command {
    Command::new("GetCapability", 0x17a).u32(CAP_HANDLES).u32(first).u32(MAX_HANDLES)
}

fn read_handles(response: &Response) -> Result<Vec<u32>, TpmError> {
    let mut r = response.parameters()?;
    r.u8("moreData")?;
    r.u32("capability")?;
    let count = r.u32("handles.count")?.min(MAX_HANDLES);
    (0..count).map(|_| r.u32("handles")).collect()
}

/// `TPML_PCR_SELECTION` of one PCR in the SHA-256 bank.
fn selection(pcr: u8) -> [u8; 10] {
    let mut out = [0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0];
    if let Some(byte) = out.get_mut(7 + usize::from(pcr / 8)) {
        *byte = 1 << (pcr % 8);
    }
    out
}

/// `TPMT_PUBLIC` of an attestation key, up to its `unique`.
fn template() -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(ALG_ECC.to_be_bytes());
    out.extend(ALG_SHA256.to_be_bytes()); // nameAlg
    out.extend(AK_ATTRIBUTES.to_be_bytes());
    out.extend(sized(&[])); // authPolicy
    for parameter in [ALG_NULL, ALG_ECDSA, ALG_SHA256, ECC_NIST_P256, ALG_NULL] {
        out.extend(parameter.to_be_bytes()); // symmetric, scheme and its hash, curve, kdf
    }
    out
}

fn read_public(r: &mut Reader<'_>, handle: u32) -> Result<String, TpmError> {
    let public = r.sized("outPublic")?;
    let mut inside = r.inside(public);
    inside.expect("outPublic", &template()).map_err(|_| TpmError::ForeignObject { handle })?;
    Ok(attestation::ak::public_key(inside.sized("unique.x")?, inside.sized("unique.y")?)?)
}

/// `TPM_RC_YIELDED`, `TESTING`, `NV_RATE`, `RETRY`.
fn is_busy(code: u32) -> bool {
    matches!(code, 0x908 | 0x90a | 0x920 | 0x922)
}

/// The codes a person meets. Format-one codes carry the parameter or session in bits 6 and 8 to 11.
fn meaning(code: u32) -> &'static str {
    match code {
        0x100 => "TPM_RC_INITIALIZE: the TPM was not started; give swtpm `--flags startup-clear`",
        RC_OBJECT_MEMORY => "TPM_RC_OBJECT_MEMORY: other clients' objects fill it; use device:/dev/tpmrm0",
        0x921 => "TPM_RC_LOCKOUT: dictionary-attack lockout; `tpm2_dictionarylockout --clear-lockout`",
        _ => match code & 0xbf {
            0xa2 | 0x8e => "TPM_RC_BAD_AUTH: the owner hierarchy has a password; ours must be empty",
            0x8b => "TPM_RC_HANDLE: no object with that handle",
            0x84 => "TPM_RC_VALUE: a value out of the TPM's range",
            _ => "see TPM 2.0 Library Part 2, 6.6, or `tpm2_rc_decode`",
        },
    }
}
