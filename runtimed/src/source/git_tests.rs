use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// A repository with two commits, a branch, a tag, a hook, a submodule entry and a filter.
struct Origin {
    dir: tempfile::TempDir,
    first: String,
    second: String,
}

fn git(folder: &Path, args: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Origin {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("work");
        std::fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "-q", "-b", "main"]);
        std::fs::write(repo.join("run.sh"), "echo one").unwrap();
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "-q", "-m", "one"]);
        let first = git(&repo, &["rev-parse", "HEAD"]);
        git(&repo, &["tag", "-a", "v1", "-m", "v1"]);
        git(&repo, &["branch", "stable"]);
        std::fs::write(repo.join("run.sh"), "echo two").unwrap();
        std::fs::write(repo.join(".gitattributes"), "* filter=evil\n").unwrap();
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "-q", "-m", "two"]);
        let second = git(&repo, &["rev-parse", "HEAD"]);
        git(dir.path(), &["clone", "-q", "--bare", "work", "repo.git"]);
        Self { dir, first, second }
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir.path().join("repo.git").display())
    }
}

fn settings() -> GitSettings {
    GitSettings {
        program: "git".into(),
        ca_file: None,
        credentials_file: None,
        ssh_key: None,
        known_hosts: None,
        clone_timeout: Duration::from_secs(30),
        max_tree: 1 << 20,
        parallel: 2,
        allow_file: true,
    }
}

async fn check_out(url: &str, revision: Option<&str>) -> (tempfile::TempDir, Result<String, GitError>) {
    let dir = tempfile::tempdir().unwrap();
    let result = Git::new(settings()).check_out(url, revision, &dir.path().join("repo")).await;
    (dir, result)
}

fn script(dir: &tempfile::TempDir) -> String {
    std::fs::read_to_string(dir.path().join("repo/run.sh")).unwrap()
}

#[tokio::test]
async fn branch_tag_commit_and_short_commit_resolve_to_what_they_mean() {
    let origin = Origin::new();
    for (revision, commit, text) in [
        (None, &origin.second, "echo two"),
        (Some("main"), &origin.second, "echo two"),
        (Some("stable"), &origin.first, "echo one"),
        (Some("v1"), &origin.first, "echo one"),
        (Some(&*origin.first), &origin.first, "echo one"),
        (Some(&origin.first[..8]), &origin.first, "echo one"),
    ] {
        let (dir, result) = check_out(&origin.url(), revision).await;
        assert_eq!(result.unwrap(), *commit, "{revision:?}");
        assert_eq!(script(&dir), text);
    }
    let (dir, _) = check_out(&origin.url(), Some("main")).await;
    assert_eq!(git(&dir.path().join("repo"), &["rev-list", "--count", "HEAD"]), "1", "it is shallow");
}

#[test]
fn what_ssh_says_is_kept() {
    let told = |stderr: &str| {
        let finished = Finished { success: false, stdout: String::new(), stderr: stderr.into() };
        last_words(FETCH, &finished).to_string()
    };
    let advice = "fatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.\n";
    assert_eq!(
        told(&format!("Host key verification failed.\r\n{advice}")),
        "git fetch: Host key verification failed. (fatal: Could not read from remote repository.)"
    );
    assert_eq!(
        told(&format!("Warning: a\ngit@h: Permission denied (publickey).\n{advice}")),
        "git fetch: git@h: Permission denied (publickey). (fatal: Could not read from remote repository.)"
    );
    assert_eq!(told(advice), "git fetch: fatal: Could not read from remote repository.");
    assert_eq!(
        told("remote: x\nfatal: couldn't find remote ref y\n"),
        "git fetch: fatal: couldn't find remote ref y"
    );
}

#[tokio::test]
async fn what_does_not_exist_is_told_in_gits_words() {
    let origin = Origin::new();
    let (_, missing) = check_out("file:///nonexistent/x.git", None).await;
    let text = missing.unwrap_err().to_string();
    assert!(text.starts_with("git fetch: fatal:"), "{text}");
    let (_, branch) = check_out(&origin.url(), Some("nope")).await;
    let text = branch.unwrap_err().to_string();
    assert!(text.contains("nope"), "{text}");
    let (_, commit) = check_out(&origin.url(), Some(&"0".repeat(39).replace('0', "1"))).await;
    assert!(commit.is_err());
    for (url, revision) in [("ext::sh -c id", None), ("file:///x", Some("--upload-pack=touch /tmp/x"))] {
        let (_, refused) = check_out(url, revision).await;
        assert!(matches!(refused, Err(GitError::Refused(_))), "{url}");
    }
}

