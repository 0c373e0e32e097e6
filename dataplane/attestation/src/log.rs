//! The event log and its PCR: what the launcher and the verifier compute alike.
//!
//! A line is the one canonical JSON text of its [`Measurement`] ([`encode`]); [`decode`] refuses every other text, so
//! that nothing hides in a line that a reader would not see. Event digest: SHA-256 of the line without its newline.
//! PCR: `SHA-256(PCR ‖ event digest)`, as `TPM2_PCR_Extend` does. It never does I/O; the launcher's file protocol is
//! the launcher's. Tests are below and in `tests/`.

use trust::Digest;

use crate::evidence::{MAX_MEASUREMENTS, Measurement, MeasurementKind};

/// Longest line, bytes: two digests and an instance key.
pub const MAX_LINE_BYTES: usize = 1024;
/// Longest instance key, bytes.
pub const MAX_INSTANCE_BYTES: usize = 256;
/// Highest PCR that may hold measurements: from 16 on, software can reset them without a restart of the machine
/// (PC Client Platform TPM Profile, 4.6: 16 and 23 at any locality, 17 to 22 by a dynamic launch).
pub const MAX_PCR: u8 = 15;

/// Why a log is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// More than [`MAX_MEASUREMENTS`].
    #[error("{0} measurements; at most {MAX_MEASUREMENTS}")]
    TooMany(usize),
    /// A line that [`encode`] would not write.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 0.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A gap or a repetition.
    #[error("line {line} has seq {found}, expected {line}: a line is missing, repeated or out of order")]
    Sequence {
        /// Counted from 0.
        line: usize,
        /// What it says.
        found: u64,
    },
}

/// A log, replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The PCR after the last measurement.
    pub value: Digest,
    /// The PCR before the last measurement; the baseline in an empty log.
    pub before_last: Digest,
    /// Every measurement, in order.
    pub measurements: Vec<Measurement>,
}

/// The PCR after an event: `SHA-256(pcr ‖ event)`.
#[must_use]
pub fn extend(pcr: &Digest, event: &Digest) -> Digest {
    let mut bytes = pcr.0.to_vec();
    bytes.extend_from_slice(&event.0);
    Digest::of(bytes)
}

/// The event digest of a line: what the PCR is extended with.
#[must_use]
pub fn event_digest(line: &str) -> Digest {
    Digest::of(line.as_bytes())
}

/// What a quote over one PCR has as its `pcrDigest`.
#[must_use]
pub fn quoted_digest(pcr: &Digest) -> Digest {
    Digest::of(pcr.0)
}

/// The line of a measurement, without a newline: always the same bytes.
#[must_use]
pub fn encode(measurement: &Measurement) -> String {
    // A struct of strings and numbers always encodes.
    serde_json::to_string(measurement).unwrap_or_default()
}

/// Reads one line; refuses any text that [`encode`] would not have written.
pub fn decode(line: &str) -> Result<Measurement, String> {
    if line.len() > MAX_LINE_BYTES {
        return Err(format!("{} bytes; at most {MAX_LINE_BYTES}", line.len()));
    }
    let measurement: Measurement = serde_json::from_str(line).map_err(|e| e.to_string())?;
    check_instance(measurement.kind.instance())?;
    if encode(&measurement) != line {
        return Err("not in canonical form".into());
    }
    Ok(measurement)
}

/// An instance key: 1 to [`MAX_INSTANCE_BYTES`] bytes of printable ASCII, without quotes and backslashes.
pub fn check_instance(key: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    if !key.is_empty() && key.len() <= MAX_INSTANCE_BYTES && key.bytes().all(good) {
        return Ok(());
    }
    Err(format!(
        "instance key {key:?} must be 1 to {MAX_INSTANCE_BYTES} printable ASCII characters without quotes and backslashes"
    ))
}

