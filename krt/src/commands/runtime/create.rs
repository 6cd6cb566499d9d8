//! `krt runtime create`.

use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use kruntimes_api::runtime::{Capacity, RuntimeSpec};
use kruntimes_api::{Runtime, names};
use kube::ResourceExt;
use kube::api::{ObjectMeta, Patch, PatchParams};
use serde_json::json;

use crate::cli::{Connection, Format};
use crate::error::Error;
use crate::exit;
use crate::render::object;
use crate::render::runtime::replicas;
use crate::session::{Session, Sight};
use crate::term::Terminal;
use crate::values::{self, Amounts};

/// Field manager of what is applied here.
const MANAGER: &str = "krt";

/// Create a Runtime, or change the one that has the name.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    krt runtime create bash --image bash-server --replicas 2 --capacity runs=4 --wait\n  \
    krt runtime create gpu --image registry.example.com/gpu-server:1 --capacity runs=8,nvidia.com/gpu=4 --dry-run")]
pub(crate) struct CreateArgs {
    /// Name.
    #[arg(value_name = "NAME", value_parser = values::new_runtime_name)]
    name: String,
    /// Image of the Runtime Server.
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Pods.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..), allow_negative_numbers = true)]
    replicas: i32,
    /// What each Pod offers, for instance runs=4,cpu=8. May be repeated.
    #[arg(long, value_name = "NAME=AMOUNT", value_parser = Capacities)]
    capacity: Vec<CapacityArg>,
    /// TCP port of a server that cannot listen on the socket.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(i32).range(1..=65535))]
    port: Option<i32>,
    /// Variable of the server; may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = values::env)]
    env: Vec<values::EnvArg>,
    /// Print the Runtime that would be applied, and apply nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait until its Pods take Runs.
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this.
    #[arg(long, value_name = "DURATION", value_parser = values::limit, requires = "wait", default_value = "5m")]
    timeout: Duration,
    /// Print the Runtime in this form.
    #[arg(long, short, value_name = "FORMAT", value_enum)]
    output: Option<Format>,
}

#[derive(Debug, Clone)]
struct CapacityArg(Amounts);

#[derive(Clone)]
struct Capacities;

impl clap::builder::TypedValueParser for Capacities {
    type Value = CapacityArg;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<CapacityArg, clap::Error> {
        let parse = |text: &str| values::requests(text).map(CapacityArg);
        clap::builder::TypedValueParser::parse_ref(&parse, command, argument, value)
    }
}

pub(crate) async fn run(args: CreateArgs, connection: &Connection, terminal: &Terminal) -> Result<u8, Error> {
    let mut runtime = build(&args)?;
    if args.dry_run {
        runtime.metadata.namespace = match &connection.namespace {
            Some(namespace) => Some(namespace.clone()),
            None => Session::open(connection).await.ok().map(|session| session.namespace),
        };
        let format = args.output.unwrap_or(Format::Yaml);
        terminal.data(
            &object::structured(&object::manifest(&runtime)?, format)?
                .unwrap_or_else(|| object::name(&runtime)),
        )?;
        return Ok(exit::OK);
    }
    let session = Session::open(connection).await?;
    let (api, params) = (session.api::<Runtime>(), PatchParams::apply(MANAGER).force());
    let manifest = object::manifest(&runtime)?;
    let applied = session
        .call(
            &format!("apply Runtime {}", args.name),
            api.patch(&args.name, &params, &Patch::Apply(&manifest)),
        )
        .await?;
    match args.output {
        Some(format) => {
            let text = object::structured(&object::manifest(&applied)?, format)?;
            terminal.data(&text.unwrap_or_else(|| object::name(&applied)))?;
        }
        None => terminal.data(&format!("Runtime {} applied\n", args.name))?,
    }
    if args.wait {
        ready(&session, &applied, args.timeout, terminal).await?;
    }
    Ok(exit::OK)
}

