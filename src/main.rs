//! The `grosz` program; everything is in the library.

/// A webhook is a few hundred small allocations that one thread makes and another gives back, which is what the C
/// library's allocator is slow at (ADR 0028).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // What a panic said is in the log, which is still to be written.
    let ended = match std::panic::catch_unwind(grosz::cli::main) {
        Ok(Ok(())) => std::process::ExitCode::SUCCESS,
        Ok(Err(error)) => {
            grosz::log::say(&format!("grosz: {error}"));
            std::process::ExitCode::FAILURE
        }
        Err(_) => std::process::ExitCode::FAILURE,
    };
    grosz::log::flush();
    ended
}
