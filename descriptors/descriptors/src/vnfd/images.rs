//! Software images: what they are, and that those in the package have the digest that the descriptor says.
//!
//! Tests: `tests/lint.rs`, `tests/platform.rs`.

use std::collections::BTreeMap;

use trust::Digest;

use super::Vnf;
use crate::{diagnostic::Code, model::SwImage, schema::clip, yaml::Node};

/// What `pack` replaces by the image's SHA-256 in a package's source.
pub(crate) const PLACEHOLDER: (&str, &str) = ("@sha256:", "@");
/// SOL006's default of `disk-format`.
const DEFAULT_DISK_FORMAT: &str = "qcow2";

impl Vnf<'_, '_> {
    pub(super) fn images(&mut self, path: &str) -> BTreeMap<String, SwImage> {
        let mut out = BTreeMap::new();
        for (i, node) in self.root.items("sw-image-desc").iter().enumerate() {
            let path = format!("{path}/sw-image-desc/{i}");
            let Some(id) = node.str("id") else { continue };
            let name = node.str("name").unwrap_or(id);
            let image = node.str("image").unwrap_or(name).to_owned();
            let sha256 = self.checksum(node, &path);
            self.packaged_image(node, &path, &image, sha256);
            let container = node.get("container-format").filter(|c| c.text() != Some("bare"));
            if container.is_some() {
                self.r.ignored(
                    node,
                    "container-format",
                    &path,
                    "images are stored as the disks that they are",
                );
            }
            let version = node.str("version").unwrap_or_default().to_owned();
            let disk_format = node.str("disk-format").unwrap_or(DEFAULT_DISK_FORMAT).to_owned();
            let (id, name) = (id.to_owned(), name.to_owned());
            out.insert(id.clone(), SwImage { id, name, version, image, sha256, index: i, disk_format });
        }
        out
    }

    fn checksum(&mut self, image: &Node, path: &str) -> Option<Digest> {
        let checksum = image.get("checksum")?;
        let path = format!("{path}/checksum");
        let algorithm = checksum.get("algorithm")?;
        let hash = checksum.get("hash")?;
        if crate::yaml::local(algorithm.text()?) != "sha-256" {
            let message = format!("algorithm `{}`: only sha-256 is checked", algorithm.text()?);
            self.r.lint.warning(Code::Ignored, &path, algorithm.at, message).hint("give the SHA-256 instead");
            return None;
        }
        let text = hash.text()?;
        if text.starts_with(PLACEHOLDER.0) && text.ends_with(PLACEHOLDER.1) {
            let message = format!("`{text}` stands for the image's digest");
            self.r.lint.warning(Code::Placeholder, &path, hash.at, message).hint("`pack` fills it in");
            return None;
        }
        let digest = Digest::from_hex(&text.to_ascii_lowercase());
        if digest.is_err() {
            let message = format!("`{}` is not a SHA-256", clip(text));
            self.r
                .lint
                .error(Code::BadValue, &path, hash.at, message)
                .hint("64 hexadecimal digits, as sha256sum prints them");
        }
        digest.ok()
    }

    /// An image path inside the package must be there and have the digest the descriptor says.
    fn packaged_image(&mut self, node: &Node, path: &str, image: &str, sha256: Option<Digest>) {
        let Some(within) = self.within.filter(|w| w.images && image.starts_with("images/")) else { return };
        let at = node.get("image").map_or(node.at, |n| n.at);
        let Some(bytes) = within.files.get(image) else {
            let message = format!("`{image}` is not in the package");
            self.r
                .lint
                .error(Code::File, path, at, message)
                .hint("put it there, or name an image of the VIM");
            return;
        };
        if let Some(expected) = sha256
            && Digest::of(bytes) != expected
        {
            let message = format!("`{image}` has {}, the descriptor says {expected}", Digest::of(bytes));
            self.r.lint.error(Code::File, path, at, message).hint("pack it again from its source");
        }
    }
}
