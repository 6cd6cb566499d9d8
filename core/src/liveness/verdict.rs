//! What is to be said of one bound Run.

use std::collections::HashMap;
use std::time::Duration;

use super::{Bound, Grave, Settings, Watched};
use crate::ids::PodUid;
use crate::run::Lost;

pub(super) enum Verdict {
    Alive {
        suspect_at: Duration,
        suspect: Option<PodUid>,
    },
    /// Nobody has ever seen its Pod.
    Unseen,
    Lost {
        lost: Lost,
        message: String,
    },
}

pub(super) fn verdict(
    settings: &Settings,
    bound: &Bound,
    pods: &HashMap<PodUid, Watched>,
    graves: &HashMap<PodUid, Grave>,
    now: Duration,
) -> Verdict {
    let name = &bound.pod_name;
    if let Some(grave) = graves.get(&bound.pod) {
        let name = &grave.name;
        let message = match grave.lost {
            Lost::Gone => format!("pod {name} is gone"),
            Lost::Terminating => format!("pod {name} was terminated"),
            Lost::Drained => format!("pod {name} has ended: Succeeded"),
            Lost::Unhealthy => format!("pod {name} had no heartbeat and was deleted"),
        };
        return Verdict::Lost { lost: grave.lost, message };
    }
    let Some(pod) = pods.get(&bound.pod) else {
        // It may be so new that its watch event is still on the way.
        let at = bound.since + settings.unseen;
        return if at > now { Verdict::Alive { suspect_at: at, suspect: None } } else { Verdict::Unseen };
    };
    if let Some(why) = &pod.facts.ended {
        let lost = if pod.facts.drained { Lost::Drained } else { Lost::Gone };
        return Verdict::Lost { lost, message: format!("pod {name} has ended: {why}") };
    }
    // A Run may be bound to a Pod that is silent already.
    let heard = pod.heard;
    let suspect_at = heard + settings.stale / 2;
    if suspect_at > now {
        return Verdict::Alive { suspect_at, suspect: None };
    }
    match settings.force_after.map(|force| heard + settings.stale + force) {
        Some(at) if at <= now => {
            let silent = (now - heard).as_secs();
            let message =
                format!("no heartbeat of pod {name} for {silent} s; this attempt may still run on {name}");
            Verdict::Lost { lost: Lost::Unhealthy, message }
        }
        Some(at) => Verdict::Alive { suspect_at: at, suspect: Some(bound.pod.clone()) },
        None => Verdict::Alive { suspect_at: now + settings.stale, suspect: Some(bound.pod.clone()) },
    }
}
