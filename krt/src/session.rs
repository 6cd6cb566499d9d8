//! A connection to one API and the calls that the commands share.

use std::future::Future;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kruntimes_api::{Run, Runtime};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::cli::Connection;
use crate::error::Error;
use crate::target;

/// Objects fetched with one request when listing.
const PAGE: u32 = 500;

/// An API, as whom and about which namespace.
#[derive(Clone)]
pub struct Session {
    /// The client; it connects with the first request.
    pub client: Client,
    /// The namespace that was asked for.
    pub namespace: String,
    address: String,
    local: bool,
    limit: Option<Duration>,
}

/// What a watch of one object tells.
#[derive(Debug)]
pub enum Sight<K> {
    /// It is like this now.
    Object(Box<K>),
    /// It does not exist.
    Absent,
    /// The watch broke and is being renewed.
    Trouble(String),
    /// The watch is refused; asking again is useless.
    Refused(Error),
}

impl Session {
    /// Finds the API and prepares the client; nothing is sent yet.
    pub(crate) async fn open(connection: &Connection) -> Result<Self, Error> {
        let target = target::resolve(connection).await?;
        let address = target.config.cluster_url.to_string();
        let client = Client::try_from(target.config)
            .map_err(|e| Error::from_kube("prepare the connection", &address, target.local, e))?;
        Ok(Self {
            client,
            namespace: target.namespace,
            address,
            local: target.local,
            limit: connection.request_timeout.filter(|limit| !limit.is_zero()),
        })
    }

    /// Whether this is the platform of this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// Where the API is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The objects of the session's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The objects of the session's namespace, or of all.
    pub fn api_in<K>(&self, everywhere: bool) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        if everywhere { Api::all(self.client.clone()) } else { self.api() }
    }

    /// Sends one request, within `--request-timeout`.
    ///
    /// # Errors
    /// In the words of [`Error`], with `doing` for what failed.
    pub async fn call<T>(
        &self,
        doing: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let answer = match self.limit {
            None => request.await,
            Some(limit) => match tokio::time::timeout(limit, request).await {
                Ok(answer) => answer,
                Err(_) => return Err(Error::Slow { doing: doing.to_owned(), limit }),
            },
        };
        answer.map_err(|error| self.explain(doing, error))
    }

    /// A client's error in our words.
    pub fn explain(&self, doing: &str, error: kube::Error) -> Error {
        Error::from_kube(doing, &self.address, self.local, error)
    }

    /// Who we are to the API, for `spec.submitter`: the one name that admission accepts there. A name in a
    /// kubeconfig is only a word of that file. `None`: the API does not say, and fills it in if it can.
    ///
    /// # Errors
    /// As [`Self::call`], when it does not answer at all.
    pub(crate) async fn whoami(&self, doing: &str) -> Result<Option<String>, Error> {
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let asked = self.call(doing, api.create(&params, &SelfSubjectReview::default())).await;
        match asked {
            Ok(review) => Ok(review.status.and_then(|status| status.user_info?.username)),
            Err(error) if error.api_code().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One Run.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn run(&self, name: &str) -> Result<Run, Error> {
        self.call(&format!("get Run {name}"), self.api::<Run>().get(name)).await
    }

    /// One Runtime.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn runtime(&self, name: &str) -> Result<Runtime, Error> {
        self.call(&format!("get Runtime {name}"), self.api::<Runtime>().get(name)).await
    }

    /// Every object that `params` select, page by page, with the list's resource version.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn list<K>(
        &self,
        doing: &str,
        api: &Api<K>,
        params: ListParams,
    ) -> Result<(Vec<K>, String), Error>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let mut params = params.limit(PAGE);
        let mut items = Vec::new();
        loop {
            let mut page = self.call(doing, api.list(&params)).await?;
            items.append(&mut page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok((items, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    /// The Runs that a person named, or all with the labels.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn selected(&self, selection: &crate::cli::Selection) -> Result<Vec<String>, Error> {
        let Some(selector) = &selection.selector else { return Ok(selection.runs.clone()) };
        let (runs, _) =
            self.list("list Runs", &self.api::<Run>(), ListParams::default().labels(selector)).await?;
        Ok(runs.iter().map(ResourceExt::name_any).collect())
    }

    /// Asks for the end of a Run. Only the one field is written: a whole object would be spelled
    /// differently from what its author wrote.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn cancel(&self, name: &str) -> Result<Run, Error> {
        let patch = Patch::Merge(serde_json::json!({"spec": {"cancelRequested": true}}));
        let api = self.api::<Run>();
        self.call(&format!("cancel Run {name}"), api.patch(name, &PatchParams::default(), &patch)).await
    }

    /// Watches one object by name until the stream is dropped; a broken watch is renewed.
    pub fn watch<K>(&self, doing: &str, name: &str) -> impl Stream<Item = Sight<K>> + Send + use<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + 'static,
    {
        let (session, doing) = (self.clone(), doing.to_owned());
        watcher::watch_object(self.api::<K>(), name).default_backoff().map(move |sight| match sight {
            Ok(Some(object)) => Sight::Object(Box::new(object)),
            Ok(None) => Sight::Absent,
            Err(error) => session.sight_of(&doing, error),
        })
    }

    fn sight_of<K>(&self, doing: &str, error: watcher::Error) -> Sight<K> {
        match self.watch_error(doing, error) {
            Ok(trouble) => Sight::Trouble(trouble),
            Err(refused) => Sight::Refused(refused),
        }
    }

    /// A watch's error: `Ok` with words when it passes by itself.
    ///
    /// # Errors
    /// When asking again is useless: rights, credentials, an unknown kind.
    pub fn watch_error(&self, doing: &str, error: watcher::Error) -> Result<String, Error> {
        let error = match error {
            watcher::Error::InitialListFailed(e)
            | watcher::Error::WatchStartFailed(e)
            | watcher::Error::WatchFailed(e) => self.explain(doing, e),
            watcher::Error::WatchError(status) => Error::Refused { doing: doing.to_owned(), status },
            watcher::Error::NoResourceVersion => {
                return Err(Error::Protocol {
                    doing: doing.to_owned(),
                    why: "the list has no version".into(),
                });
            }
        };
        match error.api_code() {
            Some(401 | 403 | 404 | 400) => Err(error),
            _ if matches!(error, Error::Protocol { .. }) => Err(error),
            _ => Ok(error.to_string()),
        }
    }
}
