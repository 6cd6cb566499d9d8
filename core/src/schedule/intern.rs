//! One copy of what many Runs share.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Gives the same `Arc` for equal values, so that they can be compared by address.
#[derive(Debug)]
pub(super) struct Interner<T: ?Sized> {
    values: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized + Eq + Hash> Interner<T> {
    pub(super) fn new() -> Self {
        Self { values: HashSet::new(), sweep_at: 1024 }
    }

    /// The shared copy of `value`.
    pub(super) fn share(&mut self, value: &T) -> Arc<T>
    where
        Arc<T>: for<'a> From<&'a T>,
    {
        match self.values.get(value) {
            Some(shared) => Arc::clone(shared),
            None => self.keep(Arc::from(value)),
        }
    }

    /// The shared copy of `value`, which may become it.
    pub(super) fn keep(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(shared) = self.values.get(&value) {
            return Arc::clone(shared);
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (2 * self.values.len()).max(1024);
        }
        self.values.insert(Arc::clone(&value));
        value
    }
}

/// An interned value, compared and hashed by address.
#[derive(Debug)]
pub(super) struct ByAddress<T>(pub(super) Arc<T>);

impl<T> Clone for ByAddress<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for ByAddress<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for ByAddress<T> {}

impl<T> Hash for ByAddress<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}
