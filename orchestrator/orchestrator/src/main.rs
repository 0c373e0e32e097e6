//! The `mandate` command: everything is in [`orchestrator::cli`].

fn main() -> std::process::ExitCode {
    orchestrator::cli::main()
}
