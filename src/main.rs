//! The `grosz` program; everything is in the library.

fn main() -> std::process::ExitCode {
    match grosz::cli::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("grosz: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
