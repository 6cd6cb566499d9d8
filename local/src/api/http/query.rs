//! Query parameters.

use super::ApiError;
use crate::api::write::{FieldValidation, WriteOptions};

/// The decoded parameters of a request.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: &str) -> Self {
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        };
        Self(raw.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }

    /// The value of a parameter, empty when absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1" | "True" | "TRUE" | "t" | "T")
    }

    /// A number; absent or empty is None.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ApiError::BadRequest(format!("invalid {name}: {text:?} is no number"))),
            },
        }
    }

    pub fn write_options(&self) -> WriteOptions {
        WriteOptions {
            dry_run: self.get("dryRun") == "All",
            validation: match self.get("fieldValidation") {
                "Strict" => FieldValidation::Strict,
                "Ignore" => FieldValidation::Ignore,
                _ => FieldValidation::Warn,
            },
        }
    }
}

/// Percent decoding, with `+` as a space.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=a+in+%28b%2Cc%29&watch=1&empty&bad=%zz%4");
        assert_eq!(query.get("labelSelector"), "a in (b,c)");
        assert!(query.flag("watch"));
        assert_eq!(query.get("empty"), "");
        assert_eq!(query.get("bad"), "%zz%4");
        assert!(query.number::<u32>("labelSelector").is_err());
        assert_eq!(query.number::<u32>("absent").unwrap(), None);
    }
}
