//! Amounts: Kubernetes quantities and measured figures.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{age, printable};

/// `cpu=2, memory=1Gi`, or `-`.
pub fn list(amounts: &BTreeMap<String, Quantity>) -> String {
    if amounts.is_empty() {
        return "-".into();
    }
    let each: Vec<String> = amounts.iter().map(|(name, amount)| format!("{name}={}", amount.0)).collect();
    printable(&each.join(", "), false)
}

/// A figure in words: `12.3 MiB`, `1.23s`, `42`, `3.1 J`.
pub fn figure(value: f64, unit: &str) -> String {
    match unit {
        "s" => SignedDuration::try_from_secs_f64(value).map_or_else(|_| format!("{value} s"), age::length),
        "bytes" => bytes(value),
        // An amount times seconds.
        "bytes*s" => format!("{}·s", bytes(value)),
        "1*s" => format!("{}·s", scaled(value)),
        "1" | "" => number(value),
        unit => format!("{} {}", number(value), printable(unit, false)),
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// `8.7M`; what is small as it is.
fn scaled(value: f64) -> String {
    const UNITS: [&str; 5] = ["k", "M", "G", "T", "P"];
    let mut scaled = value;
    let mut unit = None;
    while scaled.abs() >= 1000.0 && value.abs() >= 10_000.0 && unit.is_none_or(|unit| unit + 1 < UNITS.len())
    {
        scaled /= 1000.0;
        unit = Some(unit.map_or(0, |unit| unit + 1));
    }
    unit.map_or_else(|| number(value), |unit| format!("{scaled:.1}{}", UNITS[unit]))
}

fn bytes(value: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{} B", number(scaled)) } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_carry_their_unit() {
        for (value, unit, text) in [
            (0.0, "bytes", "0 B"),
            (1023.0, "bytes", "1023 B"),
            (1536.0, "bytes", "1.5 KiB"),
            (5e18, "bytes", "4440.9 PiB"),
            (1.5, "s", "1.50s"),
            (0.0123, "s", "12ms"),
            (f64::NAN, "s", "NaN s"),
            (3.0, "1", "3"),
            (3.25, "J", "3.250 J"),
            (3072.0, "bytes*s", "3.0 KiB·s"),
            (2.5, "1*s", "2.500·s"),
            (9999.0, "1*s", "9999·s"),
            (10_000.0, "1*s", "10.0k·s"),
            (8_676_250.0, "1*s", "8.7M·s"),
            (5e19, "1*s", "50000.0P·s"),
        ] {
            assert_eq!(figure(value, unit), text);
        }
    }
}
