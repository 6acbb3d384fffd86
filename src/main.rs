//! The `grosz` program; everything is in the library.

/// A webhook is a few hundred small allocations that one thread makes and another gives back, which is what the C
/// library's allocator is slow at (ADR 0028).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let ended = match grosz::cli::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            grosz::log::say(&format!("grosz: {error}"));
            std::process::ExitCode::FAILURE
        }
    };
    grosz::log::flush();
    ended
}
