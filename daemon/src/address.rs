//! Listen addresses in the forms that the baseline's flags use.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Environment variable that names the IP every program listens on.
pub const BIND_ADDRESS_ENV: &str = "KRUNTIME_BIND_ADDRESS";

/// A listen address that cannot be understood. Permanent: the flag or variable must change.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not `HOST:PORT`, `:PORT`, `[V6]:PORT` or a bare port.
    #[error("listen address {given:?} is not of the form \"IP:PORT\", \":PORT\" or \"0\" (off)")]
    Malformed {
        /// What was given.
        given: String,
    },
    /// The bind IP is not an IP address.
    #[error("{BIND_ADDRESS_ENV} or --bind-address {given:?} is not an IP address")]
    BindIp {
        /// What was given.
        given: String,
    },
}

/// The IP to listen on: `$KRUNTIME_BIND_ADDRESS`, else `0.0.0.0`.
///
/// # Errors
/// When the variable is set to something that is not an IP address.
pub fn bind_ip() -> Result<IpAddr, AddressError> {
    match std::env::var(BIND_ADDRESS_ENV) {
        Ok(value) => parse_bind_ip(&value),
        Err(_) => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    }
}

/// Parses a bind IP; the empty string means `0.0.0.0`.
///
/// # Errors
/// When `value` is not an IP address.
pub fn parse_bind_ip(value: &str) -> Result<IpAddr, AddressError> {
    match value.trim() {
        "" => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        text => text.parse().map_err(|_| AddressError::BindIp { given: value.to_owned() }),
    }
}

/// Parses `IP:PORT`, `[V6]:PORT`, `localhost:PORT`, `:PORT` or `PORT`; an empty host means `ip`.
/// `"0"` and `""` switch the listener off and give `None`, as in controller-runtime;
/// `":0"` is any free port.
///
/// # Errors
/// When `text` has none of these forms.
pub fn parse_address(text: &str, ip: IpAddr) -> Result<Option<SocketAddr>, AddressError> {
    let malformed = || AddressError::Malformed { given: text.to_owned() };
    let text_trimmed = text.trim();
    if matches!(text_trimmed, "" | "0") {
        return Ok(None);
    }
    if let Ok(address) = text_trimmed.parse::<SocketAddr>() {
        return Ok(Some(address));
    }
    let (host, port) = text_trimmed.rsplit_once(':').unwrap_or(("", text_trimmed));
    let port: u16 = port.parse().map_err(|_| malformed())?;
    let ip = match host {
        "" => ip,
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => return Err(malformed()),
    };
    Ok(Some(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<String> {
        let ip = "127.1.2.3".parse().expect("an ip");
        parse_address(text, ip).expect(text).map(|a| a.to_string())
    }

    #[test]
    fn every_form_of_the_baseline_is_understood() {
        assert_eq!(parse(":9090").as_deref(), Some("127.1.2.3:9090"));
        assert_eq!(parse("9090").as_deref(), Some("127.1.2.3:9090"));
        assert_eq!(parse("10.0.0.1:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(parse("localhost:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(parse("[::1]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(parse("0"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse(":0").as_deref(), Some("127.1.2.3:0"));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_given() {
        let ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for text in ["nine", ":70000", "host:80", "1.2.3:80", "::1:80x"] {
            let error = parse_address(text, ip).expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(parse_bind_ip("localhost").is_err());
        assert_eq!(parse_bind_ip("").expect("default"), ip);
    }
}
