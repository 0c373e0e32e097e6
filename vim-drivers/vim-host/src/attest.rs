//! Evidence over instances: what each says of itself, what the kernel says it executes, and the TPM's quote.

use attestation::{Claim, Evidence};
use trust::Digest;
use vim::ObjectKey;

use crate::{Site, blocking, error::HostError, image::hash};

impl Site {
    /// Claims are collected first, then quoted: the quote binds their exact bytes and the nonce.
    pub(crate) async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, HostError> {
        let no_tpm = || HostError::NoTpm { site: self.name.clone() };
        let tpm = self.config.tpm.as_ref().ok_or_else(no_tpm)?;
        let mut claims = Vec::with_capacity(keys.len());
        for key in keys {
            claims.push(self.claim(key).await?);
        }
        let document = serde_json::to_string(&claims).map_err(|e| HostError::Internal(e.to_string()))?;
        self.quote(tpm, nonce, &document).await
    }

    /// The executable is hashed anew each time: what is remembered is no evidence.
    async fn claim(&self, key: &ObjectKey) -> Result<Claim, HostError> {
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
            isolated: status.isolated,
        })
    }
}
