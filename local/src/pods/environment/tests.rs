use std::path::PathBuf;

use serde_json::json;

use super::*;

fn mounts() -> Vec<Mount> {
    vec![
        Mount { path: "/workspace/deep".into(), folder: PathBuf::from("/host/deep"), token: false },
        Mount { path: "/workspace".into(), folder: PathBuf::from("/host/w"), token: false },
    ]
}

#[test]
fn paths_below_mounts_become_real_ones() {
    for (value, wanted) in [
        ("/workspace", "/host/w"),
        ("/workspace/x", "/host/w/x"),
        ("/workspace/deep/x", "/host/deep/x"),
        ("--work-dir=/workspace", "--work-dir=/host/w"),
        ("/workspaces", "/workspaces"),
        ("see /workspace", "see /workspace"),
        ("A=/workspace", "A=/workspace"),
    ] {
        assert_eq!(real_path(value, &mounts()), wanted);
    }
}

#[test]
fn references_expand_once() {
    let known = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
    for (text, wanted) in [
        ("x$(A)y", "x1y"),
        ("$(B)", "$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$A $(", "$A $("),
        ("é$(A)é", "é1é"),
    ] {
        assert_eq!(expand(text, &known), wanted, "{text}");
    }
}

#[test]
fn commands_see_variables_and_mounts() {
    let container = json!({"command": ["/bin/sh", "-c"], "args": ["$(X)", "/workspace/y"]});
    let env = [("X".to_owned(), "value".to_owned())];
    let (program, args) = command(&container, &env, &mounts());
    assert_eq!(program.as_deref(), Some("/bin/sh"));
    assert_eq!(args, ["-c", "value", "/host/w/y"]);
}

#[test]
fn fields_of_the_pod() {
    let pod = json!({"metadata": {"name": "p", "labels": {"a/b": "c"}}, "spec": {"serviceAccountName": "s"}});
    assert_eq!(field(&pod, "metadata.name").as_deref(), Some("p"));
    assert_eq!(field(&pod, "metadata.labels['a/b']").as_deref(), Some("c"));
    assert_eq!(field(&pod, "metadata.annotations['none']").as_deref(), Some(""));
    assert_eq!(field(&pod, "spec.serviceAccountName").as_deref(), Some("s"));
    assert_eq!(field(&pod, "spec.containers"), None);
}
