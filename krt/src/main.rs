//! The program: everything is in the library, so that the reference page is generated from it.

use std::process::ExitCode;

fn main() -> ExitCode {
    krt::main(std::env::args_os())
}
