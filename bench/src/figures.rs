//! Numbers with names that stay.

use std::collections::BTreeMap;

use anyhow::Result;

/// Every figure of one run. The unit is the end of its name.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    pub fn set(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), (value * 1000.0).round() / 1000.0);
    }

    /// Sets `NAME_p50_ms`, `NAME_p95_ms`, `NAME_p99_ms`.
    pub fn set_percentiles(&mut self, name: &str, [p50, p95, p99]: [f64; 3]) {
        self.set(&format!("{name}_p50_ms"), p50);
        self.set(&format!("{name}_p95_ms"), p95);
        self.set(&format!("{name}_p99_ms"), p99);
    }

    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.0)? + "\n")
    }

    /// In Markdown: a row for each distribution, then a row for each single figure.
    pub fn table(&self) -> String {
        let mut table = "| ms | p50 | p95 | p99 |\n|---|---|---|---|\n".to_owned();
        let value = |name: &str| self.0.get(name).map_or("-".to_owned(), |value| format!("{value:.2}"));
        for name in self.0.keys().filter_map(|name| name.strip_suffix("_p50_ms")) {
            let cells = ["p50", "p95", "p99"].map(|p| value(&format!("{name}_{p}_ms")));
            table += &format!("| `{name}` | {} |\n", cells.join(" | "));
        }
        table += "\n| figure | |\n|---|---|\n";
        for name in self.0.keys().filter(|name| !is_percentile(name)) {
            table += &format!("| `{name}` | {} |\n", value(name));
        }
        table
    }
}

fn is_percentile(name: &str) -> bool {
    ["_p50_ms", "_p95_ms", "_p99_ms"].iter().any(|end| name.ends_with(end))
}

/// p50, p95 and p99 by nearest rank; NaN for nothing.
pub fn percentiles(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    [50, 95, 99].map(|percent| {
        let rank = (values.len() * percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        assert_eq!(percentiles((1..=100).rev().map(f64::from)), [50.0, 95.0, 99.0]);
        assert_eq!(percentiles([7.0]), [7.0; 3]);
        assert!(percentiles([]).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn the_json_is_flat_and_the_table_has_every_figure_once() {
        let mut figures = Figures::default();
        figures.set_percentiles("terminal", [1.0, 2.0, 3.0]);
        figures.set("runs_per_second", 250.1234);
        let json: BTreeMap<String, f64> = serde_json::from_str(&figures.json().unwrap()).unwrap();
        assert_eq!(json["terminal_p50_ms"], 1.0);
        assert_eq!(json["runs_per_second"], 250.123);
        let table = figures.table();
        assert!(table.contains("| `terminal` | 1.00 | 2.00 | 3.00 |"), "{table}");
        assert_eq!(table.matches("runs_per_second").count(), 1, "{table}");
        assert_eq!(table.matches("p50_ms").count(), 0, "{table}");
    }
}
