//! Completions and manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use super::{
    Cli,
    context::Context,
    failure::{Exit, Failure},
};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory to write into; made when it is not there
    dir: PathBuf,
}

/// Writes the completions of one shell.
pub fn completions(context: &Context, args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mandate", &mut out);
    context.ui.bytes(&out)?;
    Ok(Exit::Ok)
}

/// Writes one page per command.
pub fn man(context: &Context, args: &ManArgs) -> Result<Exit, Failure> {
    let failed = |e: std::io::Error| Failure::unwritable(&args.dir, &e);
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)?;
    let pages = std::fs::read_dir(&args.dir).map_err(failed)?.count();
    context.ui.show(&serde_json::json!({ "dir": args.dir, "pages": pages }), |_| {
        format!(
            "{pages} pages in {}; read one with `man {}/mandate.1`\n",
            args.dir.display(),
            args.dir.display()
        )
    })
}
