//! The `chancery` program; everything is in the library.

use std::process::ExitCode;

/// Messages are many small allocations that live for a batch: the system allocator shows in every profile.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    runtime::nats::install_crypto();
    chancery::cli::main()
}
