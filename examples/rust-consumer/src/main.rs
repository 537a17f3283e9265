//! The consumer `welcome` as a program. `WELCOME_PRINTER` names the file that the printer reads.

use std::{path::PathBuf, process::ExitCode};

use welcome::{CONSUMER, LETTERS, SCHEMA, handle, print};

fn main() -> ExitCode {
    let printer = PathBuf::from(std::env::var_os("WELCOME_PRINTER").unwrap_or_else(|| "letters.txt".into()));
    chancery_kit::run_with_outside(CONSUMER, SCHEMA, handle, LETTERS, async |effect| print(&printer, effect).await)
}
