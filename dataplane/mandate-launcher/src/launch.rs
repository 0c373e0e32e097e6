//! `launch` and `measure`: measured first, then run.
//!
//! Everything that can be found wrong without changing anything is found first; then the measurement goes into log and
//! PCR; then privileges go; then the sealed image is executed. Between measuring and executing nothing is opened by
//! path but `/dev/null` and the pid file. Tests are in `tests/lifecycle/`.

use std::{
    convert::Infallible,
    ffi::{CString, OsStr},
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use attestation::MeasurementKind;
use dataplane_control::config::MAX_CONFIGURATION_BYTES;
use nix::unistd::{AccessFlags, access, fexecve};
use serde::Deserialize;
use trust::Digest;

use crate::{
    cli::{Launch, Measure, Site},
    confine::{self, Confinement},
    error::Error,
    eventlog::{EventLog, Recovery},
    sealed::{MAX_IMAGE_BYTES, Purpose, Sealed, seal},
};

/// Name that the executed process sees as its own.
const ARGV0: &str = "mandate-dataplane";

/// Measures and executes; comes back only with an error.
pub fn launch(args: &Launch) -> Result<Infallible, Error> {
    if let Some(cgroup) = &args.cgroup {
        let procs = cgroup.join("cgroup.procs");
        // Only an existing one: that of a cgroup.
        let enter = fs::OpenOptions::new().write(true).open(&procs);
        let entered = enter.and_then(|mut f| f.write_all(std::process::id().to_string().as_bytes()));
        entered.map_err(|source| Error::File { what: "cgroup", path: procs, source })?;
    }
    let image = seal(&args.image, Purpose::Image, MAX_IMAGE_BYTES)?;
    if image.digest != args.expect_image {
        let (path, found) = (args.image.clone(), image.digest);
        return Err(Error::UnexpectedImage { path, expected: args.expect_image, found });
    }
    let configuration = take_configuration(&args.configuration, &args.instance)?;
    let arguments = arguments(args, &configuration.file)?;
    check_control(&args.control)?;
    let namespace = confine::open_netns(&args.netns)?;
    measure_launch(args, image.digest, configuration.digest)?;
    if let Some(path) = &args.pidfile {
        write_pid(path).map_err(|source| Error::File { what: "pid file", path: path.clone(), source })?;
    }
    confine::enter_netns(&namespace)?;
    confine::detach()?;
    let capabilities = args.cap.iter().copied().collect();
    Confinement { uid: args.user.uid, gid: args.user.gid, capabilities }.apply()?;
    check_control_access(&args.control)?;
    // Whatever the caller left open, and our own, ends with the execution; the configuration goes on.
    close_fds::set_fds_cloexec(3, &[configuration.file.as_raw_fd()]);
    let environment: [CString; 0] = [];
    fexecve(&image.file, &arguments, &environment)
        .map_err(|source| Error::Execute { path: args.image.clone(), source })
}

/// Records a new configuration of a running instance.
pub fn measure(args: &Measure) -> Result<(), Error> {
    let configuration = take_configuration(&args.configuration, &args.instance)?.digest;
    append(&args.site, MeasurementKind::Configure { instance: args.instance.clone(), configuration })
}

fn measure_launch(args: &Launch, image: Digest, configuration: Digest) -> Result<(), Error> {
    let Some(site) = args.site.site() else {
        eprintln!("mandate-launcher: no --tpm: this start is not measured, and no evidence will speak of it");
        return Ok(());
    };
    append(&site, MeasurementKind::Launch { instance: args.instance.clone(), image, configuration })
}

fn append(site: &Site, kind: MeasurementKind) -> Result<(), Error> {
    let (mut log, mut tpm) = EventLog::open(&site.log, site.pcr, &site.tpm)?;
    tell(&log.recovered);
    Ok(log.append(kind, &mut tpm)?)
}

/// What opening the log repaired, on standard error: an operator should see that something had died.
pub fn tell(recovered: &[Recovery]) {
    for recovery in recovered {
        match recovery {
            Recovery::TornLineCut => {
                eprintln!("mandate-launcher: a torn last line of the event log was cut off")
            }
            Recovery::LastLineExtended => {
                eprintln!(
                    "mandate-launcher: the last measurement was in the log only; the PCR is extended with it now"
                );
            }
            Recovery::SetAside(path) => {
                eprintln!("mandate-launcher: the TPM restarted; the log before that is {}", path.display());
            }
        }
    }
}

/// All that this privileged process reads of a configuration: whose it is. The function reads the rest, confined.
#[derive(Deserialize)]
struct Whose {
    instance: String,
}

fn take_configuration(path: &Path, instance: &str) -> Result<Sealed, Error> {
    let mut sealed = seal(path, Purpose::Configuration, MAX_CONFIGURATION_BYTES as u64)?;
    let malformed = |problem: String| Error::Configuration { path: path.into(), problem };
    let mut bytes = Vec::new();
    let read = sealed.file.read_to_end(&mut bytes).and_then(|_| sealed.file.rewind());
    read.map_err(|source| Error::File { what: "configuration", path: path.into(), source })?;
    let whose: Whose = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
    if whose.instance != instance {
        return Err(malformed(format!("it is for instance `{}`, not `{instance}`", whose.instance)));
    }
    Ok(sealed)
}

fn arguments(args: &Launch, configuration: &File) -> Result<Vec<CString>, Error> {
    let config = format!("/proc/self/fd/{}", configuration.as_raw_fd());
    let fixed = [ARGV0, "--config", &config, "--control"].map(OsStr::new);
    let extra = args.extra.iter().map(OsStr::new);
    let all = fixed.into_iter().chain([args.control.as_os_str()]).chain(extra);
    all.map(|a| CString::new(a.as_bytes()).map_err(|_| Error::NulInArgument)).collect()
}

fn directory_of(control: &Path) -> &Path {
    control.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check_control(control: &Path) -> Result<(), Error> {
    let directory = directory_of(control);
    let problem = match fs::metadata(directory) {
        _ if !control.is_absolute() => "must be absolute: the function runs in /".into(),
        Ok(m) if m.is_dir() => return Ok(()),
        Ok(_) => "its parent is not a directory".to_owned(),
        Err(e) => format!("its directory: {e}"),
    };
    Err(Error::Control { path: control.into(), problem })
}

/// With the ids that the function will have.
fn check_control_access(control: &Path) -> Result<(), Error> {
    let directory = directory_of(control);
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| Error::Control {
        path: control.into(),
        problem: format!(
            "the user of --user cannot create it in {}: {e}; `chown` that directory",
            directory.display()
        ),
    })
}

/// Beside, then into place: a reader never sees half a number.
fn write_pid(path: &Path) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o644).custom_flags(nix::libc::O_NOFOLLOW);
    options.open(&fresh)?.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    fs::rename(&fresh, path)
}
