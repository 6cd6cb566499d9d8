//! Whether a place gives what a Runtime requires of it.

use kruntimes_api::run::{IsolationAxis, IsolationLevel};
use kruntimes_api::runtime::RequiredIsolation;

/// An axis on which a place gives less than is required.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unmet<'a> {
    /// Its name.
    pub axis: &'static str,
    /// What is required.
    pub required: IsolationLevel,
    /// What was told of it; nothing told is nothing given.
    pub given: Option<&'a IsolationAxis>,
}

impl Unmet<'_> {
    /// What is given.
    pub fn level(&self) -> IsolationLevel {
        self.given.map_or(IsolationLevel::None, |given| given.level)
    }
}

/// What is required and not `given`, in the order of the ladder.
pub fn unmet<'a>(required: &RequiredIsolation, given: &'a [IsolationAxis]) -> Vec<Unmet<'a>> {
    let RequiredIsolation { limits, kill, files, devices, network, privileges } = required;
    let axes = [
        ("limits", limits),
        ("kill", kill),
        ("files", files),
        ("devices", devices),
        ("network", network),
        ("privileges", privileges),
    ];
    axes.into_iter()
        .filter_map(|(axis, required)| {
            let given = given.iter().find(|given| given.axis == axis);
            let unmet = Unmet { axis, required: (*required)?, given };
            (unmet.level() < unmet.required).then_some(unmet)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_weaker_or_not_told_is_unmet() {
        let axis = |axis: &str, level| IsolationAxis { axis: axis.into(), level, ..IsolationAxis::default() };
        let given = [axis("limits", IsolationLevel::Soft), axis("files", IsolationLevel::Hard)];
        let hard = Some(IsolationLevel::Hard);
        let required =
            RequiredIsolation { limits: hard, files: hard, kill: hard, ..RequiredIsolation::default() };
        let found = unmet(&required, &given);
        let levels: Vec<_> = found.iter().map(|unmet| (unmet.axis, unmet.level())).collect();
        assert_eq!(levels, [("limits", IsolationLevel::Soft), ("kill", IsolationLevel::None)]);
        assert!(unmet(&RequiredIsolation::default(), &[]).is_empty());
        let soft = RequiredIsolation { limits: Some(IsolationLevel::Soft), ..RequiredIsolation::default() };
        assert!(unmet(&soft, &given).is_empty());
    }
}
