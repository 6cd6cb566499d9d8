//! Go-style durations ("90s", "1m30s", "250ms"), as Kubernetes clients write them.
//! Grammar: <https://pkg.go.dev/time#ParseDuration>, without a sign.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: {why} (examples: 90s, 1m30s, 250ms)")]
pub struct ParseDurationError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The schema pattern of a duration field. What it accepts within [`MAX_LENGTH`] characters, [`parse`]
/// accepts too: the digits are bounded so that no text goes beyond Go's range, which API clients could
/// not decode.
pub const PATTERN: &str = r"^(([0-9]{1,5}([.][0-9]{1,9})?h)|([0-9]{1,7}([.][0-9]{1,9})?m)|([0-9]{1,9}([.][0-9]{1,9})?(s|ms|us|µs|ns)))+$";
/// Longest accepted text, in characters.
pub const MAX_LENGTH: u32 = 32;

const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a duration.
///
/// # Errors
/// On an empty text, a missing or unknown unit, or more than about 292 years (Go's bound).
pub fn parse(text: &str) -> Result<Duration, ParseDurationError> {
    let fail = |why| ParseDurationError { text: text.chars().take(80).collect(), why };
    if text.is_empty() {
        return Err(fail("it is empty"));
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(fail("a unit is missing"))?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let nanos = UNITS.iter().find(|(name, _)| *name == unit).ok_or(fail("unknown unit"))?.1;
        total = total.saturating_add(amount(number, nanos).ok_or(fail("bad number"))?);
        rest = next;
    }
    match u64::try_from(total) {
        Ok(nanos) if nanos <= i64::MAX as u64 => Ok(Duration::from_nanos(nanos)),
        _ => Err(fail("it is too long")),
    }
}

fn amount(number: &str, unit_nanos: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || whole.len() > 20 {
        return None;
    }
    let kept = &fraction[..fraction.len().min(18)];
    let scale = 10u128.pow(kept.len() as u32);
    let whole: u128 = whole.parse().ok()?;
    Some(whole * unit_nanos + kept.parse::<u128>().ok()? * unit_nanos / scale)
}

/// Formats a duration as Go does, in the largest fitting units ("1m30s", "1.5s", "250ms").
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    if nanos < 1_000_000_000 {
        let (unit, size) = match nanos {
            n if n < 1_000 => ("ns", 1),
            n if n < 1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanos, size));
    }
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, m) => format!("{m}m{rest}s"),
        (h, m) => format!("{h}h{m}m{rest}s"),
    }
}

fn decimal(nanos: u128, unit: u128) -> String {
    let digits = unit.to_string().len() - 1;
    let (whole, fraction) = (nanos / unit, nanos % unit);
    let text = format!("{whole}.{fraction:0digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_texts_round_trip() {
        for (text, nanos, canonical) in [
            ("90s", 90_000_000_000, "1m30s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("250ms", 250_000_000, "250ms"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("0s", 0, "0s"),
            ("2us", 2_000, "2µs"),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed.as_nanos(), nanos, "{text}");
            assert_eq!(format(parsed), canonical);
            assert_eq!(parse(&format(parsed)).unwrap(), parsed);
        }
    }

    #[test]
    fn malformed_texts_are_refused() {
        let pattern = regex::Regex::new(PATTERN).unwrap();
        for text in ["", "abc", "10", "-1s", "1.s", "1d", "s", "1..2s", " 1s"] {
            assert!(parse(text).is_err(), "{text}");
            assert!(!pattern.is_match(text), "{text}");
        }
        assert!(parse("9999999999h").is_err());
        for longest in ["99999h".repeat(5), "9999999m".repeat(4), "999999999s".repeat(3)] {
            assert!(longest.len() <= MAX_LENGTH as usize && pattern.is_match(&longest));
            assert!(parse(&longest).is_ok(), "{longest}");
        }
    }
}
