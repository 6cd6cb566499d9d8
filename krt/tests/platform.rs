//! `krt local` from the shell's side.
#![cfg(feature = "local")]

mod support;

use support::{finish, interrupt, program, said};

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_in_the_background_from_its_start_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let krt = async |args: &[&str]| finish(program(folder.path(), args).spawn().unwrap()).await;
    let status = krt(&["local", "status"]).await;
    assert_eq!(status.code, 1);
    assert!(
        status.out.contains("is not running") && status.err.contains("krt local up"),
        "{}{}",
        status.out,
        status.err
    );
    assert!(krt(&["local", "kubeconfig"]).await.err.contains("krt local up"));

    let up = krt(&["local", "up", "--detach", "--api-only"]).await;
    assert_eq!(up.code, 0, "{}", up.err);
    let data = folder.path().join(".local/share/kruntimes/local");
    assert_eq!(up.out, format!("export KUBECONFIG={}\n", data.join("kubeconfig").display()));
    assert!(up.err.contains("krt run -c 'echo hello'"), "{}", up.err);

    let again = krt(&["local", "up", "--detach", "--api-only"]).await;
    assert_eq!((again.code, again.out), (0, up.out));
    assert!(again.err.contains("is running already"), "{}", again.err);
    let twice = krt(&["local", "up", "--api-only"]).await;
    assert_eq!(twice.code, 125);
    assert!(twice.err.contains("running already") && twice.err.contains("krt local down"), "{}", twice.err);

    let status = krt(&["local", "status"]).await;
    assert!(status.code == 0 && status.out.contains("answers (Kubernetes API"), "{}", status.out);
    assert!(krt(&["local", "kubeconfig", "--print"]).await.out.contains("kind: Config"));
    // No flag and no variable: krt finds it by itself.
    let run = krt(&["run", "-d", "-c", "x", "--name", "a"]).await;
    assert_eq!((run.code, run.out.as_str()), (0, "a\n"), "{}", run.err);

    let down = krt(&["local", "down"]).await;
    assert!(down.code == 0 && down.out.contains("has stopped"), "{}{}", down.out, down.err);
    assert_eq!(krt(&["local", "status"]).await.code, 1);
    assert_eq!(krt(&["local", "down"]).await.code, 0, "stopping what is stopped is fine");
    let dead = krt(&["list", "--kubeconfig", data.join("kubeconfig").to_str().unwrap()]).await;
    assert_eq!(dead.code, 125);
    assert!(dead.err.contains("the local platform has stopped"), "{}", dead.err);

    assert_eq!(krt(&["local", "up", "--detach", "--api-only"]).await.code, 0);
    assert_eq!(krt(&["list", "-o", "name"]).await.out, "run.kruntimes.io/a\n", "objects are kept");
    assert_eq!(krt(&["local", "down", "--purge"]).await.code, 0);
    assert!(!data.join("db.redb").exists() && !data.join("credentials.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_foreground_ctrl_c_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let line = ["local", "up", "--api-only", "--data-dir", data.to_str().unwrap()];
    let mut child = program(folder.path(), &line).spawn().unwrap();
    let words = said(child.stderr.as_mut().unwrap(), "ctrl-c stops it").await;
    assert!(words.contains("krt runtime create bash"), "{words}");
    interrupt(&child);
    let done = finish(child).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(done.out, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let krt = async |args: &[&str]| finish(program(folder.path(), args).spawn().unwrap()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let done = krt(&["local", "up", "--detach", "--api-only", "--listen", &address]).await;
    assert_eq!(done.code, 125);
    assert!(done.err.contains("cannot listen on") && done.err.contains("platform.log"), "{}", done.err);
    let done = krt(&["local", "up", "--detach", "--listen", "0.0.0.0:0"]).await;
    assert!(done.code == 125 && done.err.contains("this machine only"), "{}", done.err);
    let done = krt(&["local", "up", "--detach", "--bin-dir", folder.path().to_str().unwrap()]).await;
    assert!(done.code == 125 && done.err.contains("the program scheduler is not in"), "{}", done.err);
}
