//! The local platform as a place to measure.

use anyhow::Result;
use kube::Client;

use crate::measure::{self, Args, Place};
use crate::platform::Platform;
use crate::processes::Process;

pub async fn run(args: Args) -> Result<()> {
    eprintln!("starting a local platform with 2 Pods x 64 Runs");
    measure::run(Platform::start()?, args).await
}

impl Place for Platform {
    const NAME: &'static str = "local";

    async fn client(&self) -> Result<Client> {
        Platform::client(self).await
    }

    fn processes(&self) -> Result<Vec<Process>> {
        Platform::processes(self)
    }

    fn stop(self) -> Result<()> {
        Platform::stop(self)
    }
}
