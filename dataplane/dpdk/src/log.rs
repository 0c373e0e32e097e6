//! What DPDK says, kept in memory until somebody asks: its own stream is stderr and syslog, and an error code of it
//! seldom says why.

use std::{
    collections::VecDeque,
    ffi::c_char,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Most lines kept; older ones go first. A driver's whole start is some ten lines.
const MAX_LINES: usize = 64;
/// Longest line kept, bytes.
const MAX_LINE_BYTES: usize = 512;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
/// Whether there may be lines: asking costs the packet thread no lock.
static ANY: AtomicBool = AtomicBool::new(false);

fn lines() -> MutexGuard<'static, VecDeque<String>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes every line DPDK logged since the last call.
#[must_use]
pub fn drain() -> Vec<String> {
    if !ANY.swap(false, Ordering::Acquire) {
        return Vec::new();
    }
    lines().drain(..).collect()
}

/// The lines so far, as the end of an error message: `; DPDK says: …`.
pub(crate) fn appendix() -> String {
    let all = drain();
    if all.is_empty() { String::new() } else { format!("; DPDK says: {}", all.join(" / ")) }
}

/// Sends DPDK's log here. Called once, before the EAL starts.
pub(crate) fn capture() -> bool {
    // SAFETY: `keep` is a function for the whole life of the process with the signature the shim declares, and does
    // not unwind. JUSTIFICATION: DPDK has no other way to give its log away.
    unsafe { dpdk_sys::mandate_log_to(Some(keep)) == 0 }
}

unsafe extern "C" fn keep(bytes: *const c_char, length: usize) {
    if bytes.is_null() {
        return;
    }
    // SAFETY: stdio calls the write function with `length` readable bytes. JUSTIFICATION: see `capture`.
    let text = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) };
    keep_text(&String::from_utf8_lossy(text));
}

fn keep_text(text: &str) {
    let mut kept = lines();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if kept.len() == MAX_LINES {
            kept.pop_front();
        }
        let mut end = line.len().min(MAX_LINE_BYTES);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        kept.push_back(line[..end].to_owned());
    }
    drop(kept);
    ANY.store(true, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_go_first_and_long_ones_are_cut_at_a_character() {
        keep_text("\n  first  \n");
        keep_text(&"ü".repeat(MAX_LINE_BYTES));
        for i in 0..MAX_LINES - 1 {
            keep_text(&format!("line {i}"));
        }
        let all = drain();
        assert_eq!(all.len(), MAX_LINES);
        assert_eq!(all[0], "ü".repeat(MAX_LINE_BYTES / 2));
        assert_eq!(all[1], "line 0");
        assert!(drain().is_empty());
    }
}
