//! Microversions: the newest that both sides know.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::Deserialize;

use super::{ApiError, Call, Client, Fault, Service};

/// Newest of nova that this driver was written for: Yoga's.
pub const COMPUTE: Microversion = Microversion(2, 90);
/// Newest of placement: Yoga's.
pub const PLACEMENT: Microversion = Microversion(1, 39);

/// `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Microversion(pub u32, pub u32);

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl FromStr for Microversion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self(major.parse().map_err(drop)?, minor.parse().map_err(drop)?))
    }
}

/// What was negotiated; `None`: the service has no microversions.
pub(super) type Known = BTreeMap<Service, Option<Microversion>>;

/// One version of an API, as its version document says.
#[derive(Debug, Deserialize)]
struct Offered {
    #[serde(default, alias = "version")]
    max_version: String,
    #[serde(default)]
    min_version: String,
}

/// nova's answer below `/v2.1`, and placement's at its root.
#[derive(Debug, Deserialize)]
struct Document {
    version: Option<Offered>,
    versions: Option<Vec<Offered>>,
}

/// The newest that both know; `Err`: why there is none.
fn negotiate(ours: Microversion, offered: &Offered) -> Result<Microversion, String> {
    let read = |text: &str| text.parse::<Microversion>().ok();
    let Some(newest) = read(&offered.max_version) else {
        return Err(format!("`{}` is no microversion", offered.max_version));
    };
    let oldest = read(&offered.min_version).unwrap_or(newest);
    match ours.min(newest) {
        common if common >= oldest => Ok(common),
        _ => Err(format!("it speaks {oldest} to {newest}, this driver at most {ours}")),
    }
}

impl Client {
    /// The microversion that is spoken with a service; asked once.
    pub(super) async fn version(&self, service: Service) -> Result<Option<Microversion>, ApiError> {
        let ours = match service {
            Service::Compute => COMPUTE,
            Service::Placement => PLACEMENT,
            Service::Identity | Service::Network | Service::Image | Service::Volume => return Ok(None),
        };
        let mut known = self.inner.versions.lock().await;
        if let Some(version) = known.get(&service) {
            return Ok(*version);
        }
        let call = Call::get(service, "");
        let place = format!("{} versions", service.project());
        let url = self.endpoint(service).await?;
        self.count(service);
        let token = self.session().await?;
        let request = self.inner.http.get(url).header("X-Auth-Token", token.token());
        let answer = request.send().await.map_err(|e| ApiError::sent(place.clone(), &e))?;
        let answer = super::answer::checked(answer, &call).await?;
        let bytes = super::answer::bounded(answer, 1 << 20, &call).await?;
        let unreadable = |problem: String| ApiError::new(place.clone(), Fault::Unreadable { problem });
        let document: Document = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        let offered = document.version.or_else(|| document.versions.and_then(|v| v.into_iter().next()));
        let offered = offered.ok_or_else(|| unreadable("it names no version".to_owned()))?;
        let version = negotiate(ours, &offered).map_err(unreadable)?;
        known.insert(service, Some(version));
        Ok(Some(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(min: &str, max: &str) -> Result<Microversion, String> {
        negotiate(COMPUTE, &Offered { max_version: max.into(), min_version: min.into() })
    }

    #[test]
    fn the_newest_that_both_know() {
        assert_eq!(with("2.1", "2.90"), Ok(COMPUTE));
        assert_eq!(with("2.1", "2.96"), Ok(COMPUTE));
        assert_eq!(with("2.1", "2.79"), Ok(Microversion(2, 79)));
        assert!(with("2.91", "2.100").is_err(), "2.100 is newer than 2.91");
        assert!(with("", "two").is_err());
        assert!("2.9".parse::<Microversion>().unwrap_or(COMPUTE) < COMPUTE, "2.9 is older than 2.90");
    }
}
