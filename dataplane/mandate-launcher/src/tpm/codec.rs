//! TPM 2.0 commands and responses as bytes (Library Part 1, 18; Part 3): big endian, sized buffers, one password session.
//!
//! Only what the launcher's commands need. It never talks to a TPM and believes no length in a response. Tests are
//! below; `tests/lifecycle/` runs every command on a TPM.

use super::TpmError;

/// Longest command or response, bytes (`TPM_PT_MAX_COMMAND_SIZE` is 4096 on the TPMs we know).
pub const MAX_FRAME_BYTES: usize = 4096;
/// Tag, size, code.
pub const HEADER_BYTES: usize = 10;

const ST_NO_SESSIONS: u16 = 0x8001;
const ST_SESSIONS: u16 = 0x8002;
/// `TPM_RS_PW`, an empty nonce, no attributes, an empty password.
const EMPTY_PASSWORD: [u8; 9] = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// A command under construction: handles first, then the session, then parameters.
#[derive(Debug)]
pub struct Command {
    name: &'static str,
    code: u32,
    handles: Vec<u8>,
    session: bool,
    parameters: Vec<u8>,
}

impl Command {
    /// `TPM_CC_*` by name and number.
    pub fn new(name: &'static str, code: u32) -> Self {
        Self { name, code, handles: Vec::new(), session: false, parameters: Vec::new() }
    }

    /// The command's name in the specification, without `TPM2_`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A handle that is authorised with an empty password.
    pub fn authorised(mut self, handle: u32) -> Self {
        self.session = true;
        self.handle(handle)
    }

    /// A handle that needs no authorisation.
    pub fn handle(mut self, handle: u32) -> Self {
        self.handles.extend(handle.to_be_bytes());
        self
    }

    /// A `UINT16` or an algorithm.
    pub fn u16(mut self, value: u16) -> Self {
        self.parameters.extend(value.to_be_bytes());
        self
    }

    /// A `UINT32`, or a handle as a parameter.
    pub fn u32(mut self, value: u32) -> Self {
        self.parameters.extend(value.to_be_bytes());
        self
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.parameters.extend(bytes);
        self
    }

    /// A `TPM2B_*`.
    pub fn sized(mut self, bytes: &[u8]) -> Self {
        self.parameters.extend(sized(bytes));
        self
    }

    /// The frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = self.handles.clone();
        if self.session {
            body.extend([0, 0, 0, 9]);
            body.extend(EMPTY_PASSWORD);
        }
        body.extend(&self.parameters);
        let tag = if self.session { ST_SESSIONS } else { ST_NO_SESSIONS };
        let size = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
        [&tag.to_be_bytes()[..], &size.to_be_bytes(), &self.code.to_be_bytes(), &body].concat()
    }
}

/// A `TPM2B_*` of at most 65535 bytes; all of ours are below 200.
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Size of a frame according to its header; `None` while the header is incomplete.
pub fn frame_size(bytes: &[u8]) -> Option<usize> {
    let size: [u8; 4] = bytes.get(2..6)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(size)).ok()
}

/// A response, checked to be as long as it says.
#[derive(Debug)]
pub struct Response {
    command: &'static str,
    bytes: Vec<u8>,
    sessions: bool,
    /// `TPM_RC`; 0 is success.
    pub code: u32,
}

impl Response {
    /// Reads the header.
    pub fn parse(command: &'static str, bytes: Vec<u8>) -> Result<Self, TpmError> {
        let mut r = Reader { command, bytes: &bytes, offset: 0 };
        let tag = r.u16("tag")?;
        let size = r.u32("responseSize")?;
        let code = r.u32("responseCode")?;
        // TPM_ST_RSP_COMMAND (0x00c4) answers a TPM 1.2 command; never ours.
        if usize::try_from(size) != Ok(bytes.len()) || !matches!(tag, ST_SESSIONS | ST_NO_SESSIONS) {
            return Err(TpmError::Response { command, field: "the header" });
        }
        Ok(Self { command, sessions: tag == ST_SESSIONS, code, bytes })
    }

    /// The handle of a new object and the parameters after it.
    pub fn handle_and_parameters(&self) -> Result<(u32, Reader<'_>), TpmError> {
        let mut r = self.body();
        let handle = r.u32("the handle")?;
        if self.sessions {
            r.u32("parameterSize")?;
        }
        Ok((handle, r))
    }

    /// The parameters of a response without a handle.
    pub fn parameters(&self) -> Result<Reader<'_>, TpmError> {
        let mut r = self.body();
        if self.sessions {
            r.u32("parameterSize")?;
        }
        Ok(r)
    }

    fn body(&self) -> Reader<'_> {
        Reader { command: self.command, bytes: &self.bytes, offset: HEADER_BYTES }
    }
}

/// A cursor over parameters.
#[derive(Debug)]
pub struct Reader<'a> {
    command: &'static str,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Over the inside of a sized buffer of the same response.
    pub fn inside(&self, bytes: &'a [u8]) -> Self {
        Self { command: self.command, bytes, offset: 0 }
    }

    fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], TpmError> {
        let end = self.offset + length;
        let taken = self.bytes.get(self.offset..end);
        self.offset = end;
        taken.ok_or(TpmError::Response { command: self.command, field })
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], TpmError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N)?);
        Ok(out)
    }

    /// A byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, TpmError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// A `UINT16`.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, TpmError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    /// A `UINT32`.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, TpmError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// A `UINT64`.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, TpmError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// A `TPM2B_*`.
    pub fn sized(&mut self, field: &'static str) -> Result<&'a [u8], TpmError> {
        let length = self.u16(field)?;
        self.take(field, length.into())
    }

    /// Exactly these bytes.
    pub fn expect(&mut self, field: &'static str, wanted: &[u8]) -> Result<(), TpmError> {
        match self.take(field, wanted.len())? == wanted {
            true => Ok(()),
            false => Err(TpmError::Response { command: self.command, field }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_as_in_the_specification() {
        let read_clock = Command::new("ReadClock", 0x181).to_bytes();
        assert_eq!(read_clock, [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x81]);
        let extend =
            Command::new("PCR_Extend", 0x182).authorised(14).u32(1).u16(0x0b).raw(&[7; 32]).to_bytes();
        assert_eq!(frame_size(&extend), Some(extend.len()));
        assert_eq!(extend[..14], [0x80, 2, 0, 0, 0, 65, 0, 0, 1, 0x82, 0, 0, 0, 14]);
        assert_eq!(extend[14..27], [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn responses_are_believed_only_within_their_bytes() {
        let bytes = vec![0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0, 0, 9, 1, 2];
        let response = Response::parse("Quote", bytes.clone()).unwrap();
        assert!(matches!(response.parameters().unwrap().sized("quoted"), Err(TpmError::Response { .. })));
        assert!(Response::parse("Quote", bytes[..13].to_vec()).is_err());
        assert!(Response::parse("Quote", vec![]).is_err());
    }
}
