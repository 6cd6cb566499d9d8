//! Amounts by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::{Amount, display};

/// Amounts by resource name; an absent name is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amounts(BTreeMap<Arc<str>, Amount>);

/// The first resource of a request that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Resource.
    pub name: Arc<str>,
    /// Asked for.
    pub want: Amount,
    /// There; may be below zero.
    pub free: Amount,
}

impl Amounts {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The amount of `name`.
    pub fn get(&self, name: &str) -> Amount {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Whether `name` is mentioned, be it with zero.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Sets the amount of `name`.
    pub fn set(&mut self, name: &str, amount: Amount) {
        if let Some(old) = self.0.get_mut(name) {
            *old = amount;
        } else {
            self.0.insert(name.into(), amount);
        }
    }

    /// Drops the names for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, Amount) -> bool) {
        self.0.retain(|name, amount| keep(name, *amount));
    }

    /// Adds every amount of `other`.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get_mut(name) {
                Some(sum) => *sum += *amount,
                None => {
                    self.0.insert(Arc::clone(name), *amount);
                }
            }
        }
    }

    /// Takes every amount of `other` away; the result may be below zero.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get_mut(name) {
                Some(rest) => *rest -= *amount,
                None => {
                    self.0.insert(Arc::clone(name), Amount::ZERO - *amount);
                }
            }
        }
    }

    /// What of `self` does not fit into `free`; `None` when all does. Zero always fits.
    pub fn shortage(&self, free: &Self) -> Option<Shortage> {
        self.0.iter().find_map(|(name, want)| {
            let free = free.get(name);
            (want.is_positive() && *want > free).then(|| Shortage {
                name: Arc::clone(name),
                want: *want,
                free,
            })
        })
    }

    /// Whether all of `self` fits into `free`.
    pub fn fits(&self, free: &Self) -> bool {
        self.shortage(free).is_none()
    }

    /// Names and amounts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, Amount)> {
        self.0.iter().map(|(name, amount)| (name, *amount))
    }

    /// Nothing is mentioned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many names are mentioned.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<N: Into<Arc<str>>> FromIterator<(N, Amount)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (N, Amount)>>(amounts: I) -> Self {
        Self(amounts.into_iter().map(|(name, amount)| (name.into(), amount)).collect())
    }
}

/// `cpu=500m, memory=2Gi`.
impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, amount)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={}", display(name, *amount))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amounts() -> impl Strategy<Value = Amounts> {
        proptest::collection::btree_map("[abc]", 0i64..5, 0..4)
            .prop_map(|map| map.into_iter().map(|(name, units)| (name, Amount::whole(units))).collect())
    }

    #[test]
    fn a_shortage_names_what_is_missing() {
        let want: Amounts = [("gpu", Amount::ONE), ("runs", Amount::ONE)].into_iter().collect();
        let free: Amounts = [("runs", Amount::whole(2))].into_iter().collect();
        let shortage = want.shortage(&free).expect("no gpu");
        assert_eq!((&*shortage.name, shortage.want, shortage.free), ("gpu", Amount::ONE, Amount::ZERO));
        assert_eq!(want.to_string(), "gpu=1, runs=1");
    }

    proptest! {
        #[test]
        fn what_fits_leaves_nothing_negative(want in amounts(), free in amounts()) {
            let mut rest = free.clone();
            rest.subtract(&want);
            let negative = rest.iter().any(|(_, amount)| amount.is_negative());
            prop_assert_eq!(want.fits(&free), !negative);
        }

        #[test]
        fn adding_and_subtracting_is_neutral(a in amounts(), b in amounts()) {
            let mut sum = a.clone();
            sum.add(&b);
            prop_assert!(b.fits(&sum));
            sum.subtract(&b);
            for name in ["a", "b", "c"] {
                prop_assert_eq!(sum.get(name), a.get(name));
            }
        }
    }
}
