//! `krt preflight`: the ladder, and what would give more.

use super::run_describe::isolation_table;
use super::table::{Table, pairs};
use super::{or_dash, printable};
use crate::preflight::{Axis, Found};
use crate::term::{Palette, style};

/// Everything, in sections.
pub fn found(found: &Found, palette: Palette) -> String {
    let server = format!("{} {}", found.server.name, found.server.version);
    let identity = vec![
        ("Server", printable(&server, false)),
        ("Kernel", or_dash(Some(&found.kernel))),
        ("User", found.user.to_string()),
    ];
    let mut text = pairs(&identity, palette);
    let mut section = |title: &str, body: &str| {
        if !body.trim().is_empty() {
            text.push_str(&format!("\n{}\n{body}", palette.paint(style::HEAD, &format!("{title}:"))));
        }
    };
    let axes: Vec<_> = found.isolation.iter().map(|axis| axis.held.clone()).collect();
    section("Isolation", &isolation_table(&axes, palette));
    section("What would give more", &remedies(&found.isolation, palette));
    section("Usage", &sources(found, palette));
    text
}

/// One line a setting, with the axes that it is good for.
fn remedies(axes: &[Axis], palette: Palette) -> String {
    let mut by_remedy: Vec<(&str, Vec<&str>)> = Vec::new();
    for axis in axes {
        for remedy in &axis.remedies {
            match by_remedy.iter_mut().find(|(known, _)| known == remedy) {
                Some((_, of)) => of.push(&axis.held.axis),
                None => by_remedy.push((remedy, vec![&axis.held.axis])),
            }
        }
    }
    let mut table = Table::new(&["AXES", "SETTING"]).indented(2);
    for (remedy, of) in by_remedy {
        table.push(vec![printable(&of.join(", "), false).into(), printable(remedy, false).into()]);
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}

/// Where each figure of the bill would come from.
fn sources(found: &Found, palette: Palette) -> String {
    let mut table = Table::new(&["FIGURE", "SOURCE"]).indented(2);
    for known in &found.accounting {
        table.push(vec![printable(&known.figure, false).into(), printable(&known.source, false).into()]);
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}
