//! A platform in the foreground without `krt`: for tests, and to try the API alone.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kruntimes_local::{Component, Config, Platform};

#[derive(Parser)]
struct Args {
    /// Folder of the platform.
    #[arg(long)]
    data_dir: PathBuf,
    /// File with CustomResourceDefinitions (YAML, several documents).
    #[arg(long)]
    crds: Vec<PathBuf>,
    /// Program of an image, NAME=PATH.
    #[arg(long, value_parser = pair)]
    image: Vec<(String, PathBuf)>,
    /// Folder with the programs of the known images.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Program to run beside the API, NAME=PATH; it gets KUBECONFIG.
    #[arg(long, value_parser = pair)]
    component: Vec<(String, PathBuf)>,
}

fn pair(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("NAME=PATH is needed")?;
    Ok((name.to_owned(), PathBuf::from(path)))
}

fn main() -> ExitCode {
    kruntimes_local::maybe_container_init();
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(args.data_dir);
    for path in &args.crds {
        config.crds.extend(kruntimes_local::read_documents(&std::fs::read_to_string(path)?)?);
    }
    config.images = args.image.into_iter().collect();
    config.bin_dir = args.bin_dir;
    let component = |(name, program)| Component { name, program, args: Vec::new() };
    config.components = args.component.into_iter().map(component).collect();
    tokio::runtime::Runtime::new()?.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let platform = Platform::start(config).await?;
        println!("{}", platform.kubeconfig_path().display());
        let end = tokio::select! {
            _ = term.recv() => Ok(()),
            _ = int.recv() => Ok(()),
            why = platform.broken() => Err(format!("the database took no write: {why}").into()),
        };
        platform.shutdown(Duration::from_secs(5)).await;
        end
    })
}
