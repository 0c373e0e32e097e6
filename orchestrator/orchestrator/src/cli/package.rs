//! `mandate package …`: what a provider does.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use descriptors::{
    VerifiedPackage, dir,
    package::{self, ImageEvidence, ImageInput, PackInputs, PackageError},
    provenance, sbom,
};
use ledger_contract::records::{PACKAGE_PAYLOAD, PackageKind, PackageRecord};
use serde::Serialize;
use trust::{Digest, Envelope, Signer, UnixTime};

use super::{
    args::{MemberName, pair},
    context::{Context, counts, load_signer},
    failure::{Exit, Failure, chain},
    files, intent,
    lint::{self, LintArgs},
    output::{Cell, Paint, Style, Table, size},
    progress::{Spinner, bytes_bar},
    verdict,
};
use crate::{
    client::Client,
    record::{self, Constituent},
    views::{CommittedView, PackageView},
};

/// Largest image read, bytes.
const MAX_IMAGE_BYTES: u64 = 1 << 30;
/// Largest lock file or descriptor read, bytes.
const MAX_TEXT_BYTES: u64 = 32 << 20;
/// Largest Sigstore bundle read, bytes.
const MAX_BUNDLE_BYTES: u64 = descriptors::sigstore::bundle::MAX_BYTES as u64;
/// Bytes of a package sent at a time, so that the bar moves.
const CHUNK_BYTES: usize = 1 << 20;
/// SLSA builder id of this command; policies give it a level.
const BUILDER_ID: &str = ledger_contract::policy::DEFAULT_BUILDER;

/// What to do about a package without a signature that counts here.
const SIGN_IT: &str =
    "sign it as a provider that the trust roots name: mandate package sign FILE --as ORG/NAME -o SIGNED";

/// What to do about a signature that the trust roots do not know.
const TRUST_OR_SIGN_IT: &str = "name the trust roots of its provider with --trust FILE, or sign it as a provider that these \
                                name: mandate package sign FILE --as ORG/NAME";

/// What to do about a signature by somebody whom the trust roots do not name.
const TRUST_IT: &str = "who may sign is in the trust roots: `ca`, `keys` and `sigstore` of each organisation (docs/provider-packages.md)";