/// Replays lines from a baseline.
pub fn replay<'a>(
    baseline: &Digest,
    lines: impl ExactSizeIterator<Item = &'a str>,
) -> Result<Replay, LogError> {
    if lines.len() > MAX_MEASUREMENTS {
        return Err(LogError::TooMany(lines.len()));
    }
    let mut it = Replay { value: *baseline, before_last: *baseline, measurements: Vec::new() };
    for (line, text) in lines.enumerate() {
        let measurement = decode(text).map_err(|problem| LogError::Line { line, problem })?;
        if measurement.seq != line as u64 {
            return Err(LogError::Sequence { line, found: measurement.seq });
        }
        it.before_last = it.value;
        it.value = extend(&it.value, &event_digest(text));
        it.measurements.push(measurement);
    }
    Ok(it)
}

impl MeasurementKind {
    /// Object key of the instance it is about.
    #[must_use]
    pub fn instance(&self) -> &str {
        match self {
            Self::Launch { instance, .. } | Self::Configure { instance, .. } => instance,
        }
    }

    /// The configuration from here on.
    #[must_use]
    pub fn configuration(&self) -> &Digest {
        match self {
            Self::Launch { configuration, .. } | Self::Configure { configuration, .. } => configuration,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn launch(seq: u64) -> Measurement {
        let kind = MeasurementKind::Launch {
            instance: "ns1/vfw/0".into(),
            image: Digest::of("image"),
            configuration: Digest::of("configuration"),
        };
        Measurement { seq, kind }
    }

    #[test]
    fn line_is_stable() {
        let line = encode(&launch(0));
        assert_eq!(
            line,
            format!(
                r#"{{"seq":0,"event":"launch","instance":"ns1/vfw/0","image":"{}","configuration":"{}"}}"#,
                Digest::of("image"),
                Digest::of("configuration")
            )
        );
        assert_eq!(decode(&line), Ok(launch(0)));
    }

    #[test]
    fn refuses_lines_that_we_do_not_write() {
        let line = encode(&launch(0));
        let other = line.replacen('{', r#"{"extra":1,"#, 1);
        let spaced = line.replacen(':', ": ", 1);
        let reordered = line.replace(r#""seq":0,"#, "").replace('}', r#","seq":0}"#);
        let nameless = line.replace("ns1/vfw/0", "");
        let control = line.replace("ns1/vfw/0", "a\\u0000b");
        for bad in [&other, &spaced, &reordered, &nameless, &control, "", "[]", &"x".repeat(1025)] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn extends_as_a_tpm_does() {
        // PCR of zeros extended with SHA-256("mandate"), computed with sha256sum.
        let zero = Digest([0; 32]);
        let twice = extend(&extend(&zero, &Digest::of("a")), &Digest::of("b"));
        assert_eq!(extend(&zero, &Digest::of("mandate")).hex(), EXTENDED);
        assert_ne!(twice, extend(&extend(&zero, &Digest::of("b")), &Digest::of("a")));
    }
    const EXTENDED: &str = "a9fa9e6450f536b2488420c24890633d726a3d5a9d5412ad848566064bbdcddd";

    #[test]
    fn replays_and_finds_gaps() {
        let lines = [encode(&launch(0)), encode(&launch(1))];
        let base = Digest([0; 32]);
        let replayed = replay(&base, lines.iter().map(String::as_str)).unwrap();
        assert_eq!(replayed.before_last, extend(&base, &event_digest(&lines[0])));
        assert_eq!(replayed.value, extend(&replayed.before_last, &event_digest(&lines[1])));
        let gap = replay(&base, lines[1..].iter().map(String::as_str));
        assert_eq!(gap, Err(LogError::Sequence { line: 0, found: 1 }));
        let empty = replay(&base, std::iter::empty()).unwrap();
        assert_eq!((empty.value, empty.before_last), (base, base));
    }

    proptest! {
        #[test]
        fn random_lines_never_panic(line in ".{0,200}") {
            let _ = decode(&line);
        }

        #[test]
        fn round_trip(seq: u64, instance in "[a-z0-9/._-]{1,64}", launched: bool, seed: u8) {
            let (image, configuration) = (Digest([seed; 32]), Digest([!seed; 32]));
            let kind = if launched {
                MeasurementKind::Launch { instance, image, configuration }
            } else {
                MeasurementKind::Configure { instance, configuration }
            };
            let measurement = Measurement { seq, kind };
            prop_assert_eq!(decode(&encode(&measurement)), Ok(measurement));
        }
    }
}
