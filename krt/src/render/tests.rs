use super::fixtures::*;
use super::runtime_describe::Pool;
use super::table::Columns;
use super::{object, preflight, printable, run, run_describe, runtime, runtime_describe};
use crate::cli::Format;
use crate::term::Palette;

fn all() -> Vec<kruntimes_api::Run> {
    vec![fresh(), pending(), running(), failed(), finished()]
}

#[test]
fn runs_in_a_table() {
    for (name, namespace, wide) in
        [("narrow", false, false), ("all-namespaces", true, false), ("wide", false, true)]
    {
        let columns = Columns { namespace, wide };
        let mut table = columns.table::<kruntimes_api::Run>();
        all().iter().for_each(|run| table.push(columns.row(run, now())));
        insta::with_settings!({snapshot_suffix => name}, {
            insta::assert_snapshot!("runs", table.render(Palette::default()));
        });
    }
}

/// Rows that come while watching stay below the columns of the first ones.
#[test]
fn later_rows_stay_aligned() {
    let columns = Columns::default();
    let mut table = columns.table::<kruntimes_api::Run>();
    table.push(columns.row(&finished(), now()));
    let mut text = table.render(Palette::default());
    table.push(columns.row(&fresh(), now()));
    text.push_str(&table.render_rows(Palette::default()));
    let at: Vec<Option<usize>> =
        text.lines().map(|line| line.find("bash").or(line.find("RUNTIME"))).collect();
    assert!(at.iter().all(|column| column.is_some() && *column == at[0]), "{text}");
}

#[test]
fn runs_in_a_few_lines() {
    for run in all() {
        let name = run.metadata.name.clone().unwrap();
        insta::with_settings!({snapshot_suffix => name}, {
            insta::assert_snapshot!("card", run::card(&run, now(), Palette::default()));
        });
    }
}

#[test]
fn runs_in_full() {
    for run in all() {
        let name = run.metadata.name.clone().unwrap();
        let events = if name == "pending" { events() } else { Vec::new() };
        insta::with_settings!({snapshot_suffix => name}, {
            insta::assert_snapshot!("describe", run_describe::describe(&run, &events, now(), Palette::default()));
        });
    }
}

#[test]
fn runs_in_one_line() {
    let lines: Vec<String> = all().iter().map(|run| run::summary(run, now(), Palette::default())).collect();
    insta::assert_snapshot!("summary", lines.join("\n"));
}

#[test]
fn runtimes_in_every_form() {
    let mut texts = Vec::new();
    for (namespace, wide) in [(false, false), (true, true)] {
        let columns = Columns { namespace, wide };
        let mut table = columns.table::<kruntimes_api::Runtime>();
        table.push(columns.row(&runtime(), now()));
        texts.push(table.render(Palette::default()));
    }
    texts.push(runtime::card(&runtime(), now(), Palette::default()));
    let runs = [("u1".to_owned(), "train".to_owned())].into();
    let pool = Pool { pods: &pods(), instances: &instances(), runs: &runs, events: &events() };
    let described = runtime_describe::describe(&runtime(), &pool, now(), Palette::default());
    texts.push(described);
    insta::assert_snapshot!("runtime", texts.join("\n=====\n"));
}

#[test]
fn colours_change_nothing_but_colour() {
    let plain = run_describe::describe(&finished(), &events(), now(), Palette::default());
    let coloured = run_describe::describe(&finished(), &events(), now(), Palette::new(true));
    assert_ne!(plain, coloured);
    assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain);
}

#[test]
fn objects_carry_their_version_and_kind() {
    let json = object::structured(&object::manifest(&fresh()).unwrap(), Format::Json).unwrap().unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (value["apiVersion"].as_str(), value["kind"].as_str()),
        (Some("kruntimes.io/v1alpha1"), Some("Run"))
    );
    let list = object::list(&[fresh(), pending()]).unwrap();
    assert_eq!((list["kind"].as_str(), list["items"][1]["kind"].as_str()), (Some("RunList"), Some("Run")));
    let yaml = object::structured(&object::manifest(&finished()).unwrap(), Format::Yaml).unwrap().unwrap();
    let back: kruntimes_api::Run = serde_yaml::from_str(&yaml).unwrap();
    assert_eq!(back, finished(), "what is printed can be applied again");
    assert_eq!(object::name(&fresh()), "run.kruntimes.io/fresh\n");
}

