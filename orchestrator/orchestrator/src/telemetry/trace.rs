//! W3C trace context, and the identities of an operation's spans.
//!
//! They are computed, not drawn: an operation's trace is the same after every restart and on every orchestrator, so a
//! span that is sent twice is the same span.

use trust::Digest;

/// A parsed `traceparent` (W3C Trace Context, level 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Trace.
    pub trace_id: [u8; 16],
    /// The span that is the parent.
    pub span_id: [u8; 8],
    /// Is the trace recorded?
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a header; whatever is not one is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lower = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        // Later versions may say more, version 00 may not.
        let more = parts.next().is_some();
        if version.len() != 2 || !lower(version) || version == "ff" || version == "00" && more {
            return None;
        }
        if !lower(trace) || !lower(span) || !lower(flags) || flags.len() != 2 {
            return None;
        }
        let trace_id: [u8; 16] = hex::decode(trace).ok()?.try_into().ok()?;
        let span_id: [u8; 8] = hex::decode(span).ok()?.try_into().ok()?;
        let flags = hex::decode(flags).ok()?;
        let zero = trace_id == [0; 16] || span_id == [0; 8];
        (!zero).then(|| Self { trace_id, span_id, sampled: flags.first().is_some_and(|f| f & 1 == 1) })
    }
}

impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", hex::encode(self.trace_id), hex::encode(self.span_id))
    }
}

fn first<const N: usize>(digest: &Digest) -> [u8; N] {
    std::array::from_fn(|i| digest.0[i])
}

/// The trace of an operation that nobody submitted under a trace of theirs.
#[must_use]
pub fn trace_id(operation: &str) -> [u8; 16] {
    first(&Digest::of_parts([b"mandate trace".as_slice(), operation.as_bytes()]))
}

/// A span of an operation: `operation`, `plan`, `step 3 attempt 1`, …
#[must_use]
pub fn span_id(operation: &str, name: &str) -> [u8; 8] {
    first(&Digest::of_parts([b"mandate span".as_slice(), operation.as_bytes(), name.as_bytes()]))
}

/// The name that an attempt's span is known under.
#[must_use]
pub fn attempt(step: u32, attempt: u32, undo: bool) -> String {
    format!("step {step} {} {attempt}", if undo { "undo" } else { "attempt" })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(trace: [u8; 16], span: [u8; 8], sampled: bool) {
            let it = TraceParent { trace_id: trace, span_id: span, sampled };
            let zero = trace == [0; 16] || span == [0; 8];
            proptest::prop_assert_eq!(TraceParent::parse(&it.to_string()), (!zero).then_some(it));
        }
        #[test]
        fn no_header_is_a_panic(text in "\\PC{0,60}|[0-9a-f-]{0,60}") {
            let _ = TraceParent::parse(&text);
        }
    }

    #[test]
    fn malformed_contexts_are_none() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(TraceParent::parse(good).unwrap().sampled);
        for bad in [
            &good.to_uppercase(),
            &good.replace("00-4", "ff-4"),
            &format!("{good}-x"),
            &good[..54],
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
        assert!(TraceParent::parse(&format!("{}-x", good.replace("00-4", "01-4"))).is_some());
    }
}