/// Commands on packages.
#[derive(Debug, Subcommand)]
pub enum PackageCommand {
    /// Say what is wrong with a descriptor, a source directory or a package
    Lint(LintArgs),
    /// Make a package from a source directory, with images, SBOM and provenance
    Pack(PackArgs),
    /// Sign a package
    Sign {
        /// The package
        file: PathBuf,
        /// Who signs
        #[arg(long = "as", value_name = "ORG/NAME")]
        who: MemberName,
        /// Where to write the signed package [default: over the package itself]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Verify a package's signature, SBOM and provenance offline
    Verify {
        /// The package
        file: PathBuf,
        /// Trust roots [default: trust.json in the home directory]
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        /// Sigstore bundle over the package, where it is in a file of its own
        #[arg(long, value_name = "FILE")]
        bundle: Option<PathBuf>,
    },
    /// Verify, upload and register a package on the ledger
    Push {
        /// The package
        file: PathBuf,
        /// Which provider registers it
        #[arg(long = "as", value_name = "ORG/NAME")]
        who: MemberName,
        /// VNF package of an NSD, to count with instead of its registered record; may be repeated
        #[arg(long = "with", value_name = "FILE")]
        with: Vec<PathBuf>,
    },
    /// List the packages
    List,
}

/// Arguments of `package pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// Source directory: descriptor, cloud_init, …
    dir: PathBuf,
    /// Image and its file; becomes images/ID; may be repeated
    #[arg(long = "image", value_name = "ID=FILE", value_parser = pair, requires_all = ["lockfile", "root_package"])]
    images: Vec<(String, String)>,
    /// Cargo.lock that the images were built from
    #[arg(long, value_name = "FILE")]
    lockfile: Option<PathBuf>,
    /// Cargo package of the images
    #[arg(long, value_name = "NAME")]
    root_package: Option<String>,
    /// Cargo profile that the images were built with
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// Commit that the images were built from, with the repository's URI
    #[arg(long, value_name = "URI@COMMIT")]
    source: Option<String>,
    /// Who signs the provenance, from the home directory
    #[arg(long, value_name = "ORG/NAME", conflicts_with_all = ["builder_key", "builder_cert"])]
    builder: Option<MemberName>,
    /// Key that signs the provenance
    #[arg(long, value_name = "FILE", requires = "builder_cert")]
    builder_key: Option<PathBuf>,
    /// Certificate of that key
    #[arg(long, value_name = "FILE", requires = "builder_key")]
    builder_cert: Option<PathBuf>,
    /// Where to write the package
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs a command.
pub async fn run(context: &Context, command: PackageCommand) -> Result<Exit, Failure> {
    match command {
        PackageCommand::Lint(args) => lint::run(context, &args.path),
        PackageCommand::Pack(args) => pack(context, &args),
        PackageCommand::Sign { file, who, output } => {
            sign(context, &file, &who, output.as_deref().unwrap_or(&file))
        }
        PackageCommand::Verify { file, trust, bundle } => {
            verify(context, &file, trust.as_deref(), bundle.as_deref())
        }
        PackageCommand::Push { file, who, with } => push(context, &file, &who, &with).await,
        PackageCommand::List => list(context).await,
    }
}

fn package_bytes(file: &Path) -> Result<Vec<u8>, Failure> {
    files::read(file, package::MAX_PACKAGE_BYTES)
}

// ---- pack

fn pack(context: &Context, args: &PackArgs) -> Result<Exit, Failure> {
    let source = dir::read(&args.dir).map_err(|e| unreadable(&e))?;
    let spinner = Spinner::start(&context.ui, "packing");
    let inputs = PackInputs { images: images(context, args)? };
    let bytes = package::pack(&source, &inputs).map_err(|e| unpacked(args, &e))?;
    drop(spinner);
    files::write(&args.output, &bytes)?;
    written(context, &args.output, &bytes, "packed", "sign it: mandate package sign")
}

/// What is missing in a source directory is for who packs it to add.
fn unpacked(args: &PackArgs, e: &PackageError) -> Failure {
    let failure = refused(&args.dir, e);
    match failure.problem.code.as_str() {
        "PACKAGE_FILE_MISSING" if failure.problem.detail.contains("images/") => failure.hint(
            "give each image that the descriptor names: --image NAME=FILE, with --lockfile, --root-package and --builder",
        ),
        "PACKAGE_FILE_MISSING" => failure.hint("name a package's source directory, with its descriptor at the top"),
        _ => failure,
    }
}

fn images(context: &Context, args: &PackArgs) -> Result<BTreeMap<String, ImageInput>, Failure> {
    let mut out = BTreeMap::new();
    if args.images.is_empty() {
        return Ok(out);
    }
    let (Some(lockfile), Some(root)) = (&args.lockfile, &args.root_package) else {
        return Err(Failure::usage("USAGE", "Wrong usage", "--image needs --lockfile and --root-package")
            .hint("--lockfile Cargo.lock --root-package NAME"));
    };
    let builder = builder(context, args)?;
    let lock = files::text(lockfile, MAX_TEXT_BYTES)?;
    for (id, file) in &args.images {
        let bytes = files::read(Path::new(file), MAX_IMAGE_BYTES)?;
        out.insert(id.clone(), image(args, id, file, bytes, &lock, root, &builder, context.now()?)?);
    }
    Ok(out)
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call; a struct would only name the same eight things again"
)]
fn image(
    args: &PackArgs,
    id: &str,
    file: &str,
    bytes: Vec<u8>,
    lock: &str,
    root: &str,
    builder: &Signer,
    now: UnixTime,
) -> Result<ImageInput, Failure> {
    let digest = Digest::of(&bytes);
    let sbom = sbom::cyclonedx(lock, root, digest, now).map_err(|e| {
        Failure::usage("SBOM", "No SBOM can be made", format!("{file}: {}", chain(&e)))
            .hint("--lockfile is the Cargo.lock of the image's workspace, --root-package a package in it")
    })?;
    let git = args.source.as_deref().map(|s| {
        s.rsplit_once('@').ok_or_else(|| {
            Failure::usage("USAGE", "Wrong usage", "--source is URI@COMMIT").hint("--source https://…@COMMIT")
        })
    });
    let statement = provenance::statement(&provenance::Build {
        image: id,
        digest,
        builder: BUILDER_ID,
        package: root,
        profile: &args.profile,
        cargo_lock: Digest::of(lock),
        git: git.transpose()?,
        times: (built_at(file).unwrap_or(now), now),
    });
    let provenance = statement.sign(builder).map_err(|e| Failure::internal("PROVENANCE", chain(&e)))?;
    Ok(ImageInput { bytes, sbom, provenance })
}

