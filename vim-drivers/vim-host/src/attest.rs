//! Evidence over instances: what each says of itself, what the kernel says it executes, whether the kernel has cut
//! its traffic, and the TPM's quote.
//!
//! No evidence of an instance whose process is gone (`INSTANCE_DOWN`) or not the one that was started
//! (`INSTANCE_REPLACED`); both say so at once, which `CONTROL_IO` and `QUOTE_FAILED`, which may pass, do not.

use attestation::{Claim, Evidence};
use trust::Digest;
use vim::ObjectKey;

use crate::{Site, blocking, compute::Fabric, error::HostError, image::hash, isolation::is_cut};

impl Site {
    /// Claims are collected first, then quoted: the quote binds their exact bytes and the nonce.
    pub(crate) async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, HostError> {
        let no_tpm = || HostError::NoTpm { site: self.name.clone() };
        let tpm = self.config.tpm.as_ref().ok_or_else(no_tpm)?;
        let fabric = self.fabric_links(|key| keys.contains(key)).await?;
        let mut claims = Vec::with_capacity(keys.len());
        for key in keys {
            claims.push(self.claim(key, &fabric).await?);
        }
        let document = serde_json::to_string(&claims).map_err(|e| HostError::Internal(e.to_string()))?;
        self.quote(tpm, nonce, &document).await
    }

    /// The executable is hashed anew each time: what is remembered is no evidence.
    async fn claim(&self, key: &ObjectKey, fabric: &Fabric) -> Result<Claim, HostError> {
        let record = self.record(key).await?.ok_or(HostError::InstanceAbsent)?;
        let (process, status) = self.running(key).await?;
        let executable = process.executable();
        let image = blocking(move || hash(&executable)).await?;
        // The same process still: the file hashed is the one that answered.
        if !process.runs() {
            return Err(HostError::InstanceDown { log: self.layout.instance(key).log_tail() });
        }
        Ok(Claim {
            instance: key.to_string(),
            image,
            configuration: status.configuration,
            generation: status.generation,
            isolated: is_cut(&record, fabric) || status.isolated,
        })
    }
}
