//! Reading the ledger's entries in order, a page at a time. Nothing is verified here: who uses it does that.

use ledger_contract::records::Entry;

use super::{context::Context, failure::Failure};
use crate::client::Client;

/// Entries fetched at once.
pub const PAGE: usize = 500;

/// Hands the entries before `until` to `f`; one that cannot be read is passed over.
pub async fn entries(
    context: &Context,
    client: &Client,
    until: u64,
    mut f: impl FnMut(&Entry),
) -> Result<(), Failure> {
    let mut from = 0;
    while from < until {
        let page = client.ledger_range(from, PAGE).await.map_err(|e| context.client_failure(e))?;
        if page.is_empty() {
            break;
        }
        from = from.saturating_add(page.len() as u64);
        let read = page.iter().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        read.filter(|e| e.position < until).for_each(|e| f(&e));
    }
    Ok(())
}
