//! The tests' cluster as a program of its own; `cargo xtask node` is the same thing.

use clap::Parser as _;

#[derive(clap::Parser)]
#[command(name = "node", about = "A real Kubernetes on this machine, for the tests")]
struct Cli {
    #[command(flatten)]
    args: kruntimes_node::NodeArgs,
}

fn main() -> anyhow::Result<()> {
    kruntimes_node::main(Cli::parse().args)
}
