//! What the job did, as a table.

use std::time::Duration;

use super::job::Run;

const COLUMNS: [&str; 12] = [
    "RUN",
    "POD",
    "FILES",
    "LINES",
    "WORDS",
    "BYTES",
    "QUEUED ms",
    "START ms",
    "RAN ms",
    "CPU ms",
    "PEAK MiB",
    "SHA256",
];

pub fn print(runs: &[Run], took: Duration) {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(runs.iter().map(row));
    rows.push(total(runs));
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    println!();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            // Names to the left, numbers to the right.
            0 | 1 | 11 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!("\nQUEUED: until a Pod was chosen. START: until the script ran there. RAN: until it ended.");
    if let Some(figure) =
        runs.iter().find_map(|run| run.status.usage.as_ref()?.last.iter().find(|f| f.name.starts_with("cpu")))
    {
        println!("CPU and memory are what the Runtime Server measured for each Run ({}).", figure.source);
    }
    println!("From the first submission to the last result: {:.0} ms.", took.as_secs_f64() * 1e3);
}

fn row(run: &Run) -> [String; 12] {
    let status = &run.status;
    let output = |name: &str| status.outputs.get(name).cloned().unwrap_or_else(|| "-".to_owned());
    let between = |from: &Option<String>, to: &Option<String>| {
        let milliseconds = from.as_deref().and_then(seconds).zip(to.as_deref().and_then(seconds));
        milliseconds.map_or("-".to_owned(), |(from, to)| format!("{:.1}", (to - from).rem_euclid(DAY) * 1e3))
    };
    let usage = |names: &[&str], unit: f64| {
        run.usage(names).map_or("-".to_owned(), |value| format!("{:.1}", value / unit))
    };
    [
        run.metadata.name.clone(),
        status.assigned_pod.clone().unwrap_or_else(|| "-".to_owned()),
        output("files"),
        output("lines"),
        output("words"),
        output("bytes"),
        between(&status.queued_time, &status.scheduled_time),
        between(&status.scheduled_time, &status.start_time),
        between(&status.start_time, &status.completion_time),
        usage(&["cpu_user_seconds", "cpu_system_seconds"], 1e-3),
        usage(&["memory_peak_bytes"], 1024.0 * 1024.0),
        output("sha256").chars().take(12).collect(),
    ]
}

fn total(runs: &[Run]) -> [String; 12] {
    let sum = |name: &str| runs.iter().filter_map(|run| run.output(name).ok()).sum::<usize>().to_string();
    let mut row = COLUMNS.map(|_| String::new());
    row[0] = "all".to_owned();
    for (column, name) in [(2, "files"), (3, "lines"), (4, "words"), (5, "bytes")] {
        row[column] = sum(name);
    }
    row
}

const DAY: f64 = 86_400.0;

/// Seconds of the day of `2026-01-31T12:34:56.123456Z`: enough for differences of less than a day.
fn seconds(time: &str) -> Option<f64> {
    let (_, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let mut steps = clock.split(':').map(|step| step.parse::<f64>().ok());
    let (hours, minutes, seconds) = (steps.next()??, steps.next()??, steps.next()??);
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_times_between_the_steps_over_midnight_too() {
        let run: Run = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "r"},
            "status": {
                "assignedPod": "p",
                "queuedTime": "2026-01-31T23:59:59.900000Z",
                "scheduledTime": "2026-01-31T23:59:59.902500Z",
                "startTime": "2026-02-01T00:00:00.000000Z",
                "outputs": {"lines": "7", "sha256": "0123456789abcdef"},
                "usage": {"last": [
                    {"name": "cpu_user_seconds", "value": 0.25, "unit": "s", "source": "rusage", "scope": "attempt"},
                    {"name": "cpu_system_seconds", "value": 0.5, "unit": "s", "source": "rusage", "scope": "attempt"},
                ]},
            },
        }))
        .unwrap();
        let expected = ["r", "p", "-", "7", "-", "-", "2.5", "97.5", "-", "750.0", "-", "0123456789ab"];
        assert_eq!(row(&run), expected);
    }

    #[test]
    fn times_of_another_shape_are_not_guessed() {
        assert_eq!(seconds("2026-01-31T00:01:02.5Z"), Some(62.5));
        assert_eq!(seconds("yesterday"), None);
    }
}
