//! `controller`: keeps Runtimes, gives lost Runs back, deletes ended ones in time.

use clap::Parser as _;
use control_plane::controller::{Options, run};
use control_plane::options::go_flags;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse_from(go_flags(std::env::args_os()));
    kruntimes_daemon::init_logging("controller", options.common.log_format)?;
    let stop = kruntimes_daemon::shutdown_signal()?;
    run(options, stop).await
}