/// When the image was written: the end of its build is not later than that.
fn built_at(file: &str) -> Option<UnixTime> {
    let modified = std::fs::metadata(file).ok()?.modified().ok()?;
    modified.duration_since(std::time::UNIX_EPOCH).ok().map(|d| UnixTime(d.as_secs()))
}

fn builder(context: &Context, args: &PackArgs) -> Result<Signer, Failure> {
    match (&args.builder, &args.builder_key, &args.builder_cert) {
        (Some(member), _, _) => context.signer(member),
        (None, Some(key), Some(certificate)) => {
            let signer = load_signer(key, certificate)?;
            counts(&signer, context.now()?, &certificate.display().to_string())?;
            Ok(signer)
        }
        _ => Err(Failure::usage("USAGE", "Wrong usage", "--image needs somebody who signs its provenance")
            .hint("--builder provider/builder, or --builder-key FILE --builder-cert FILE")),
    }
}

fn written(context: &Context, path: &Path, bytes: &[u8], what: &str, next: &str) -> Result<Exit, Failure> {
    let digest = Digest::of(bytes);
    let document = serde_json::json!({ "file": path, "digest": digest, "size_bytes": bytes.len() });
    context.ui.show(&document, |style| {
        format!(
            "{} {}  {}\n{}  {digest}\nnext: {next} {} --as ORG/NAME\n",
            style.paint(Paint::Green, what),
            path.display(),
            size(bytes.len() as u64),
            " ".repeat(what.len()),
            path.display()
        )
    })
}

// ---- sign and verify

fn sign(context: &Context, file: &Path, who: &MemberName, output: &Path) -> Result<Exit, Failure> {
    let signer = context.signer(who)?;
    let bytes = package::sign(&package_bytes(file)?, &signer).map_err(|e| refused(file, &e))?;
    files::write(output, &bytes)?;
    written(context, output, &bytes, "signed", "register it: mandate package push")
}

fn verify(
    context: &Context,
    file: &Path,
    trust: Option<&Path>,
    bundle: Option<&Path>,
) -> Result<Exit, Failure> {
    let roots = context.roots(trust)?;
    let bytes = package_bytes(file)?;
    let verified = match bundle {
        Some(bundle) => {
            let bundle = files::read(bundle, MAX_BUNDLE_BYTES)?;
            package::verify_with_bundle(&bytes, &bundle, &roots, context.now()?)
        }
        None => package::verify(&bytes, &roots, context.now()?),
    };
    let verified = verified.map_err(|e| refused(file, &e))?;
    let images: Vec<_> = verified
        .images
        .iter()
        .map(|i| {
            serde_json::json!({ "image": i.image, "digest": i.digest, "sbom": i.sbom, "builder": i.builder,
            "provenance_signer": i.provenance_signer.to_string(),
            "provenance_signature": i.provenance_signer.kind, "steps": i.steps,
            "sbom_format": i.summary.format, "sbom_complete": i.summary.complete,
            "sbom_missing": i.summary.missing, "licences": i.summary.licences,
            "components": i.summary.components.len() })
        })
        .collect();
    let p = &verified.package;
    let document = serde_json::json!({
        "verified": true, "digest": p.digest, "kind": p.kind, "descriptor_id": p.descriptor.id(),
        "version": p.descriptor.version(), "signer": verified.signer.to_string(),
        "signature": verified.signer.kind, "images": images,
        "diagnostics": p.diagnostics,
    });
    context.ui.show(&document, |style| render_verified(file, &verified, style))
}

fn render_verified(file: &Path, verified: &VerifiedPackage, style: Style) -> String {
    let p = &verified.package;
    let mut table = Table::new(&["IMAGE", "DIGEST", "SBOM", "BUILDER", "PROVENANCE BY"], "no images");
    for i in &verified.images {
        table.row([
            Cell::new(Paint::Cyan, &i.image),
            Cell::new(Paint::Dim, i.digest.short()),
            sbom_cell(i),
            (&i.builder).into(),
            i.provenance_signer.to_string().into(),
        ]);
    }
    format!(
        "{} {}: {} `{}` {}, signed by {}\n{}\n\n{}",
        style.paint(Paint::Green, "verified"),
        file.display(),
        p.kind,
        p.descriptor.id(),
        p.descriptor.version(),
        verified.signer,
        style.paint(Paint::Dim, &p.digest.to_string()),
        table.render(style)
    )
}

