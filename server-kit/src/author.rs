//! [`Server`] behind one object-safe face, so that the engine is compiled once and not per author.

use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt as _};

use crate::server::{Job, Launch, LaunchError, Server};

/// What the engine asks the author.
pub(crate) trait Author: Send + Sync {
    fn launch<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Launch, LaunchError>>;
    fn prepare<'a>(&'a self, work_dir: &'a Path) -> BoxFuture<'a, Result<(), String>>;
    fn programs(&self) -> Vec<PathBuf>;
    fn health(&self) -> BoxFuture<'_, Result<(), String>>;
    fn finished<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, ()>;
}

impl<S: Server> Author for S {
    fn launch<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Launch, LaunchError>> {
        Server::launch(self, job).boxed()
    }

    fn prepare<'a>(&'a self, work_dir: &'a Path) -> BoxFuture<'a, Result<(), String>> {
        Server::prepare(self, work_dir).boxed()
    }

    fn programs(&self) -> Vec<PathBuf> {
        Server::programs(self)
    }

    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        Server::health(self).boxed()
    }

    fn finished<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, ()> {
        Server::finished(self, job).boxed()
    }
}
