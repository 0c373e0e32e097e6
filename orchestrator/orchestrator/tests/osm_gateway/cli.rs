//! The `osm` command itself, where `OSM_CLI` names it, over TLS: nothing but its URL is another one.

use std::process::{Command, Output};

use reqwest::StatusCode;

use crate::clients::{PASSWORD, Setup, real};

/// Runs a command.
struct Cli<'a> {
    program: String,
    setup: &'a Setup,
}

impl Cli<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let host = self.setup.run().tls.to_string();
        let mut command = Command::new(&self.program);
        let user = self.setup.user("alice");
        command.args([
            "--hostname",
            &host,
            "--user",
            &user,
            "--password",
            PASSWORD,
            "--project",
            &self.setup.project,
        ]);
        command.args(arguments).output().unwrap()
    }

    /// It did what it was asked for; what it said.
    fn did(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !said.contains("ERROR"), "osm {}: {said}", arguments.join(" "));
        println!("$ osm {}\n{said}", arguments.join(" "));
        said
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_osm_command_needs_another_url_and_nothing_else() {
    let program = std::env::var("OSM_CLI").unwrap_or_default();
    if program.is_empty() || real().is_none() {
        println!("SKIPPED: set OSM_CLI to the `osm` command and OSM_NBI_URL to an NBI's URL");
        return;
    }
    let mut setup = Setup::new().await;
    tokio::task::block_in_place(|| {
        let cli = Cli { program, setup: &setup };
        assert!(cli.did(&["nsd-list"]).contains("secure_edge_ns"));
        assert!(cli.did(&["vim-list"]).contains("gw-cloud"));
        let nsd = setup.nsd.clone();
        let config = serde_json::to_string(
            &serde_json::json!({ "additionalParamsForVnf": setup.ns("x")["additionalParamsForVnf"] }),
        )
        .unwrap();
        let create = [
            "ns-create",
            "--ns_name",
            "edge-1",
            "--nsd_name",
            &nsd,
            "--vim_account",
            "gw-cloud",
            "--config",
            &config,
            "--wait",
        ];
        cli.did(&create);
        let listed = cli.did(&["ns-list"]);
        assert!(listed.contains("edge-1") && listed.contains("READY"), "{listed}");
        assert!(cli.did(&["ns-show", "edge-1"]).contains("secure_edge_ns"));
        let vnfs = cli.did(&["vnf-list", "--ns", "edge-1"]);
        assert!(vnfs.contains("vfw") && vnfs.contains("vlb"), "{vnfs}");
        cli.did(&["vnf-scale", "edge-1", "vlb", "--scaling-group", "backends", "--scale-out", "--wait"]);
        let ops = cli.did(&["ns-op-list", "edge-1"]);
        assert!(ops.contains("instantiate") && ops.contains("scale") && ops.contains("COMPLETED"), "{ops}");
        // Refused: OSM's own form, shown by its own client.
        let forced = cli.run(&["ns-delete", "edge-1", "--force"]);
        let said =
            format!("{}{}", String::from_utf8_lossy(&forced.stdout), String::from_utf8_lossy(&forced.stderr));
        assert!(said.contains("OSM_GATEWAY_NOT_CARRIED"), "{said}");
        println!("$ osm ns-delete edge-1 --force\n{said}");
        cli.did(&["ns-delete", "edge-1", "--wait"]);
        assert!(!cli.did(&["ns-list"]).contains("edge-1"));
    });
    let alice = setup.alice().await;
    assert_eq!(alice.get_any("nslcm/v1/ns_instances").await.0, StatusCode::OK);
    assert_eq!(setup.world.left(), Vec::new());
    setup.stop().await;
}
