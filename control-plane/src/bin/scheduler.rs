//! `scheduler`: puts Runs into warm Runtime Pods.

use clap::Parser as _;
use control_plane::options::go_flags;
use control_plane::scheduler::{Options, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse_from(go_flags(std::env::args_os()));
    kruntimes_daemon::init_logging("scheduler", options.common.log_format)?;
    let stop = kruntimes_daemon::shutdown_signal()?;
    run(options, stop).await
}
