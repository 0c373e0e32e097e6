//! Who signed: a member of an organisation of the channel.

use std::{collections::BTreeSet, sync::Arc};

use prost::Message as _;
use trust::{
    UnixTime,
    msp::{Member, Role},
};

use crate::{channel::Channel, gateway::message::SerializedIdentity, message::Timestamp};

/// Which members count.
#[derive(Clone, Copy)]
pub(super) enum Of {
    /// Whoever may submit.
    Submitters,
    /// Peers of application organisations.
    Peers,
    /// Orderers of orderer organisations.
    Orderers,
}

/// Reads a [`SerializedIdentity`].
pub(super) fn identity(bytes: &[u8]) -> Result<SerializedIdentity, String> {
    SerializedIdentity::decode(bytes).map_err(|e| format!("a signer's identity cannot be read: {e}"))
}

/// The member that an identity is at that time, when it counts; `None`: at any time.
pub(super) fn member(
    channel: &Channel,
    of: Of,
    identity: &SerializedIdentity,
    at: Option<UnixTime>,
) -> Result<Arc<Member>, String> {
    let id = &identity.msp_id;
    let (ids, kind, role): (&BTreeSet<String>, _, _) = match of {
        Of::Submitters => (channel.application_ids(), "application", None),
        Of::Peers => (channel.application_ids(), "application", Some(Role::Peer)),
        Of::Orderers => (channel.orderer_ids(), "orderer", Some(Role::Orderer)),
    };
    let msp = ids.get(id).and_then(|id| channel.msp(id));
    let msp =
        msp.ok_or_else(|| format!("`{id}` is no {kind} organisation of channel `{}`", channel.name()))?;
    let said = |e| format!("of `{id}`: {e}");
    let member = msp.member(&identity.id_bytes).map_err(said)?;
    if let Some(at) = at {
        member.check(at).map_err(said)?;
    }
    match role {
        Some(role) if role != member.role => {
            Err(format!("of `{id}`: its role is {}, not {role}", member.role))
        }
        _ => Ok(member),
    }
}

/// Whole seconds.
pub(super) fn seconds(time: Option<Timestamp>) -> Option<UnixTime> {
    time.and_then(|t| u64::try_from(t.seconds).ok()).map(UnixTime)
}
