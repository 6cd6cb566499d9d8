//! Identity: who an effect is meant for.

use std::fmt;
use std::sync::Arc;

macro_rules! uid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

uid! {
    /// `metadata.uid` of a Run; also its execution id.
    RunUid
}
uid! {
    /// `metadata.uid` of a Pod.
    PodUid
}

/// A Pod, by the name a person knows and the uid that cannot come back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: PodUid,
}

/// What every effect of an attempt carries; one with an older pair is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Run.
    pub run: RunUid,
    /// Attempt, from 1.
    pub attempt: i32,
    /// Bind counter, from 1; grows with every bind, also within one attempt.
    pub assignment: i64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempt {} assignment {}", self.run, self.attempt, self.assignment)
    }
}
