//! An image for the launcher's tests: writes what it is and may do as JSON beside its control socket, then waits for its
//! end. It stands where `mandate-dataplane` stands otherwise and takes the same arguments.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().skip_while(|a| *a != name).nth(1).cloned().unwrap_or_default();
    let link = |path: &str| fs::read_link(path).map(|p| p.display().to_string()).unwrap_or_default();
    let fds: BTreeMap<String, String> = fs::read_dir("/proc/self/fd")?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .map(|fd| (fd.clone(), link(&format!("/proc/self/fd/{fd}"))))
        .collect();
    let report = serde_json::json!({
        "arguments": arguments,
        "configuration": fs::read_to_string(after("--config"))?,
        "status": fs::read_to_string("/proc/self/status")?,
        "limits": fs::read_to_string("/proc/self/limits")?,
        "environment": std::env::vars().collect::<Vec<_>>(),
        "fds": fds,
        "netns": link("/proc/self/ns/net"),
        "directory": std::env::current_dir()?,
        "session": fs::read_to_string("/proc/self/stat")?.split(' ').nth(5),
    });
    let control = PathBuf::from(after("--control"));
    fs::write(control.with_extension("part"), report.to_string())?;
    fs::rename(control.with_extension("part"), control.with_extension("json"))?;
    std::thread::sleep(std::time::Duration::from_secs(60));
    Ok(())
}
