//! Sizes that the kinds bound, for whoever checks before the API does.

/// Variables of a Run.
pub const ENV: usize = 256;
/// Characters in the name of a variable.
pub const ENV_NAME: usize = 256;
/// Characters in the value of a variable.
pub const ENV_VALUE: usize = 65_536;
/// Names in a Run's `resources.requests`, and in its `limits`.
pub const RESOURCES: usize = crate::crds::FEW as usize;
/// Names in what a Pod offers and a Runtime's status counts.
pub const NAMES: usize = crate::crds::NAMES as usize;
/// Figures of an attempt, and of all attempts together.
pub const FIGURES: usize = 128;
/// Characters in an inline script.
pub const INLINE: usize = 262_144;
/// Characters in the name of a Runtime: the label `app` of its Pods is `kruntimes-NAME`, and a label value has at most 63.
pub const RUNTIME_NAME: usize = 53;
