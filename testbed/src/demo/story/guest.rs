//! A home that is taken to another machine: packages registered, intents signed, nothing deployed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Act, Story, TENANT};

/// Emulated, and without a TPM.
pub(super) const SITES: &[(&str, &str)] = &[("edge", "DE,latency-us=1000,cost=4")];

pub(super) const ACTS: &[Act] = &[
    ("operator: found ledger, journal and identities", Story::init),
    ("operator: start the orchestrator", Story::serve),
    ("provider: pack, sign and register three packages", Story::packages),
    ("tenant: sign what is to be done there", Story::sign_ahead),
];

const SERVICE: &str = "guest";

impl Story {
    /// The home directory.
    pub fn home(&self) -> &Path {
        self.stage.mandate.home()
    }

    /// A file beside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.stage.path(name)
    }

    pub(super) fn sign_ahead(&mut self) -> anyhow::Result<String> {
        let params = self.stage.programs.root.join("testbed/scenarios/wan.params.yaml").display().to_string();
        // An emulated machine is slow: what is promised is that it works.
        let deploy = [
            "deploy",
            "--service",
            SERVICE,
            "--nsd",
            "secure_edge_ns",
            "--tenant",
            TENANT,
            "--params",
            &params,
            "--throughput-kbps",
            "100",
            "--latency-p95-us",
            "5000000",
            "--loss-ppm",
            "500000",
        ];
        let terminate = ["terminate", "--service", SERVICE, "--tenant", TENANT];
        let scale = super::service::scale_by(SERVICE, "1");
        for (name, line) in [("deploy", &deploy[..]), ("scale", &scale), ("terminate", &terminate)] {
            let (id, signed) = self.intent(TENANT, line)?;
            let file = self.stage.path(&format!("{name}.dsse.json"));
            fs::copy(signed, &file)?;
            fs::write(file.with_extension("json.id"), serde_json::to_string(&id)?)?;
        }
        self.stage.stop_serve();
        self.report.evidence.verified = true;
        Ok("deploy, scale, terminate".into())
    }
}
