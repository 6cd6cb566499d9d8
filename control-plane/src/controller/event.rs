//! What happens to the controller, what it does, and how that ends.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_api::{Run, Runtime, RuntimeInstance, RuntimeStatus};
use kruntimes_core::ids::{PodUid, RunUid};
use serde_json::Value;

use super::effects::Kind;
use super::ended::EndedRun;
use super::pool::{Pass, PassResult};
use crate::events::Note;
use crate::watch::Watched;
use crate::writer::WriteError;

/// Everything that can happen to the controller.
#[derive(Debug)]
pub enum Event {
    /// A Run that has not ended.
    Run(Watched<Box<Run>>),
    /// A Run that has.
    Ended(Watched<Box<EndedRun>>),
    /// A Pod with the Runtime label.
    Pod(Watched<Box<Pod>>),
    /// A Runtime.
    Runtime(Watched<Box<Runtime>>),
    /// A RuntimeInstance.
    Instance(Watched<Box<RuntimeInstance>>),
    /// A Deployment of a Runtime.
    Deployment(Watched<Box<Deployment>>),
    /// Another object of a Runtime.
    Owned(Kind, Watched<Box<ObjectMeta>>),
    /// An action was carried out.
    Done(Done),
    /// Time has passed.
    Tick,
}

/// What the loop must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Everything that a Runtime consists of.
    Pass(Box<Pass>),
    /// The status of a Runtime.
    Status {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: String,
        /// The whole status.
        status: Box<RuntimeStatus>,
    },
    /// The end of an attempt whose Pod is lost.
    Run {
        /// Whose.
        uid: RunUid,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Merge patch for `runs/status`.
        patch: Value,
    },
    /// A Pod that is silent.
    DeletePod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: PodUid,
        /// Why.
        message: String,
    },
    /// An ended Run whose time has come.
    DeleteRun {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: RunUid,
    },
    /// Is this Pod there, though the watch does not show it?
    Confirm {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: PodUid,
    },
    /// Tell a person.
    Note(Box<Note>),
    /// Is the API there?
    Probe {
        /// Namespace.
        namespace: String,
        /// Pod to ask for.
        name: String,
    },
    /// List the ended Runs again: what their Runtime says about their deletion has changed.
    ListEnded,
}

/// How an [`Action`] ended.
#[derive(Debug)]
pub enum Done {
    /// [`Action::Pass`].
    Pass(Box<PassResult>),
    /// [`Action::Status`]: namespace, name, what was written.
    Status(String, String, Result<Box<RuntimeStatus>, WriteError>),
    /// [`Action::Run`].
    Run(RunUid, Result<(), WriteError>),
    /// [`Action::DeletePod`].
    DeletePod(PodUid, Result<(), WriteError>),
    /// [`Action::DeleteRun`].
    DeleteRun(RunUid, Result<(), WriteError>),
    /// [`Action::Confirm`]: the Pod of that name.
    Confirmed(PodUid, Result<Option<Box<Pod>>, WriteError>),
    /// [`Action::Probe`]: whether the API answered.
    Probe(bool),
}
