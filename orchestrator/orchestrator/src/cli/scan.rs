//! Reading the ledger's entries in order, a page at a time. Nothing is verified here: who uses it does that.

use ledger_contract::records::Entry;

use super::{context::Context, failure::Failure};
use crate::client::Client;

/// Entries fetched at once.
pub const PAGE: usize = 500;

/// Hands the entries before number `until` to `f`, each with its number; one that cannot be read is passed over.
pub async fn entries(
    context: &Context,
    client: &Client,
    until: u64,
    mut f: impl FnMut(u64, &Entry),
) -> Result<(), Failure> {
    let mut from: u64 = 0;
    while from < until {
        let page = client.ledger_range(from, PAGE).await.map_err(|e| context.client_failure(e))?;
        if page.is_empty() {
            break;
        }
        for (number, line) in (from..until).zip(&page) {
            if let Ok(entry) = serde_json::from_str::<Entry>(line) {
                f(number, &entry);
            }
        }
        from = from.saturating_add(page.len() as u64);
    }
    Ok(())
}
