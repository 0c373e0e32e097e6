//! Our mark on what we make: how it is found again, by us and by nobody else.
//!
//! | of | mark | atomic with its creation |
//! |---|---|---|
//! | network, subnet, port, security group, QoS policy, trunk, floating IP | `description`: `mandate:<home>:<key>` | yes |
//! | server | `metadata` (`mandate.home`, `mandate.key`, …) and the tag `mandate-<home>`, by which servers are listed | yes |
//! | image | properties `mandate_home`, `mandate_digest`; a tag `mandate:<home>:<key>` for each key that refers to it, slashes as `~` | yes; tags are set one by one |
//! | volume | `metadata` (`mandate.home`, `mandate.key`, `mandate.volume`) | yes |
//! | server group | its name: `mandate:<home>:<key>` | yes |
//! | flavor | its id, `mandate-<home>-<digest of its content>`, which is also its name | yes |
//!
//! Neutron's tags are not used: they are set by a second call, and what a crash leaves between the two would be nobody's.
//! A text that only begins like a mark is none. Tests: below.

use vim::ObjectKey;

/// Metadata of a server.
pub(crate) const KEY: &str = "mandate.key";
/// Whose it is.
pub(crate) const HOME: &str = "mandate.home";
/// Digest of the image's bytes.
pub(crate) const IMAGE: &str = "mandate.image";
/// Digest of the configuration document.
pub(crate) const CONFIGURATION: &str = "mandate.configuration";
/// Digest of the specification without image and configuration.
pub(crate) const SHAPE: &str = "mandate.shape";
/// How many volumes a server has from us.
pub(crate) const VOLUMES: &str = "mandate.volumes";
/// Of a volume: its name in the descriptor.
pub(crate) const VOLUME: &str = "mandate.volume";
/// Its traffic is cut.
pub(crate) const ISOLATED: &str = "mandate.isolated";
/// A MANO made it: its MAC addresses are taken as they are.
pub(crate) const ADOPTED: &str = "mandate.adopted";
/// Property of an image: whose it is.
pub(crate) const IMAGE_HOME: &str = "mandate_home";
/// Property of an image: digest of its bytes.
pub(crate) const IMAGE_DIGEST: &str = "mandate_digest";
/// Property of an image: what glance's own hash of them must be.
pub(crate) const IMAGE_SHA512: &str = "mandate_sha512";

/// Beginning of every home's flavors' ids.
pub(crate) const FLAVORS: &str = "mandate-";

/// Longest name of a home, characters: with the longest key a mark has 241 of neutron's 255.
pub(crate) const MAX_HOME: usize = 32;

/// The marks of one home.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    home: String,
}

impl Marks {
    pub(crate) fn new(home: &str) -> Self {
        Self { home: home.to_owned() }
    }

    pub(crate) fn home(&self) -> &str {
        &self.home
    }

    /// On an object of this key.
    pub(crate) fn of(&self, key: &ObjectKey) -> String {
        format!("mandate:{}:{key}", self.home)
    }

    /// Whose object it is; `None`: not ours.
    pub(crate) fn read(&self, mark: &str) -> Option<ObjectKey> {
        let rest = mark.strip_prefix("mandate:")?.strip_prefix(self.home.as_str())?.strip_prefix(':')?;
        ObjectKey::new(rest).ok()
    }

    /// The same as a tag of glance's, which is a part of a path and must have no slash in it.
    pub(crate) fn image_tag(&self, key: &ObjectKey) -> String {
        self.of(key).replace('/', "~")
    }

    /// Whose tag it is.
    pub(crate) fn read_image_tag(&self, tag: &str) -> Option<ObjectKey> {
        self.read(&tag.replace('~', "/"))
    }

    /// The tag of our servers.
    pub(crate) fn tag(&self) -> String {
        format!("mandate-{}", self.home)
    }

    /// Beginning of our flavors' ids.
    pub(crate) fn flavors(&self) -> String {
        format!("{FLAVORS}{}-", self.home)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_others_are_not_ours() {
        let marks = Marks::new("edge");
        let key = ObjectKey::new("ns-1/vdu/a.b_c").unwrap();
        assert_eq!(marks.read_image_tag(&marks.image_tag(&key)), Some(key.clone()));
        assert_eq!(marks.read(&marks.of(&key)), Some(key));
        for other in [
            "",
            "mandate",
            "mandate:edge",
            "mandate:edge:",
            "mandate:edge:x",
            "mandate:edge-2:ns/vdu",
            "mandate:edg:ns/vdu",
            "mandate:edge:NS/vdu",
            "mandate:edge:ns/vdu ",
            " mandate:edge:ns/vdu",
            "Mandate:edge:ns/vdu",
        ] {
            assert_eq!(marks.read(other), None, "{other}");
        }
    }

    #[test]
    fn the_longest_mark_fits() {
        let marks = Marks::new(&"h".repeat(MAX_HOME));
        let key = ObjectKey::new(format!("n/{}", "k".repeat(198))).unwrap();
        assert!(marks.of(&key).len() <= 255);
        assert!(marks.tag().len() <= 60, "nova's tags");
    }
}
