//! One exact quantity.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Nano units in one unit.
const NANO: i128 = 1_000_000_000;
/// Largest magnitude of a Kubernetes quantity, in nano units.
const MAX: i128 = i64::MAX as i128 * NANO;

/// An exact quantity in nano units, bounded like a Kubernetes quantity at 2^63-1 units either way.
///
/// Grammar: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
/// Finer than a nano unit is rounded away from zero, larger than the bound is capped, as there.
/// As data it is its canonical text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Amount(i128);

/// Why a text is not a quantity. Permanent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity (examples: 2, 500m, 1.5, 2Gi, 1e3)")]
pub struct ParseAmountError {
    /// What was given, cut to 80 characters.
    pub text: String,
}

/// Factor of a suffix: `value = number * 2^binary * 10^decimal`.
struct Scale {
    binary: u32,
    decimal: i32,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One unit.
    pub const ONE: Self = Self(NANO);

    /// `units` whole units.
    pub const fn whole(units: i64) -> Self {
        Self(units as i128 * NANO)
    }

    /// `milli` thousandths.
    pub const fn milli(milli: i64) -> Self {
        Self(milli as i128 * 1_000_000)
    }

    /// The amount in nano units.
    pub const fn nanos(self) -> i128 {
        self.0
    }

    /// The whole units, if it has no fraction.
    pub const fn as_whole(self) -> Option<i64> {
        if self.0 % NANO == 0 { Some((self.0 / NANO) as i64) } else { None }
    }

    /// Whole units, rounded up.
    pub const fn ceil(self) -> i64 {
        let down = self.0.div_euclid(NANO);
        (if self.0.rem_euclid(NANO) == 0 { down } else { down + 1 }) as i64
    }

    /// More than zero.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Less than zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Neither.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `self` of `whole` in millionths: 0 for nothing, 1,000,000 for all of it (more when over it).
    /// All of an empty `whole` is taken.
    pub const fn millionths_of(self, whole: Self) -> u32 {
        if whole.0 <= 0 {
            return 1_000_000;
        }
        if self.0 <= 0 {
            return 0;
        }
        // |self| <= 2^93, so the product stays far below 2^127.
        let share = self.0 * 1_000_000 / whole.0;
        if share > u32::MAX as i128 { u32::MAX } else { share as u32 }
    }

    /// The canonical text in binary suffixes ("2Gi", "1536Mi"), as sizes are written.
    pub fn to_binary_string(self) -> String {
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let Some(mut units) = self.as_whole() else { return self.to_string() };
        let mut steps = 0;
        while units != 0 && units % 1024 == 0 && steps + 1 < SUFFIXES.len() {
            units /= 1024;
            steps += 1;
        }
        format!("{units}{}", SUFFIXES[steps])
    }

    /// A decimal number without a suffix ("5000", "0.5"), as programs read it.
    pub fn to_plain_string(self) -> String {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (nanos, one) = (self.0.unsigned_abs(), NANO.unsigned_abs());
        let text = format!("{sign}{}.{:09}", nanos / one, nanos % one);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    const fn bounded(nanos: i128) -> Self {
        if nanos > MAX {
            Self(MAX)
        } else if nanos < -MAX {
            Self(-MAX)
        } else {
            Self(nanos)
        }
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::bounded(self.0 + other.0)
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::bounded(self.0 - other.0)
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl FromStr for Amount {
    type Err = ParseAmountError;

    fn from_str(text: &str) -> Result<Self, ParseAmountError> {
        parse(text).ok_or_else(|| ParseAmountError { text: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for Amount {
    type Error = ParseAmountError;

    fn try_from(text: String) -> Result<Self, ParseAmountError> {
        text.parse()
    }
}

impl From<Amount> for String {
    fn from(amount: Amount) -> Self {
        amount.to_string()
    }
}

/// `[+-] digits [. digits] suffix`.
fn parse(text: &str) -> Option<Amount> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let nanos = scaled(whole, fraction, &scale(suffix)?);
    Some(Amount::bounded(if negative { -nanos } else { nanos }))
}

fn scale(suffix: &str) -> Option<Scale> {
    let decimal = |decimal| Some(Scale { binary: 0, decimal });
    let binary = |binary| Some(Scale { binary, decimal: 0 });
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let sign_free = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            if sign_free.is_empty() || !sign_free.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            // Beyond this every number is capped or rounds to one nano unit anyway.
            let magnitude = sign_free.parse::<i32>().unwrap_or(i32::MAX).min(10_000);
            decimal(if digits.starts_with('-') { -magnitude } else { magnitude })
        }
    }
}

/// Nano units of `whole.fraction * scale`, rounded up, at most just above [`MAX`].
fn scaled(whole: &str, fraction: &str, scale: &Scale) -> i128 {
    let capped = MAX + 1;
    // value = digits * 10^exponent * 2^binary nano units.
    let digits: Vec<u8> =
        whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').skip_while(|digit| *digit == 0).collect();
    if digits.is_empty() {
        return 0;
    }
    let exponent = 9 + i64::from(scale.decimal) - fraction.len() as i64;
    // Digits that stay left of the decimal point once the exponent is applied, with 19 to spare for 2^60, and no more than an
    // `i128` holds: 28 are left of the point in what is not capped.
    let kept = (digits.len() as i64 + exponent + 19).clamp(0, digits.len().min(37) as i64) as usize;
    if kept as i64 + exponent.max(-19) > 48 {
        return capped;
    }
    let mut rest = digits[kept..].iter().any(|digit| *digit != 0);
    let mut value: i128 = 0;
    for digit in &digits[..kept] {
        match value.checked_mul(10) {
            Some(next) => value = next + i128::from(*digit),
            None => return capped,
        }
    }
    let exponent = exponent + (digits.len() - kept) as i64;
    let factor = 1i128 << scale.binary;
    if exponent >= 0 {
        let power = 10i128.checked_pow(u32::try_from(exponent).unwrap_or(u32::MAX));
        let product = power.and_then(|p| value.checked_mul(p)).and_then(|v| v.checked_mul(factor));
        return product.map_or(if value == 0 { i128::from(rest) } else { capped }, |v| v.min(capped));
    }
    let divisor = 10i128.checked_pow(u32::try_from(-exponent).unwrap_or(u32::MAX)).unwrap_or(i128::MAX);
    let (high, low) = (value / divisor, value % divisor);
    let Some(high) = high.checked_mul(factor) else { return capped };
    let Some(low) = low.checked_mul(factor) else { return capped };
    rest |= low % divisor != 0;
    (high + low / divisor + i128::from(rest)).min(capped)
}

/// The canonical decimal text: the largest suffix that needs no fraction ("2", "500m", "2k").
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        if self.0 == 0 {
            return f.write_str("0");
        }
        let (mut value, mut step) = (self.0, 0);
        while value % 1000 == 0 && step + 1 < SUFFIXES.len() {
            value /= 1000;
            step += 1;
        }
        write!(f, "{value}{}", SUFFIXES[step])
    }
}

#[cfg(test)]
#[path = "amount_tests.rs"]
mod tests;