#[tokio::test]
async fn nothing_of_the_machines_configuration_is_run() {
    // A hook from a template, a filter and a hook folder in the user's configuration: each would leave a file.
    let origin = Origin::new();
    let home = tempfile::tempdir().unwrap();
    let mark = home.path().join("mark");
    let hook = home.path().join("hooks/post-checkout");
    std::fs::create_dir(home.path().join("hooks")).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(
        "[core]\nhooksPath = {0}\n[init]\ntemplateDir = {1}\n[filter \"evil\"]\nsmudge = touch {2}\n",
        hook.parent().unwrap().display(),
        home.path().display(),
        mark.display()
    );
    std::fs::write(home.path().join("config"), config).unwrap();
    // `env` sets what a careless caller would inherit, then becomes git; ours must not read it.
    let wrapper = home.path().join("git");
    let text = format!("#!/bin/sh\nHOME={0} XDG_CONFIG_HOME={0} exec git \"$@\"\n", home.path().display());
    std::fs::write(&wrapper, text).unwrap();
    std::fs::rename(home.path().join("config"), home.path().join(".gitconfig")).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("repo");
    Git::new(GitSettings { program: wrapper, ..settings() })
        .check_out(&origin.url(), None, &folder)
        .await
        .unwrap();
    assert!(!mark.exists());
    assert!(!folder.join(".git/hooks").exists());
}

#[tokio::test]
async fn a_tree_beyond_the_bound_is_not_written() {
    let origin = Origin::new();
    let dir = tempfile::tempdir().unwrap();
    let small = Git::new(GitSettings { max_tree: 10, ..settings() });
    let error = small.check_out(&origin.url(), Some("main"), &dir.path().join("repo")).await.unwrap_err();
    assert!(
        error.to_string().contains("exceeds 10 bytes") || error.to_string().starts_with("git"),
        "{error}"
    );
    assert!(!dir.path().join("repo/run.sh").exists());
    let mut sum = TreeSize::default();
    for record in
        ["100644 blob aaaa     12\ta b\tc", "120000 blob bbbb      3\tx", "160000 commit cccc       -\ts"]
    {
        for byte in record.bytes().chain([0]) {
            sum.add(&[byte]);
        }
    }
    assert_eq!(sum.total, 15);
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_nothing_of_git_is_left() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x.git", listener.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("repo");
    let git = Git::new(GitSettings { clone_timeout: Duration::from_millis(300), ..settings() });
    let error = git.check_out(&url, None, &folder).await.unwrap_err().to_string();
    assert_eq!(error, "git fetch: it did not end within 300ms");
    // Cancelled half-way, it is gone as well: its connections are closed.
    let git = Git::new(settings());
    let task = tokio::spawn(async move { git.check_out(&url, None, &folder.with_extension("2")).await });
    let (first, _) = listener.accept().await.unwrap();
    let (second, _) = listener.accept().await.unwrap();
    task.abort();
    for mut connection in [first, second] {
        let closed = async {
            let mut buffer = [0; 4096];
            loop {
                match tokio::io::AsyncReadExt::read(&mut connection, &mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), closed).await.expect("git is gone");
    }
}

/// Serves repositories over smart HTTP, as real servers do.
async fn smart_http(root: PathBuf) -> String {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, Response};
    let handler = move |request: Request<Body>| {
        let root = root.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, 1 << 20).await.unwrap();
            let header = |name: &str| {
                parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            let mut backend = tokio::process::Command::new("git");
            backend.arg("http-backend").env("GIT_PROJECT_ROOT", &root).env("GIT_HTTP_EXPORT_ALL", "1");
            backend
                .env("PATH_INFO", parts.uri.path())
                .env("QUERY_STRING", parts.uri.query().unwrap_or_default());
            backend.env("REQUEST_METHOD", parts.method.as_str()).env("CONTENT_TYPE", header("content-type"));
            backend
                .env("GIT_PROTOCOL", header("git-protocol"))
                .env("HTTP_CONTENT_ENCODING", header("content-encoding"));
            backend.env("CONTENT_LENGTH", body.len().to_string());
            backend.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = backend.spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut input, &body).await.unwrap();
            drop(input);
            let answer = child.wait_with_output().await.unwrap().stdout;
            let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
            let mut response = Response::builder();
            for line in String::from_utf8_lossy(&answer[..end]).lines() {
                let (name, value) = line.split_once(": ").unwrap();
                response = match name {
                    "Status" => response.status(value.split(' ').next().unwrap().parse::<u16>().unwrap()),
                    _ => response.header(name, value),
                };
            }
            response.body(Body::from(answer[end + 4..].to_vec())).unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
    format!("http://{address}")
}

#[tokio::test]
async fn over_http_a_commit_is_fetched_alone_or_from_everything() {
    let origin = Origin::new();
    let base = smart_http(origin.dir.path().to_owned()).await;
    let url = format!("{base}/repo.git");
    for revision in [&*origin.first, &origin.first[..7], "v1"] {
        let (dir, result) = check_out(&url, Some(revision)).await;
        assert_eq!(result.unwrap(), origin.first, "{revision}");
        assert_eq!(script(&dir), "echo one");
    }
    let (_, missing) = check_out(&format!("{base}/nope.git"), None).await;
    let text = missing.unwrap_err().to_string();
    assert!(text.contains("not found") && text.contains("nope.git"), "{text}");
}
