//! Usage over several attempts.

use kruntimes_api::bounds::FIGURES;
use kruntimes_api::run::{Figure, Usage};

use super::AttemptUsage;

/// Adds an attempt's figures to what earlier attempts left; `None` is an attempt in which nothing was executed.
pub(super) fn add(before: Option<&Usage>, attempt: Option<&AttemptUsage>) -> Option<Usage> {
    let Some(attempt) = attempt else { return before.cloned() };
    let mut total = before.map(|usage| usage.total.clone()).unwrap_or_default();
    let mut dropped = attempt.figures.len() > FIGURES;
    for figure in &attempt.figures {
        match total.iter().position(|t| t.name == figure.name && t.scope == figure.scope) {
            Some(index) => merge(&mut total[index], figure),
            None if total.len() < FIGURES => total.push(figure.clone()),
            None => dropped = true,
        }
    }
    let incomplete = dropped || attempt.incomplete || before.is_some_and(|usage| usage.incomplete);
    let last = attempt.figures.iter().take(FIGURES).cloned().collect();
    Some(Usage { last, total, incomplete })
}

fn merge(sum: &mut Figure, figure: &Figure) {
    // A peak of a series is its highest value; everything else adds up, whatever the resource is called.
    let is_peak = figure.scope != "allocation" && figure.name.contains("peak");
    sum.value = if is_peak { sum.value.max(figure.value) } else { sum.value + figure.value };
    if sum.source != figure.source {
        sum.source = "mixed".into();
    }
}
