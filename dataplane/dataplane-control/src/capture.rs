//! What is copied of the frames that pass, and where to.

use serde::{Deserialize, Serialize};

use crate::{
    config::{ConfigError, PortRange, Prefix, invalid},
    number,
    port::MAX_FILE_BYTES,
};

/// Longest frame, bytes; more is never kept of one.
pub const MAX_SNAPLEN: u16 = 2048;
/// Most frames of one capture.
pub const MAX_CAPTURED_FRAMES: u32 = 10_000_000;
/// Longest capture, ms.
pub const MAX_CAPTURE_MS: u32 = 600_000;

/// Copies frames, as they came in, to a new file (pcapng) until enough were taken or the time is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Which frames.
    #[serde(default)]
    pub filter: CaptureFilter,
    /// How many, at most [`MAX_CAPTURED_FRAMES`].
    pub limit: u32,
    /// How long, ms, at most [`MAX_CAPTURE_MS`].
    pub duration_ms: u32,
    /// Bytes kept of each frame, at most [`MAX_SNAPLEN`].
    #[serde(default = "whole_frames")]
    pub snaplen: u16,
    /// The file, on the data plane's machine and as its user; there must be none of that name.
    pub path: String,
}

fn whole_frames() -> u16 {
    MAX_SNAPLEN
}

/// All of what is there must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureFilter {
    /// Name of the port where it came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// IP protocol number.
    #[serde(default, deserialize_with = "number::or_none", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Source prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// Destination prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
    /// Source ports, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<PortRange>,
    /// Destination ports, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<PortRange>,
    /// Frames that go the other way, source for destination, are meant too.
    #[serde(default)]
    pub both_ways: bool,
    /// What became of it: `forward`, `drop`, or the reason of a drop as its counter has it (`no_rule`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
}

/// What was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureReport {
    /// Frames in the file.
    pub frames: u64,
    /// Frames that were meant, but came faster than they could be written.
    pub missed: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

impl Capture {
    /// Ranges.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |field: &str, value: u32, most: u32| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(invalid(format!("capture.{field}"), format!("{value} is not within 1 to {most}"))),
        };
        within("limit", self.limit, MAX_CAPTURED_FRAMES)?;
        within("duration_ms", self.duration_ms, MAX_CAPTURE_MS)?;
        within("snaplen", self.snaplen.into(), MAX_SNAPLEN.into())?;
        match self.path.len() {
            1..=MAX_FILE_BYTES => Ok(()),
            n => Err(invalid("capture.path", format!("has {n} bytes, not 1 to {MAX_FILE_BYTES}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_held_and_the_rest_has_defaults() {
        let good: Capture = serde_json::from_str(r#"{"limit":1,"duration_ms":1,"path":"/a"}"#).unwrap();
        assert_eq!((good.snaplen, &good.filter), (MAX_SNAPLEN, &CaptureFilter::default()));
        assert_eq!(good.check(), Ok(()));
        for bad in [
            Capture { limit: 0, ..good.clone() },
            Capture { limit: MAX_CAPTURED_FRAMES + 1, ..good.clone() },
            Capture { duration_ms: MAX_CAPTURE_MS + 1, ..good.clone() },
            Capture { snaplen: 0, ..good.clone() },
            Capture { path: String::new(), ..good },
        ] {
            assert!(bad.check().unwrap_err().to_string().contains("capture."));
        }
    }
}