/// Form of the SBOM, how many components, and whether something is missing in it.
fn sbom_cell(image: &ImageEvidence) -> Cell {
    let it = &image.summary;
    let text = format!("{}, {} components", it.format, it.components.len());
    match it.complete {
        true => Cell::new(Paint::Plain, text),
        false => Cell::new(Paint::Yellow, format!("{text}, incomplete")),
    }
}

// ---- push and list

async fn push(context: &Context, file: &Path, who: &MemberName, with: &[PathBuf]) -> Result<Exit, Failure> {
    let signer = context.signer(who)?;
    let bytes = package_bytes(file)?;
    let roots = context.roots(None)?;
    let verified = package::verify(&bytes, &roots, context.now()?).map_err(|e| refused(file, &e))?;
    let client = context.client()?;
    let pinned = pinned(context, with)?;
    let pins = !pinned.is_empty();
    let stored = upload(context, &client, bytes).await?;
    let constituents = constituents(context, &client, &verified, pinned, &stored).await?;
    let record = record::record(&verified, &constituents)
        .map_err(|e| Failure::refused("RECORD", "The package cannot be registered", e))?;
    compare(&record, &stored, pins)?;
    let payload = serde_json::to_vec(&record).map_err(|e| Failure::internal("JSON", e))?;
    let request = Envelope::sign(PACKAGE_PAYLOAD, payload, &[&signer])
        .map_err(|e| Failure::internal("SIGN", chain(&e)))?;
    let (committed, _) = intent::decided(context, &request).await?;
    pushed(context, &record, &committed)
}

/// What `push --json` answers: the package and the ledger's decision, flat.
#[derive(Serialize)]
struct Pushed<'a> {
    digest: Digest,
    descriptor_id: &'a str,
    version: &'a str,
    #[serde(flatten)]
    committed: &'a CommittedView,
}

fn pushed(context: &Context, record: &PackageRecord, committed: &CommittedView) -> Result<Exit, Failure> {
    let document = Pushed {
        digest: record.digest,
        descriptor_id: &record.descriptor_id,
        version: &record.version,
        committed,
    };
    context.ui.show(&document, |style| {
        let what = format!("{} {}", record.descriptor_id, record.version);
        verdict::render_committed(what.trim_end(), committed, style)
    })?;
    Ok(if committed.verdict.approved { Exit::Ok } else { Exit::Refused })
}

/// VNF packages that the caller names: verified here.
fn pinned(context: &Context, with: &[PathBuf]) -> Result<BTreeMap<String, Constituent>, Failure> {
    let mut out = BTreeMap::new();
    for file in with {
        let roots = context.roots(None)?;
        let it =
            package::verify(&package_bytes(file)?, &roots, context.now()?).map_err(|e| refused(file, &e))?;
        let Some(vnfd) = it.package.descriptor.vnfd() else {
            let detail = format!("{} is not a VNF package", file.display());
            return Err(Failure::usage("NOT_A_VNF", "Wrong constituent", detail)
                .hint("--with takes the VNF packages that the NSD names"));
        };
        let constituent = Constituent::of(it.package.digest, vnfd)
            .map_err(|e| Failure::refused("RECORD", "The package cannot be registered", e))?;
        out.insert(vnfd.id.clone(), constituent);
    }
    Ok(out)
}

/// The VNF packages of an NSD: those pinned, else the registered ones that the orchestrator found.
async fn constituents(
    context: &Context,
    client: &Client,
    verified: &VerifiedPackage,
    pinned: BTreeMap<String, Constituent>,
    stored: &PackageView,
) -> Result<BTreeMap<String, Constituent>, Failure> {
    let mut out = pinned;
    let Some(nsd) = verified.package.descriptor.nsd() else { return Ok(out) };
    if nsd.vnfd_ids.iter().all(|id| out.contains_key(id)) {
        return Ok(out);
    }
    let known = client.packages().await.map_err(|e| context.client_failure(e))?;
    for (id, digest) in &stored.record.constituents {
        let found = known.iter().find(|v| {
            v.registered && v.digest == *digest && v.descriptor_id == *id && v.record.kind == PackageKind::Vnf
        });
        if let Some(view) = found {
            out.entry(id.clone()).or_insert_with(|| Constituent::from(&view.record));
        }
    }
    Ok(out)
}

