//! The kernel modules that the machine's disk needs, in the order of loading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What must be loaded; what these depend on comes before them.
const WANTED: &[&str] = &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];

/// The files of the modules below `root`, dependencies first. What is not a file is part of the kernel itself.
pub fn in_order(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    find(root, &mut files)?;
    let mut order = Vec::new();
    for name in WANTED {
        add(name, &files, &mut order)?;
    }
    Ok(order)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<PathBuf>) -> Result<()> {
    let Some(file) = files.get(name).filter(|file| !order.contains(file)) else { return Ok(()) };
    let content = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    for dependency in dependencies(&content) {
        add(&dependency, files, order)?;
    }
    order.push(file.clone());
    Ok(())
}

/// A module says what it depends on as text between zero bytes: `depends=a,b` (modinfo(8)).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let rest = &module[at + KEY.len()..];
    let text = String::from_utf8_lossy(rest.split(|byte| *byte == 0).next().unwrap_or_default());
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
            files.insert(name, path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_once() {
        let root = tempfile::tempdir().unwrap();
        let module = |name: &str, depends: &str| {
            let text = format!("ELF\0license=GPL\0depends={depends}\0name={name}\0");
            std::fs::write(root.path().join(format!("{name}.ko")), text).unwrap();
        };
        module("ext4", "mbcache,jbd2");
        module("jbd2", "");
        module("mbcache", "");
        module("virtio-blk", "virtio,virtio_ring");
        module("virtio_ring", "virtio");
        module("virtio", "");
        module("unrelated", "");
        let names: Vec<_> = in_order(root.path())
            .unwrap()
            .into_iter()
            .map(|file| file.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio-blk", "mbcache", "jbd2", "ext4"]);
    }
}
