//! The port's suite on this machine: real namespaces, bridges, veth pairs and processes; launcher and data plane are
//! the stand-in of `examples/`. The run with the real ones is `tests/real.rs`.

mod common;

use common::{Host, Recipe, TwoImages, conclude, is_root, only, standin};
use vim::conformance;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_vim_conforms() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = TwoImages::of(&standin(), dir.path());
    let recipe =
        Recipe { launcher: standin(), images, tpm: None, run_as: None, dataplane_arguments: Vec::new() };
    let report = conformance::run(async || Host::new(&recipe), only().as_deref()).await;
    conclude(&report);
}
