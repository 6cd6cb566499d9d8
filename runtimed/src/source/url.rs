//! Which repositories may be cloned.

use std::net::IpAddr;

/// Why a repository or revision is refused before git sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not one of the allowed forms.
    #[error("source.repoURL: {0:?} is not of the form https://, ssh:// or git@host:path")]
    Form(String),
    /// Plain HTTP beyond this machine.
    #[error("source.repoURL: {0:?} uses http, which is allowed on loopback only")]
    Insecure(String),
    /// A revision that git could take for an option or a refspec.
    #[error("source.commitSHA: {0:?} is not a branch, tag or commit")]
    Revision(String),
}

/// Checks a repository address.
///
/// # Errors
/// When it is not `https://`, `ssh://`, `USER@HOST:PATH`, or `http://` on loopback.
pub(super) fn check_url(url: &str) -> Result<(), UrlError> {
    let refused = || UrlError::Form(url.to_owned());
    if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(refused());
    }
    match url.split_once("://") {
        Some(("https" | "ssh", rest)) => host(rest).map(drop).ok_or_else(refused),
        Some(("http", rest)) => {
            let host = host(rest).ok_or_else(refused)?;
            if is_loopback(host) { Ok(()) } else { Err(UrlError::Insecure(url.to_owned())) }
        }
        Some(_) => Err(refused()),
        None => scp_form(url).ok_or_else(refused),
    }
}

/// The host of `[user@]host[:port]/path`.
fn host(rest: &str) -> Option<&str> {
    let (authority, path) = rest.split_once('/')?;
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host_port.strip_prefix('[') {
        Some(v6) => v6.split_once(']')?.0,
        None => host_port.split_once(':').map_or(host_port, |(host, _)| host),
    };
    (!host.is_empty() && !host.starts_with('-') && !authority.starts_with('-') && !path.is_empty())
        .then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `git@github.com:group/project.git`
fn scp_form(url: &str) -> Option<()> {
    let (user_host, path) = url.split_once(':')?;
    let (user, host) = user_host.split_once('@')?;
    let word = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        !text.is_empty() && !text.starts_with('-') && text.chars().all(allowed)
    };
    // `::` is how git names a transport helper, which is a program.
    (word(user) && word(host) && !path.is_empty() && !path.starts_with([':', '-'])).then_some(())
}

/// Checks a branch, tag or commit.
///
/// # Errors
/// When git could take it for something else.
pub(super) fn check_revision(revision: &str) -> Result<(), UrlError> {
    let forbidden = |c: char| {
        c.is_control() || c.is_whitespace() || matches!(c, ':' | '*' | '?' | '[' | '\\' | '^' | '~')
    };
    if revision.is_empty()
        || revision.starts_with(['-', '+'])
        || revision.contains("..")
        || revision.contains(forbidden)
    {
        return Err(UrlError::Revision(revision.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_addresses_pass() {
        for good in [
            "https://example.org/a/b.git",
            "https://user@example.org:8443/a",
            "ssh://git@example.org/a",
            "git@example.org:group/project.git",
            "http://127.0.0.1:8080/a",
            "http://localhost/a",
            "http://[::1]:80/a",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "file:///etc",
            "/etc",
            "../x",
            "ext::sh -c id",
            "http://example.org/a",
            "http://127.0.0.1.example.org/a",
            "ssh://-oProxyCommand=id/a",
            "-u@host:x",
            "git@-host:x",
            "git@host::x",
            "git://host/a",
            "https://",
            "https://host",
            "https://host/",
            "ftp://h/a",
            "git@host:-x",
            "https://a b/c",
            "http://user@127.0.0.1@evil.example.org/a",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn revisions_are_names() {
        for good in ["main", "v1.2.3", "feature/x", "0123abcd", "refs/tags/v1"] {
            assert_eq!(check_revision(good), Ok(()), "{good}");
        }
        for bad in ["", "--upload-pack=id", "+a", "a:b", "a..b", "HEAD~1", "a b", "*"] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
    }
}