fn build(args: &CreateArgs) -> Result<Runtime, Error> {
    if args.image.is_empty() || args.image.len() > 2048 || args.image.contains(char::is_whitespace) {
        return Err(Error::flag("--image", "must be the name of an image, of at most 2048 characters"));
    }
    let mut resources = std::collections::BTreeMap::new();
    for (name, amount) in args.capacity.iter().flat_map(|capacity| &capacity.0) {
        if resources.insert(name.clone(), amount.clone()).is_some() {
            return Err(Error::flag("--capacity", format!("{name} is given twice")));
        }
    }
    let mut container = json!({"name": names::RUNTIME_CONTAINER, "image": args.image});
    let mut env = Vec::new();
    for variable in &args.env {
        let value = variable.value.clone().or_else(|| std::env::var(&variable.name).ok());
        let value = value.ok_or_else(|| {
            Error::flag("--env", format!("{} is not set in the environment of krt", variable.name))
        })?;
        env.push(json!({"name": variable.name, "value": value}));
    }
    if !env.is_empty() {
        container["env"] = env.into();
    }
    Ok(Runtime {
        metadata: ObjectMeta { name: Some(args.name.clone()), ..ObjectMeta::default() },
        spec: RuntimeSpec {
            template: json!({"spec": {"containers": [container]}}),
            port: args.port,
            replicas: Some(args.replicas),
            capacity: (!resources.is_empty()).then_some(Capacity { resources }),
            ..RuntimeSpec::default()
        },
        status: None,
    })
}

/// Waits until the pool takes Runs; says what the controller says meanwhile.
pub(super) async fn ready(
    session: &Session,
    runtime: &Runtime,
    limit: Duration,
    terminal: &Terminal,
) -> Result<(), Error> {
    let name = runtime.name_any();
    let mut spinner = terminal.spinner();
    spinner.show(Some(&format!("Runtime {name} is starting")));
    let waiting = async {
        let mut watch = std::pin::pin!(session.watch::<Runtime>(&format!("watch Runtime {name}"), &name));
        while let Some(sight) = watch.next().await {
            match sight {
                Sight::Object(now) => {
                    let observed = now.status.as_ref().and_then(|status| status.observed_generation);
                    let current = observed.is_none_or(|observed| Some(observed) >= now.metadata.generation);
                    let (wanted, ready) = replicas(&now);
                    if current && ready >= wanted && observed.is_some() {
                        return Ok(format!("Runtime {name} takes Runs ({ready} of {wanted} Pods)"));
                    }
                    spinner.show(Some(&format!("Runtime {name}: {ready} of {wanted} Pods take Runs")));
                }
                Sight::Absent => return Err(Error::failed(format!("Runtime {name} was deleted"), "")),
                Sight::Trouble(text) => spinner.aside(|| terminal.warn(&format!("{text}; trying again"))),
                Sight::Refused(error) => return Err(error),
            }
        }
        Err(Error::Protocol { doing: format!("watch Runtime {name}"), why: "the watch ended".into() })
    };
    let waited = tokio::time::timeout(limit, waiting).await;
    spinner.show(None);
    match waited {
        Ok(words) => terminal.note(&words?),
        Err(_) => {
            let advice = format!("`krt runtime describe {name}` says why");
            terminal.note(&advice);
            return Err(Error::Expired { what: format!("Runtime {name} does not take Runs"), limit });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    #[test]
    fn the_manifest_has_what_was_said_and_nothing_else() {
        let line = Line::try_parse_from([
            "x",
            "bash",
            "--image",
            "bash-server",
            "--replicas",
            "2",
            "--capacity",
            "runs=4,cpu=500m",
            "-e",
            "A=1",
        ]);
        insta::assert_json_snapshot!(object::manifest(&build(&line.ok().unwrap().args).unwrap()).unwrap());
    }

    #[test]
    fn mistakes_name_the_flag() {
        let refused = |line: &[&str]| match Line::try_parse_from(line.iter().copied()) {
            Ok(line) => build(&line.args).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(refused(&["x", "a", "--image", ""]).contains("--image"));
        assert!(refused(&["x", "a", "--image", "i", "--replicas", "-1"]).contains("--replicas"));
        assert!(refused(&["x", "a", "--image", "i", "--capacity", "runs=0.5"]).contains("--capacity"));
        assert!(refused(&["x", "a", "--image", "i", "--port", "70000"]).contains("--port"));
        assert!(refused(&["x", &"a".repeat(64), "--image", "i"]).contains("at most 63"));
    }
}
