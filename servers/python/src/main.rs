//! The python server: inline code, script files with arguments, and whatever `python` itself takes.
//!
//! As the original has it: `entrypoint` names a file in the working directory (runtimed writes inline
//! code there); when there is no such file, `args` go to the interpreter: `-m package.tool --flag`,
//! `-c 'print(1)'`. A `handler` `MODULE.FUNCTION` is called once. Every Run is a fresh process of the Pod's interpreter. A traceback goes to standard
//! error, and from there into the tail that the Run's status keeps.

mod python;

use std::process::ExitCode;

fn main() -> ExitCode {
    server_kit::run(python::Python::default())
}
