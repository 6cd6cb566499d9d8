//! The control groups of a test's servers: in a place of the test's own, removed with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Where the servers in `dir` make their groups, seen from the root of each hierarchy.
pub fn parent(dir: &Path) -> PathBuf {
    let name = dir.file_name().expect("a named folder").to_string_lossy();
    Path::new("/").join(format!("kruntimes-test-{}", name.trim_start_matches('.')))
}

/// That place in every hierarchy that is mounted here.
pub struct Groups {
    roots: Vec<PathBuf>,
}

impl Groups {
    pub fn of(dir: &Path) -> Self {
        let parent = parent(dir);
        let below = parent.strip_prefix("/").expect("absolute");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
        let roots = mounts.filter_map(|line| Some(Path::new(line.split(' ').nth(4)?).join(below)));
        Self { roots: roots.collect() }
    }

    /// All that exist now, by depth below the place: servers are at 1, leaves at 2.
    pub fn at_depth(&self, depth: usize) -> Vec<PathBuf> {
        let folders = |paths: Vec<PathBuf>| -> Vec<PathBuf> {
            let entries =
                paths.into_iter().filter_map(|path| std::fs::read_dir(path).ok()).flatten().flatten();
            entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
        };
        (0..depth).fold(self.roots.clone(), |paths, _| folders(paths))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Deepest first; what a killed server left may take a moment to die.
        while self.roots.iter().any(|root| root.exists()) && Instant::now() < deadline {
            for depth in (0..=3).rev() {
                for path in self.at_depth(depth) {
                    end(&path);
                    let _ = std::fs::remove_dir(path);
                }
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

/// Ends everything in one group.
fn end(path: &Path) {
    if std::fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let procs = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.split_whitespace().filter(|pid| !matches!(*pid, "0" | "1")) {
        let _ = std::process::Command::new("kill").args(["-KILL", pid]).status();
    }
}
