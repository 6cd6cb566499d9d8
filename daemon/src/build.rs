//! What was built, from what, and when.

/// The build of this program. `commit` and `built` are `unknown` unless the build set
/// `KRUNTIMES_COMMIT` and `KRUNTIMES_BUILD_DATE` in its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BuildInfo {
    /// Version of the workspace, for instance `0.1.0`.
    pub version: &'static str,
    /// Commit that was built.
    pub commit: &'static str,
    /// When it was built.
    pub built: &'static str,
}

/// The build of this program.
#[must_use]
pub const fn build_info() -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION"),
        commit: match option_env!("KRUNTIMES_COMMIT") {
            Some(commit) => commit,
            None => "unknown",
        },
        built: match option_env!("KRUNTIMES_BUILD_DATE") {
            Some(date) => date,
            None => "unknown",
        },
    }
}

/// The version alone, as a flag `--version` prints it.
#[must_use]
pub const fn version() -> &'static str {
    build_info().version
}
