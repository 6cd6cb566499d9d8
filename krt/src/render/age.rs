//! Times as ages and lengths.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Time from `since` to `now` in the words of kubectl: `5s`, `3m20s`, `2h5m`, `3d`.
/// Source: `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
pub fn since(since: Option<Timestamp>, now: Timestamp) -> String {
    match since {
        Some(since) => human(now.duration_since(since)),
        None => "<unknown>".into(),
    }
}

fn human(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// A length with three significant digits or so: `0.4ms`, `12ms`, `1.23s`, `1m05s`, `2h03m`.
pub fn length(length: SignedDuration) -> String {
    if length.is_negative() {
        return format!("-{}", self::length(-length));
    }
    let exact = length.as_secs_f64();
    // Nothing is shown as 1000ms or 60.00s: what rounds up to the next unit is shown in it.
    let seconds = if exact >= 59.995 { exact.round() as i64 } else { (exact + 0.0005) as i64 };
    match seconds {
        0 if exact == 0.0 => "0s".into(),
        0 if exact < 0.00995 => format!("{:.1}ms", exact * 1000.0),
        0 => format!("{:.0}ms", exact * 1000.0),
        1..60 => format!("{exact:.2}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Time of day in the zone of this machine.
pub fn clock(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// Date and time with milliseconds, in UTC as the objects carry it.
pub fn full(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_in_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (30_000, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
            (400_000_000, "12y"),
        ] {
            assert_eq!(human(SignedDuration::from_secs(seconds)), text, "{seconds}");
        }
        assert_eq!(since(None, Timestamp::UNIX_EPOCH), "<unknown>");
    }

    #[test]
    fn lengths_keep_what_matters() {
        for (microseconds, text) in [
            (0, "0s"),
            (400, "0.4ms"),
            (12_300, "12ms"),
            (1_234_000, "1.23s"),
            (9_960, "10ms"),
            (999_400, "999ms"),
            (999_700, "1.00s"),
            (59_990_000, "59.99s"),
            (59_999_000, "1m00s"),
            (65_000_000, "1m05s"),
            (3_599_900_000, "1h00m"),
            (7_380_000_000, "2h03m"),
            (-12_300, "-12ms"),
        ] {
            assert_eq!(length(SignedDuration::from_micros(microseconds)), text);
        }
    }
}