async fn upload(context: &Context, client: &Client, bytes: Vec<u8>) -> Result<PackageView, Failure> {
    let bar = bytes_bar(&context.ui, "uploading", bytes.len() as u64);
    let progress = bar.clone();
    let chunks: Vec<Vec<u8>> = bytes.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect();
    let stream = futures::stream::iter(chunks.into_iter().map(move |chunk| {
        progress.inc(chunk.len() as u64);
        Ok::<_, std::io::Error>(chunk)
    }));
    let stored = client.put_package(reqwest::Body::wrap_stream(stream)).await;
    bar.finish_and_clear();
    stored.map_err(|e| context.client_failure(e))
}

/// We sign what we computed; that the server computed the same shows that it reads the same package. What follows
/// from constituents that we pinned is ours alone to say.
fn compare(ours: &PackageRecord, stored: &PackageView, pinned: bool) -> Result<(), Failure> {
    let theirs = match pinned {
        false => stored.record.clone(),
        true => PackageRecord {
            constituents: ours.constituents.clone(),
            resources: ours.resources,
            scaling: ours.scaling.clone(),
            ..stored.record.clone()
        },
    };
    if *ours == theirs {
        return Ok(());
    }
    let fields = [
        ("digest", ours.digest == stored.record.digest),
        ("kind", ours.kind == stored.record.kind),
        ("descriptor_id", ours.descriptor_id == stored.record.descriptor_id),
        ("version", ours.version == stored.record.version),
        ("constituents", ours.constituents == stored.record.constituents),
        ("resources", ours.resources == stored.record.resources),
        ("scaling", ours.scaling == stored.record.scaling),
        ("images", ours.images == stored.record.images),
    ];
    let differ: Vec<_> = fields.into_iter().filter(|f| !f.1).map(|f| f.0).collect();
    let detail =
        format!("the orchestrator's record of this package differs from ours in {}", differ.join(", "));
    Err(Failure::refused("RECORD_MISMATCH", "Nothing was signed", detail)
        .hint("name the VNF packages with --with FILE, or update the older of the two `mandate`s"))
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let packages = context.client()?.packages().await.map_err(|e| context.client_failure(e))?;
    context.ui.show(&packages, |style| render_list(&packages, style))
}

fn render_list(packages: &[PackageView], style: Style) -> String {
    let mut table = Table::new(
        &["DESCRIPTOR", "VERSION", "KIND", "PROVIDER", "LEDGER", ">SIZE", "DIGEST"],
        "no packages; add one with `mandate package push`",
    );
    for p in packages {
        let kind = if p.record.kind == PackageKind::Vnf { "vnf" } else { "ns" };
        let (paint, state) =
            if p.registered { (Paint::Green, "registered") } else { (Paint::Yellow, "not registered") };
        table.row([
            Cell::new(Paint::Cyan, &p.descriptor_id),
            (&p.version).into(),
            kind.into(),
            (&p.provider).into(),
            Cell::new(paint, state),
            if p.size_bytes == 0 { "not here".into() } else { size(p.size_bytes).into() },
            Cell::new(Paint::Dim, p.digest),
        ]);
    }
    table.render(style)
}

fn unreadable(e: &dir::DirError) -> Failure {
    Failure::usage("UNREADABLE", "Cannot read a package's source", chain(e))
        .hint("name a package's source directory; `mandate package pack --help`")
}

fn refused(path: &Path, e: &PackageError) -> Failure {
    let code = e.code().to_ascii_uppercase().replace('-', "_");
    let failure =
        Failure::refused(&code, "The package is refused", format!("{}: {}", path.display(), chain(e)));
    match e {
        PackageError::Descriptor { .. } => failure.hint(format!("mandate package lint {}", path.display())),
        _ => {
            let hint = match code.as_str() {
                "PACKAGE_FILE_MISSING" if failure.problem.detail.contains("signature/") => SIGN_IT,
                "PACKAGE_SIGNATURE" => TRUST_OR_SIGN_IT,
                "CERTIFICATE_UNTRUSTED"
                | "SIGSTORE_UNKNOWN_KEY"
                | "SIGSTORE_UNKNOWN_IDENTITY"
                | "LAYOUT_NOT_SIGNED" => TRUST_IT,
                "PACKAGE_EVIDENCE" => "pack it again with --image, --lockfile and --builder",
                _ => "get the package again from its provider, or pack and sign it again",
            };
            failure.hint(hint)
        }
    }
}
