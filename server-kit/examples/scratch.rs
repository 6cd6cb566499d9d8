//! A Runtime Server with a resource provider of its own: scratch folders, measured while a Run has one and
//! emptied afterwards.

use std::path::Path;

use server_kit::resources::{
    Amounts, Figure, FigureScope, Held, Indexed, Inventory, Lease, ResourceProvider, Shortage,
};
use server_kit::{Job, Launch, LaunchError, Server};

const NAME: &str = "example.com/scratch";

/// Choosing is left to the kit: a folder is a device, its path the id.
struct Scratch(Indexed);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let root = std::env::temp_dir().join("scratch");
        let folders: Vec<_> = (0..4).map(|index| root.join(index.to_string())).collect();
        folders.iter().try_for_each(std::fs::create_dir_all)?;
        let paths = folders.iter().map(|folder| folder.display().to_string());
        Ok(Self(Indexed::new(NAME, paths).env("SCRATCH")))
    }
}

impl ResourceProvider for Scratch {
    fn discover(&mut self) -> Inventory {
        self.0.discover()
    }

    fn lease(&mut self, request: &Amounts) -> Result<Lease, Shortage> {
        self.0.lease(request)
    }

    fn restore(&mut self, held: &[Held]) -> Lease {
        self.0.restore(held)
    }

    fn sample(&mut self, lease: &Lease) -> Vec<Figure> {
        let bytes: u64 = lease.held.iter().map(|held| size(Path::new(&held.id))).sum();
        vec![Figure {
            name: "scratch_bytes".into(),
            value: bytes as f64,
            unit: "bytes".into(),
            source: "scratch".into(),
            scope: FigureScope::Attempt,
        }]
    }

    fn release(&mut self, lease: &Lease) {
        for held in &lease.held {
            let emptied = std::fs::remove_dir_all(&held.id).and_then(|()| std::fs::create_dir_all(&held.id));
            if let Err(error) = emptied {
                eprintln!("{}: {error}", held.id);
            }
        }
        self.0.release(lease);
    }
}

/// Of the files directly in the folder.
fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

struct Shell;

impl Server for Shell {
    fn resources(&self) -> Vec<Box<dyn ResourceProvider>> {
        match Scratch::new() {
            Ok(scratch) => vec![Box::new(scratch)],
            Err(error) => {
                eprintln!("no scratch folders: {error}");
                Vec::new()
            }
        }
    }

    async fn launch(&self, job: &Job) -> Result<Launch, LaunchError> {
        Ok(Launch::new("bash").arg("-c").arg(job.args.join("\n")))
    }
}

fn main() -> std::process::ExitCode {
    server_kit::run(Shell)
}
