//! The command line: where to measure.

use clap::{Parser, Subcommand};

use crate::{local, measure, node, scale};

#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub struct Cli {
    #[command(subcommand)]
    place: Place,
}

#[derive(Subcommand)]
enum Place {
    /// On a local platform of its own, which is started and stopped
    Local(measure::Args),
    /// On a Kubernetes node of its own, which is started and taken down; needs root
    Node(node::Args),
    /// Scheduler and controller alone: a real API server, simulated Pods, a long queue
    Scale(scale::Args),
}

impl Cli {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.place {
            Place::Local(args) => local::run(args).await,
            Place::Node(args) => node::run(args).await,
            Place::Scale(args) => scale::run(args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
