//! Calls of `mandate-launcher`, which measures before anything runs and asks the TPM for quotes.

use std::{
    ffi::OsString,
    path::Path,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use attestation::Evidence;
use nix::unistd::{getegid, geteuid};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::timeout,
};
use trust::Digest;
use vim::ObjectKey;

use crate::{
    Site, TpmConfig,
    error::HostError,
    netns,
    state::{InstancePaths, Record},
};

/// Longest wait for a measurement or a quote: the launcher itself waits up to 30 s for the log's lock.
const TPM_WAIT: Duration = Duration::from_secs(60);
/// Exit codes of the launcher that mean the TPM or its event log, not what was to be started.
const TPM_EXIT_CODES: [i32; 2] = [4, 5];
/// What the data plane may do beyond its user's rights: raw sockets on its ports, locked memory.
const CAPABILITIES: &str = "net_raw,ipc_lock";
/// Environment that passes through; everything else is cleared.
const ENVIRONMENT: [&str; 4] = ["PATH", "MANDATE_LOG", "RUST_LOG", "RUST_BACKTRACE"];

/// A launch that ended before the data plane answered.
pub(crate) fn ended(status: ExitStatus, paths: &InstancePaths) -> HostError {
    let (problem, log) = (format!("it ended with {status}"), paths.log_tail());
    match status.code() {
        Some(code) if TPM_EXIT_CODES.contains(&code) => HostError::LaunchTpm { problem, log },
        _ => HostError::Launch { problem, log },
    }
}

impl Site {
    /// Starts an instance: the process that is spawned measures itself into place and becomes the data plane.
    pub(crate) fn launch(
        &self,
        record: &Record,
        paths: &InstancePaths,
        cgroup: Option<&Path>,
    ) -> Result<Child, HostError> {
        let (key, image, user) = (&record.key, &record.spec.image, record.user);
        let failed = |e: std::io::Error| HostError::Launch {
            problem: format!("{}: {e}", self.config.launcher.display()),
            log: paths.log_tail(),
        };
        let log = paths.new_log().map_err(failed)?;
        let mut command = self.command("launch");
        command.arg("--instance").arg(key.as_str());
        command.arg("--image").arg(self.layout.image(image)).arg("--expect-image").arg(image.to_string());
        command.arg("--configuration").arg(paths.configuration());
        command.arg("--netns").arg(netns::path(&self.namespace(key)));
        let (uid, gid) = user.map_or_else(|| (geteuid().as_raw(), getegid().as_raw()), |id| (id, id));
        command.arg("--user").arg(format!("{uid}:{gid}"));
        command.arg("--control").arg(paths.control()).arg("--cap").arg(CAPABILITIES);
        command.arg("--pidfile").arg(paths.pidfile());
        if let Some(cgroup) = cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.arg("--").args(&self.config.dataplane_arguments);
        // The launcher opens a session of its own: what ends us (a terminal's interrupt, say) is not for it.
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        command.spawn().map_err(failed)
    }

    /// Measures a configuration that a running instance is about to be given. Nothing to do without a TPM.
    pub(crate) async fn measure(&self, key: &ObjectKey, document: &Path) -> Result<(), HostError> {
        if self.config.tpm.is_none() {
            return Ok(());
        }
        let mut command = self.command("measure");
        command.arg("--instance").arg(key.as_str()).arg("--configuration").arg(document);
        let output = finish(command, None).await.map_err(|problem| HostError::Measure { problem })?;
        words(&output).map(drop).map_err(|problem| HostError::Measure { problem })
    }

    /// A quote over the event log that binds the nonce and these exact claims.
    pub(crate) async fn quote(
        &self,
        tpm: &TpmConfig,
        nonce: &Digest,
        claims: &str,
    ) -> Result<Evidence, HostError> {
        let mut command = self.command("quote");
        command.arg("--nonce").arg(nonce.to_string());
        if let Some(generation) = tpm.ak_generation {
            command.arg("--ak-generation").arg(generation.to_string());
        }
        command.arg("--claims").arg("-");
        let quote = |problem: String| HostError::Quote { problem };
        let output = finish(command, Some(claims.to_owned())).await.map_err(quote)?;
        let bytes = words(&output).map_err(quote)?;
        let evidence: Evidence =
            serde_json::from_slice(bytes).map_err(|e| quote(format!("its answer is not evidence: {e}")))?;
        if evidence.claims == claims {
            Ok(evidence)
        } else {
            Err(quote("the evidence has other claims".into()))
        }
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.config.launcher);
        command.env_clear();
        command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // What it was started for can be seen in /proc/PID/environ, and found in the collector.
        command.envs(vim::trace::current().map(|context| (vim::trace::VARIABLE, context.to_string())));
        command.arg(verb);
        if let Some(tpm) = &self.config.tpm {
            let flags: [OsString; 6] = [
                "--tpm".into(),
                tpm.tcti.clone().into(),
                "--log".into(),
                tpm.event_log.clone().into(),
                "--pcr".into(),
                tpm.pcr.to_string().into(),
            ];
            command.args(flags);
        }
        command
    }
}

/// Runs a command to its end, with this on its standard input.
async fn finish(mut command: Command, input: Option<String>) -> Result<Output, String> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("it does not start: {e}"))?;
    let pipe = child.stdin.take();
    let run = async {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            // A launcher that refuses its arguments closes the pipe unread; its words tell why.
            let _unread = pipe.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await.map_err(|e| e.to_string())
    };
    timeout(TPM_WAIT, run).await.map_err(|_| format!("no answer within {} s", TPM_WAIT.as_secs()))?
}

/// What it said, or why it failed.
fn words(output: &Output) -> Result<&[u8], String> {
    if output.status.success() {
        return Ok(&output.stdout);
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}
