//! `krt list`: Runs in a table, once or as they change.

use std::collections::BTreeMap;

use clap::Args;
use futures::TryStreamExt;
use jiff::Timestamp;
use kruntimes_api::{Phase, Run};
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};

use crate::attach::driver::Interrupts;
use crate::cli::Format;
use crate::error::Error;
use crate::render::object;
use crate::render::run::phase;
use crate::render::table::Columns;
use crate::session::Session;
use crate::term::Terminal;
use crate::{exit, values};

/// List Runs, the newest last.
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
pub(crate) struct ListArgs {
    /// In all namespaces.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Of this Runtime only.
    #[arg(long, short, value_name = "NAME", value_parser = values::runtime_name)]
    runtime: Option<String>,
    /// In these phases only; may be repeated or separated by commas.
    #[arg(long, value_name = "PHASE", value_delimiter = ',', value_parser = values::phase)]
    phase: Vec<Phase>,
    /// With these labels only, for instance team=ml,stage!=test.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Go on and print every change.
    #[arg(long, short)]
    watch: bool,
    /// Without the header.
    #[arg(long)]
    no_headers: bool,
    /// Form of the output.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: ListArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    if args.watch {
        return watch(&args, session, terminal).await;
    }
    let params = ListParams {
        field_selector: args.fields(),
        label_selector: args.selector.clone(),
        ..ListParams::default()
    };
    let (mut runs, _) =
        session.list("list Runs", &session.api_in::<Run>(args.all_namespaces), params).await?;
    runs.retain(|run| args.wants(run));
    runs.sort_by_cached_key(|run| (run.metadata.creation_timestamp.as_ref().map(|t| t.0), run.name_any()));
    if let Some(text) = object::structured(&object::list(&runs)?, args.output)? {
        terminal.data(&text)?;
    } else if args.output == Format::Name {
        terminal.data(&runs.iter().map(object::name).collect::<String>())?;
    } else if runs.is_empty() {
        let place = if args.all_namespaces {
            "any namespace".into()
        } else {
            format!("namespace {}", session.namespace)
        };
        let matching = if args.filters() { " that match" } else { "" };
        terminal.note(&format!("no Runs{matching} in {place}"));
    } else {
        let columns = args.columns();
        let (mut table, now) = (columns.table::<Run>(), Timestamp::now());
        runs.iter().for_each(|run| table.push(columns.row(run, now)));
        let text = table.render(terminal.out);
        terminal.data(if args.no_headers { after_header(&text) } else { &text })?;
    }
    Ok(exit::OK)
}

fn after_header(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rows)| rows)
}

impl ListArgs {
    fn columns(&self) -> Columns {
        Columns { namespace: self.all_namespaces, wide: self.output == Format::Wide }
    }

    fn filters(&self) -> bool {
        self.runtime.is_some() || !self.phase.is_empty() || self.selector.is_some()
    }

    /// What the server can select. Two phases cannot be had at once there, and an empty one means Pending.
    fn fields(&self) -> Option<String> {
        let runtime = self.runtime.as_ref().map(|name| format!("spec.runtime={name}"));
        let phase = match self.phase.as_slice() {
            [phase] if *phase != Phase::Pending => Some(format!("status.phase={phase}")),
            _ => None,
        };
        let terms: Vec<String> = [runtime, phase].into_iter().flatten().collect();
        (!terms.is_empty()).then(|| terms.join(","))
    }

    fn wants(&self, run: &Run) -> bool {
        self.phase.is_empty() || self.phase.contains(&phase(run))
    }
}

/// Prints what is there, then every change, until ctrl-c.
async fn watch(args: &ListArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let mut config = watcher::Config::default();
    // A Run that leaves the selection would look deleted: phases are selected here.
    if let Some(name) = &args.runtime {
        config = config.fields(&format!("spec.runtime={name}"));
    }
    if let Some(selector) = &args.selector {
        config = config.labels(selector);
    }
    let stream = watcher::watcher(session.api_in::<Run>(args.all_namespaces), config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut interrupts = Interrupts::listen()?;
    let mut printer = Printer::new(args, terminal);
    loop {
        let event = tokio::select! {
            () = interrupts.next() => return Ok(exit::OK),
            event = stream.try_next() => event,
        };
        match event {
            Ok(Some(event)) => printer.event(event)?,
            Ok(None) => return Ok(exit::OK),
            Err(error) => {
                let trouble = session.watch_error("watch Runs", error)?;
                terminal.warn(&format!("{trouble}; trying again"));
            }
        }
    }
}

struct Printer<'a> {
    args: &'a ListArgs,
    terminal: &'a Terminal,
    table: crate::render::table::Table,
    header: bool,
    /// Versions that were printed, so that a renewed list does not repeat them.
    known: BTreeMap<String, String>,
    initial: Option<Vec<Run>>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a ListArgs, terminal: &'a Terminal) -> Self {
        let table = args.columns().table::<Run>();
        Self { args, terminal, table, header: !args.no_headers, known: BTreeMap::new(), initial: None }
    }

    fn event(&mut self, event: Event<Run>) -> Result<(), Error> {
        match event {
            Event::Init => self.initial = Some(Vec::new()),
            Event::InitApply(run) => self.initial.get_or_insert_default().push(run),
            Event::InitDone => {
                let mut runs = self.initial.take().unwrap_or_default();
                runs.sort_by_cached_key(|run| {
                    (run.metadata.creation_timestamp.as_ref().map(|t| t.0), run.name_any())
                });
                self.show(&runs)?;
            }
            Event::Apply(run) => self.show(&[run])?,
            Event::Delete(run) => {
                self.known.remove(&run.uid().unwrap_or_default());
            }
        }
        Ok(())
    }

    fn show(&mut self, runs: &[Run]) -> Result<(), Error> {
        let (now, columns) = (Timestamp::now(), self.args.columns());
        let mut text = String::new();
        for run in runs.iter().filter(|run| self.args.wants(run)) {
            let version = run.resource_version().unwrap_or_default();
            if self.known.insert(run.uid().unwrap_or_default(), version.clone()) == Some(version) {
                continue;
            }
            match self.args.output {
                Format::Name => text.push_str(&object::name(run)),
                Format::Table | Format::Wide => self.table.push(columns.row(run, now)),
                format @ (Format::Json | Format::Yaml) => {
                    let separator = if format == Format::Yaml { "---\n" } else { "" };
                    let object = object::structured(&object::manifest(run)?, format)?.unwrap_or_default();
                    text.push_str(&format!("{separator}{object}"));
                }
            }
        }
        if !self.table.is_empty() {
            text = match std::mem::take(&mut self.header) {
                true => self.table.render(self.terminal.out),
                false => self.table.render_rows(self.terminal.out),
            };
        }
        self.terminal.data(&text)
    }
}
