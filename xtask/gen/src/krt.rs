//! The command line reference, from the commands themselves.

use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::{cell, header};

/// One section for each command that a person sees.
pub fn page(mut krt: Command) -> String {
    krt.build();
    let mut page = header("krt/src");
    page += "# krt\n\n";
    section(&mut page, &krt, "krt", true);
    page
}

fn section(page: &mut String, command: &Command, name: &str, is_root: bool) {
    if !is_root {
        line(page, format_args!("## `{name}`\n"));
    }
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        line(page, format_args!("{about}\n"));
    }
    let subcommands: Vec<_> =
        command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").collect();
    if subcommands.is_empty() {
        line(page, format_args!("```text\n{name} {}\n```\n", usage(command)));
    } else {
        line(page, format_args!("| command | |\n|---|---|"));
        for sub in &subcommands {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            line(page, format_args!("| `{name} {}` | {} |", sub.get_name(), cell(&about)));
        }
        page.push('\n');
    }
    // Global flags are listed once, at the top.
    let is_listed = |arg: &&Arg| !arg.is_hide_set() && (is_root || !arg.is_global_set()) && !is_stock(arg);
    let arguments: Vec<_> = command.get_arguments().filter(is_listed).collect();
    if !arguments.is_empty() {
        let title = if is_root { "flag of every command" } else { "argument" };
        line(page, format_args!("| {title} | |\n|---|---|"));
        for argument in arguments {
            line(page, format_args!("| {} | {} |", shape(argument), explanation(argument)));
        }
        page.push('\n');
    }
    if let Some(after) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        line(page, format_args!("{after}\n"));
    }
    for sub in subcommands {
        section(page, sub, &format!("{name} {}", sub.get_name()), false);
    }
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{text}");
}

fn is_stock(argument: &Arg) -> bool {
    ["help", "version"].contains(&argument.get_id().as_str())
}

/// `[flags] RUN [-- ARGS]`: positions in their order.
fn usage(command: &Command) -> String {
    let mut words = vec!["[flags]".to_owned()];
    for position in command.get_positionals().filter(|position| !position.is_hide_set()) {
        let name = values(position);
        let dots =
            if position.get_num_args().is_some_and(|count| count.max_values() > 1) { "..." } else { "" };
        let last = if position.is_last_set() { "-- " } else { "" };
        words.push(match position.is_required_set() {
            true => format!("{last}{name}{dots}"),
            false => format!("[{last}{name}{dots}]"),
        });
    }
    words.join(" ")
}

fn values(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    match names.is_empty() {
        true => argument.get_id().as_str().to_uppercase(),
        false => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// `-n`, `--namespace NAME`
fn shape(argument: &Arg) -> String {
    if argument.is_positional() {
        return format!("`{}`", values(argument));
    }
    let takes_value = argument.get_action().takes_values();
    let short = argument.get_short().map(|short| format!("`-{short}`"));
    let long = argument.get_long().map(|long| match takes_value {
        true => format!("`--{long} {}`", cell(&values(argument))),
        false => format!("`--{long}`"),
    });
    short.into_iter().chain(long).collect::<Vec<_>>().join(", ")
}

fn explanation(argument: &Arg) -> String {
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let mut text = cell(&help.map(ToString::to_string).unwrap_or_default());
    // The derive of clap drops the full stop of a single sentence.
    if !text.is_empty() && !text.ends_with('.') {
        text.push('.');
    }
    let choices: Vec<_> = argument
        .get_possible_values()
        .into_iter()
        .filter(|choice| !choice.is_hide_set())
        .map(|choice| format!("`{}`", choice.get_name()))
        .collect();
    if argument.get_action().takes_values() && !choices.is_empty() {
        text += &format!(" One of {}.", choices.join(", "));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        text += &format!(" Default `{}`.", defaults.join(" "));
    }
    // The name only: its value here is nobody's business.
    if let Some(variable) = argument.get_env() {
        text += &format!(" Variable `{}`.", variable.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_flags_and_defaults_are_shown_and_hidden_ones_are_not() {
        let get = Command::new("get")
            .about("Shows one")
            .arg(Arg::new("run").required(true).value_name("RUN").help("Its name"))
            .arg(Arg::new("output").short('o').long("output").default_value("table").help("How"))
            .arg(Arg::new("secret").long("secret").hide(true));
        let krt =
            Command::new("krt").about("Runs").subcommand(get).subcommand(Command::new("ghost").hide(true));
        let page = page(krt);
        assert!(page.contains("| `krt get` | Shows one |"), "{page}");
        assert!(page.contains("krt get [flags] RUN\n"), "{page}");
        assert!(page.contains("| `-o`, `--output OUTPUT` | How. Default `table`. |"), "{page}");
        assert!(!page.contains("ghost") && !page.contains("secret"), "{page}");
    }
}
