//! The pure traffic generator behind [`dataplane_control::traffic`].

use dataplane_control::{
    config::{ConfigError, MacAddr},
    traffic::{TrafficProfile, TrafficReport},
};

/// One run of a [`TrafficProfile`].
#[derive(Debug)]
pub struct Session {
    profile: TrafficProfile,
    report: TrafficReport,
    ends_us: u64,
}

impl Session {
    /// Prepares a run that starts at `now_us`; `mac` is ours.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the field of the profile that cannot be.
    pub fn new(profile: TrafficProfile, mac: MacAddr, now_us: u64) -> Result<Self, ConfigError> {
        let _ = mac;
        let ends_us = now_us + u64::from(profile.duration_ms) * 1000;
        let report = TrafficReport {
            elapsed_us: 0,
            tx_frames: 0,
            rx_frames: 0,
            loss_ppm: 0,
            throughput_kbps: 0,
            shortfall_frames: 0,
            latency_p50_us: 0,
            latency_p95_us: 0,
            latency_p99_us: 0,
            jitter_us: 0,
            groups: std::collections::BTreeMap::new(),
            neighbours: std::collections::BTreeMap::new(),
        };
        Ok(Self { profile, report, ends_us })
    }

    /// Writes the frame that is to be sent now, if any, and returns its length; call until `None`.
    pub fn next_frame(&mut self, now_us: u64, buffer: &mut [u8]) -> Option<usize> {
        let _ = (now_us, buffer, &self.profile);
        None
    }

    /// Takes in a received frame.
    pub fn receive(&mut self, now_us: u64, frame: &[u8]) {
        let _ = (now_us, frame);
    }

    /// Whether all was sent and the drain time is over.
    #[must_use]
    pub fn finished(&self, now_us: u64) -> bool {
        now_us >= self.ends_us
    }

    /// What happened so far.
    #[must_use]
    pub fn report(&self) -> TrafficReport {
        self.report.clone()
    }
}
