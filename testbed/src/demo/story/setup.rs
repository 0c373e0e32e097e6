//! Points 1 and 2: a home, sites, an orchestrator, packages.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, ensure};

use super::{OTHER_TENANT, Story, TENANT, text};
use crate::{command, demo::confined, up::tpm::Swtpm};

/// Sources of the packages, and how they are called here.
pub(super) const PACKAGES: [&str; 3] = ["vfw_vnf", "vlb_vnf", "secure_edge_ns"];
const STRIP_LIMIT: Duration = Duration::from_secs(60);

impl Story {
    pub(super) fn init(&mut self) -> anyhow::Result<String> {
        let mut line: Vec<String> =
            ["init", "--tenant", TENANT, "--tenant", OTHER_TENANT].map(str::to_owned).to_vec();
        for (site, properties) in self.sites {
            line.extend(["--site".into(), format!("{site}={properties}")]);
            if !self.attests {
                continue;
            }
            line.extend(["--tpm".into(), format!("{site}={}", Swtpm::at(&self.stage.tpms(), site).tcti())]);
        }
        let made = self.stage.mandate.ask(&line)?;
        let again = self.stage.mandate.refused(&line)?;
        ensure!(again.code == "HOME_EXISTS", "a second init was refused with {}", again.code);
        self.check_modes()?;
        if confined() {
            // In a user namespace there are no other users to run instances as.
            self.edit_config(|line| {
                if line.starts_with("first_uid") { "first_uid = 0".into() } else { line.into() }
            })?;
        }
        Ok(format!("ledger {}", text(&made, "ledger")?))
    }

    /// Private keys are their owner's alone.
    fn check_modes(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut keys = 0;
        for org in fs::read_dir(self.stage.mandate.home().join("pki"))? {
            for file in fs::read_dir(org?.path())? {
                let path = file?.path();
                if path.extension().is_some_and(|e| e == "key") {
                    let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
                    ensure!(mode == 0o600, "{} has mode {mode:o}, not 600", path.display());
                    keys += 1;
                }
            }
        }
        ensure!(keys > 0, "init made no keys");
        Ok(())
    }

    /// Rewrites `config.toml` line by line, as an operator with an editor does.
    pub(super) fn edit_config(&self, change: impl Fn(&str) -> String) -> anyhow::Result<()> {
        let path = self.stage.mandate.home().join("config.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines: Vec<String> = text.lines().map(change).collect();
        fs::write(&path, lines.join("\n") + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn tpms(&mut self) -> anyhow::Result<String> {
        for site in &self.stage.sites {
            Swtpm::start(&self.stage.tpms(), site)?;
        }
        Ok("swtpm, TPM 2.0".into())
    }

    pub(super) fn serve(&mut self) -> anyhow::Result<String> {
        self.empty = self.stage.places.look();
        self.stage.start_serve()?;
        Ok(String::new())
    }

    pub(super) fn enrol(&mut self) -> anyhow::Result<String> {
        for site in self.stage.sites.clone() {
            self.stage.mandate.ask(&["site", "enrol", &site, "--as", "operator/operator"])?;
        }
        Ok("signed by the operator, on the ledger".into())
    }

    pub(super) fn packages(&mut self) -> anyhow::Result<String> {
        let image = self.image()?;
        self.register(&PACKAGES, &image)?;
        Ok("SBOM, SLSA provenance, signature".into())
    }

    /// Packs, signs and pushes packages of ours; `image` (`ID=FILE`) goes into those of VNFs.
    pub(super) fn register(&self, packages: &[&str], image: &str) -> anyhow::Result<()> {
        let lockfile = self.stage.programs.root.join("Cargo.lock").display().to_string();
        let dir = self.stage.path("provider");
        fs::create_dir_all(&dir)?;
        for name in packages {
            self.note(name);
            let source =
                self.stage.programs.root.join("descriptors/packages").join(name).display().to_string();
            let unsigned = dir.join(format!("{name}.unsigned.tar.gz")).display().to_string();
            let signed = dir.join(format!("{name}.tar.gz")).display().to_string();
            let mut pack = vec!["package", "pack", &source, "-o", &unsigned];
            if !name.ends_with("_ns") {
                pack.extend(["--image", image, "--lockfile", &lockfile]);
                pack.extend(["--root-package", "mandate-dataplane", "--builder", "provider/builder"]);
            }
            self.stage.mandate.ask(&pack)?;
            self.stage.mandate.ask(&[
                "package",
                "sign",
                &unsigned,
                "--as",
                "provider/provider",
                "-o",
                &signed,
            ])?;
            self.stage.mandate.ask(&["package", "push", &signed, "--as", "provider/provider"])?;
        }
        Ok(())
    }

    /// The built data plane without its symbols, as `ID=FILE`.
    fn image(&self) -> anyhow::Result<String> {
        let built = &self.stage.programs.dataplane;
        let image = self.stage.path("mandate-dataplane");
        if command::exists("strip") {
            let mut strip = Command::new("strip");
            command::succeed(strip.arg("-o").arg(&image).arg(built), STRIP_LIMIT)?;
        } else {
            fs::copy(built, &image).with_context(|| format!("cannot copy {}", built.display()))?;
        }
        Ok(format!("mandate-dataplane={}", image.display()))
    }
}
