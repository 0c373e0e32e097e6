//! What an operator sets up once, on a real NBI with `OSM_NBI_URL` and replayed without: Kubernetes clusters. (VIM accounts are part of every
//! other test.)
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{World, world::ACCOUNT};
use mano::conformance::Fixture as _;
use serde_json::json;

const CLUSTER: &str = "mandate-t-cluster";

#[tokio::test]
async fn a_cluster_is_made_once_and_goes() {
    let w = World::new("cluster").await;
    let accounts = w.list("admin/v1/vim_accounts").await;
    let account = accounts.iter().find(|a| a["name"] == ACCOUNT).unwrap()["_id"].clone();
    let document = json!({
        "credentials": { "apiVersion": "v1", "kind": "Config" }, "vim_account": account,
        "k8s_version": "1.28", "nets": { "net1": "mgmt" },
    });
    let made = w.osm.ensure_cluster(CLUSTER, &document).await.unwrap();
    assert!(made.enabled, "{}", made.detail);
    // One of that name that is there is used as it is.
    assert_eq!(w.another().ensure_cluster(CLUSTER, &document).await.unwrap(), made);
    let wrong = w.osm.ensure_cluster("mandate-t-other", &json!({ "k8s_version": "1.28" })).await.unwrap_err();
    assert_eq!(wrong.code, "OSM_REFUSED", "{wrong}");
    w.osm.remove_cluster(CLUSTER).await.unwrap();
    w.osm.remove_cluster(CLUSTER).await.unwrap();
    assert!(w.list("admin/v1/k8sclusters").await.iter().all(|c| c["name"] != CLUSTER));
    w.close().await.unwrap();
}
