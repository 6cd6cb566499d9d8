//! Placement beside, or away from, other Runs of the namespace.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kruntimes_api::run::{Affinity, AffinityTerm, WeightedAffinityTerm};

use crate::ids::PodUid;

/// The terms of one Run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Terms {
    beside: Vec<Selector>,
    away: Vec<Selector>,
    /// Weight, below zero for anti-affinity.
    preferred: Vec<(i64, Selector)>,
    error: Option<String>,
}

/// Selects Runs by label; an empty one selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

impl Terms {
    /// `None` when the affinity says nothing.
    pub(super) fn of(affinity: &Affinity) -> Option<Self> {
        let mut terms = Self { beside: Vec::new(), away: Vec::new(), preferred: Vec::new(), error: None };
        if let Some(affinity) = &affinity.run_affinity {
            terms.beside = terms.required("runAffinity", &affinity.required);
            terms.prefer("runAffinity", &affinity.preferred, 1);
        }
        if let Some(anti) = &affinity.run_anti_affinity {
            terms.away = terms.required("runAntiAffinity", &anti.required);
            terms.prefer("runAntiAffinity", &anti.preferred, -1);
        }
        let empty = terms.beside.is_empty() && terms.away.is_empty() && terms.preferred.is_empty();
        (!empty || terms.error.is_some()).then_some(terms)
    }

    /// What no Pod could ever satisfy because it cannot be understood.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(super) fn prefers(&self) -> bool {
        !self.preferred.is_empty()
    }

    fn required(&mut self, field: &str, terms: &[AffinityTerm]) -> Vec<Selector> {
        terms.iter().filter_map(|term| self.selector(field, &term.label_selector)).collect()
    }

    fn prefer(&mut self, field: &str, terms: &[WeightedAffinityTerm], sign: i64) {
        for term in terms {
            if let Some(selector) = self.selector(field, &term.run_affinity_term.label_selector) {
                self.preferred.push((sign * i64::from(term.weight), selector));
            }
        }
    }

    fn selector(&mut self, field: &str, selector: &LabelSelector) -> Option<Selector> {
        match Selector::of(selector) {
            Ok(selector) => Some(selector),
            Err(error) => {
                self.error.get_or_insert(format!("{field}: {error}"));
                None
            }
        }
    }

    /// Looks at the Runs that are placed already.
    pub(super) fn neighbours<'a>(
        &self,
        own: &BTreeMap<String, String>,
        placed: impl Iterator<Item = (&'a BTreeMap<String, String>, &'a PodUid)>,
    ) -> Neighbours {
        let mut beside = vec![HashSet::new(); self.beside.len()];
        let mut away = HashSet::new();
        let mut hits: HashSet<(usize, &PodUid)> = HashSet::new();
        for (labels, pod) in placed {
            for (term, pods) in self.beside.iter().zip(&mut beside) {
                if term.matches(labels) {
                    pods.insert(pod.clone());
                }
            }
            if self.away.iter().any(|term| term.matches(labels)) {
                away.insert(pod.clone());
            }
            for (index, (_, term)) in self.preferred.iter().enumerate() {
                if term.matches(labels) {
                    hits.insert((index, pod));
                }
            }
        }
        let mut preferred: HashMap<PodUid, i64> = HashMap::new();
        for (index, pod) in hits {
            *preferred.entry(pod.clone()).or_default() += self.preferred[index].0;
        }
        // The first Run of a set that wants to be together may go anywhere.
        let beside = beside.into_iter().zip(&self.beside);
        let beside =
            beside.filter(|(pods, term)| !(pods.is_empty() && term.matches(own))).map(|(pods, _)| pods);
        Neighbours { beside: beside.collect(), away, preferred }
    }
}

/// Which Pods the terms of one Run allow and prefer, now.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    beside: Vec<HashSet<PodUid>>,
    away: HashSet<PodUid>,
    preferred: HashMap<PodUid, i64>,
}

impl Neighbours {
    /// Whether the required terms allow `pod`.
    pub(super) fn allow(&self, pod: &PodUid) -> bool {
        self.near(pod) && !self.away.contains(pod)
    }

    /// Whether the required affinity terms alone allow `pod`.
    pub(super) fn near(&self, pod: &PodUid) -> bool {
        self.beside.iter().all(|pods| pods.contains(pod))
    }

    /// The best of `pods` (uid, load, name): preference and least load weigh the same,
    /// each scaled to 0..100; ties go by name.
    pub(super) fn best<'a>(
        &self,
        pods: impl Iterator<Item = (u32, &'a PodUid, u32, &'a str)> + Clone,
    ) -> Option<u32> {
        let weight = |uid: &PodUid| self.preferred.get(uid).copied().unwrap_or(0);
        let low = pods.clone().map(|(_, uid, ..)| weight(uid)).min()?.min(0);
        let high = pods.clone().map(|(_, uid, ..)| weight(uid)).max()?;
        let mut loads: Vec<u32> = pods.clone().map(|(_, _, load, _)| load).collect();
        loads.sort_unstable();
        loads.dedup();
        let score = |uid: &PodUid, load: u32| {
            let preference = if high > low { (weight(uid) - low) * 100 / (high - low) } else { 0 };
            let rank = loads.partition_point(|other| *other < load) as i64;
            let steps = loads.len() as i64 - 1;
            preference + if steps > 0 { (steps - rank) * 100 / steps } else { 100 }
        };
        pods.min_by_key(|(_, uid, load, name)| (std::cmp::Reverse(score(uid, *load)), *name))
            .map(|(slot, ..)| slot)
    }
}

impl Selector {
    fn of(selector: &LabelSelector) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
        }
        for expression in selector.match_expressions.iter().flatten() {
            let (key, values) = (expression.key.clone(), expression.values.clone().unwrap_or_default());
            requirements.push(match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Requirement::In(key, values),
                ("NotIn", false) => Requirement::NotIn(key, values),
                ("Exists", true) => Requirement::Exists(key),
                ("DoesNotExist", true) => Requirement::DoesNotExist(key),
                ("In" | "NotIn", true) => {
                    return Err(format!("key {key:?}: {} needs values", expression.operator));
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err(format!("key {key:?}: {} takes no values", expression.operator));
                }
                (other, _) => return Err(format!("key {key:?}: unknown operator {other:?}")),
            });
        }
        if requirements.is_empty() {
            Err("an empty selector selects nothing".into())
        } else {
            Ok(Self(requirements))
        }
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}
