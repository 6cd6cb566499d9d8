//! Image names stand for programs of this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Finds the program behind an image name.
#[derive(Debug, Clone, Default)]
pub struct Images {
    named: BTreeMap<String, PathBuf>,
    bin_dir: Option<PathBuf>,
}

impl Images {
    /// `named` wins over the programs in `bin_dir`.
    pub fn new(named: BTreeMap<String, PathBuf>, bin_dir: Option<PathBuf>) -> Self {
        Self { named, bin_dir }
    }

    /// The program of `image`: by its whole name, or by its last path segment without tag and digest.
    /// The baseline's names mean our programs.
    ///
    /// # Errors
    /// A sentence for a person when there is none.
    pub fn program(&self, image: &str) -> Result<PathBuf, String> {
        let short = short_name(image);
        let named = self.named.get(image).or_else(|| self.named.get(short)).cloned();
        let known = || {
            let program = match short.strip_prefix("kruntimes-").unwrap_or(short) {
                "runtimed" => "runtimed".to_owned(),
                name => match name.strip_suffix("-runtime") {
                    Some(kind) => format!("{kind}-server"),
                    None if name.ends_with("-server") => name.to_owned(),
                    None => return None,
                },
            };
            Some(self.bin_dir.as_ref()?.join(program))
        };
        match named.or_else(known) {
            Some(program) if program.is_file() => Ok(program),
            Some(program) => Err(format!(
                "image {image:?} stands for the program {}, which does not exist",
                program.display()
            )),
            None => Err(format!(
                "the local platform has no program for image {image:?}; give it one with --image {short}=PATH"
            )),
        }
    }
}

/// `registry:5000/team/name:tag@sha256:...` without all but `name`.
fn short_name(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(':').next().unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_programs() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["runtimed", "bash-server"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let named = BTreeMap::from([("mine".to_owned(), folder.path().join("runtimed"))]);
        let images = Images::new(named, Some(folder.path().to_owned()));
        let found = |image: &str| images.program(image).map(|p| p.file_name().unwrap().to_owned());
        for (image, program) in [
            ("kruntimes-runtimed:latest", "runtimed"),
            ("registry.example:5000/x/runtimed@sha256:00", "runtimed"),
            ("ghcr.io/kruntimes/bash-runtime:v1", "bash-server"),
            ("bash-server", "bash-server"),
            ("localhost/mine:1", "runtimed"),
        ] {
            assert_eq!(found(image).unwrap(), program, "{image}");
        }
        assert!(found("nginx:1.27").unwrap_err().contains("--image nginx=PATH"));
        assert!(found("python-runtime").unwrap_err().contains("does not exist"));
    }
}