/// A Run's message or output name must not be able to move the cursor, clear the screen or reorder text.
#[test]
fn control_characters_are_shown_and_not_obeyed() {
    assert_eq!(printable("a\x1b[2Jb\u{9b}c\u{202e}d", false), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d");
    assert_eq!(printable("a\r\nb\tc", false), "a b c");
    assert_eq!(printable("a\r\nb", true), "a\nb");
    let mut run = finished();
    if let Some(status) = run.status.as_mut() {
        status.message = Some("\x1b]0;title\x07".into());
        status.outputs.insert("\x1b[31m".into(), "\x1b[0m".into());
        status.log_tail = Some("\x1b[H\x1b[2J".into());
    }
    let text = run_describe::describe(&run, &events(), now(), Palette::default())
        + &run::card(&run, now(), Palette::default())
        + &run::summary(&run, now(), Palette::default());
    assert!(!text.contains('\x1b') && !text.contains('\x07'));
}

#[test]
fn a_sum_of_different_sources_stands_beside_the_last_attempt() {
    let mut run = finished();
    let usage = run.status.as_mut().and_then(|status| status.usage.as_mut()).unwrap();
    usage.total.iter_mut().find(|figure| figure.name == "cpu_user_seconds").unwrap().source = "mixed".into();
    let text = run_describe::describe(&run, &[], now(), Palette::default());
    let rows: Vec<_> =
        text.lines().filter(|line| line.trim_start().starts_with("cpu_user_seconds ")).collect();
    assert_eq!(rows.len(), 1, "{text}");
    let words: Vec<_> = rows[0].split_whitespace().collect();
    assert_eq!(words, ["cpu_user_seconds", "12.25s", "13.50s", "cgroup,", "mixed", "attempt"]);
}

#[test]
fn a_code_above_128_has_the_name_of_its_signal() {
    for (code, shown) in
        [(129, "129 (SIGHUP)\n"), (153, "153 (SIGXFSZ)\n"), (159, "159 (SIGSYS)\n"), (160, "160\n")]
    {
        let mut run = failed();
        run.status.as_mut().unwrap().exit_code = Some(code);
        let text = run_describe::describe(&run, &[], now(), Palette::default());
        assert!(text.contains(shown), "{code}: {text}");
    }
}

#[test]
fn what_a_place_would_give() {
    let axis = |axis: &str, level: &str, mechanism: &str, reason: &str, remedies: &[&str]| serde_json::json!({"axis": axis, "level": level, "mechanism": mechanism, "reason": reason, "remedies": remedies});
    let (groups, namespaces) = ("securityContext.privileged gives it", "hostUsers false gives it");
    let found = serde_json::json!({
        "server": {"name": "bash-server", "version": "0.1.0"}, "kernel": "6.1.0", "user": 65532,
        "isolation": [
            axis("limits", "Soft", "policing", "cgroup-v2: not mounted here; cgroup-v1: cannot make a group in /sys/fs/cgroup/pids/: Read-only file system (securityContext.privileged gives it); looked at now and then", &[groups]),
            axis("kill", "Soft", "subreaper", "cgroup-v2: read-only", &[groups]),
            axis("files", "Soft", "landlock", "mount-namespace: refused", &[namespaces]),
            axis("devices", "Hard", "landlock", "", &[]),
            axis("network", "None", "shared", "as wanted\u{1b}[31m", &[]),
        ],
        "accounting": [{"figure": "cpu_user_seconds", "source": "rusage"}],
    });
    let found = serde_json::from_value(found).unwrap();
    insta::assert_snapshot!("preflight", preflight::found(&found, Palette::default()));
}
