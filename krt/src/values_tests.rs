use super::*;

#[test]
fn durations_name_what_is_wrong() {
    assert_eq!(duration("1m30s").unwrap(), "1m30s");
    assert!(duration("abc").unwrap_err().contains("\"abc\" is not a duration"));
    assert!(duration("0s").unwrap_err().contains("more than 0s"));
    assert!(duration("-1s").is_err());
    assert_eq!(request_timeout("0").unwrap(), std::time::Duration::ZERO);
    assert_eq!(request_timeout("5").unwrap(), std::time::Duration::from_secs(5));
    assert_eq!(request_timeout("1500ms").unwrap(), std::time::Duration::from_millis(1500));
    assert!(request_timeout("soon").is_err());
}

#[test]
fn names_follow_the_api() {
    assert_eq!(run_name("run.kruntimes.io/a-1").unwrap(), "a-1");
    assert_eq!(run_name("runs/a.b").unwrap(), "a.b");
    for bad in ["", "A", "-a", "a-", "a_b", "a..b", ".a", "a/b"] {
        assert!(object_name(bad).is_err(), "{bad}");
    }
    assert!(object_name(&"a".repeat(253)).is_ok());
    assert!(object_name(&"a".repeat(254)).unwrap_err().contains("at most 253"));
    assert_eq!(runtime_name("GPU_pool.1").unwrap(), "GPU_pool.1");
    assert!(runtime_name(&"r".repeat(64)).unwrap_err().contains("at most 63"));
    assert_eq!(new_runtime_name(&"r".repeat(53)).unwrap().len(), 53);
    assert!(new_runtime_name(&"r".repeat(54)).unwrap_err().contains("at most 53"));
    for bad in ["", "-r", "a b", "r/"] {
        assert!(runtime_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn labels_and_options_have_a_key() {
    assert_eq!(label("team=ml").unwrap(), ("team".into(), "ml".into()));
    assert_eq!(label("example.com/team=").unwrap(), ("example.com/team".into(), String::new()));
    for bad in ["team", "=x", "te am=x", "Example/x=1", "a=b c", "a/=x"] {
        assert!(label(bad).is_err(), "{bad}");
    }
    assert_eq!(option("partition=a=b").unwrap(), ("partition".into(), "a=b".into()));
    assert!(option("partition").is_err());
}

#[test]
fn variables_keep_every_byte_of_the_value() {
    assert_eq!(env("A=b=c ").unwrap(), EnvArg { name: "A".into(), value: Some("b=c ".into()) });
    assert_eq!(env("A").unwrap().value, None);
    assert!(env("=x").is_err());
    assert!(env("A B=x").is_err());
    assert!(env(&format!("A={}", "ü".repeat(65_536))).is_ok(), "the API counts characters");
    assert!(env(&format!("A={}", "x".repeat(65_537))).unwrap_err().contains("a value 65536"));
    assert!(env(&format!("{}=1", "A".repeat(257))).unwrap_err().contains("at most 256 characters"));
}

#[test]
fn amounts_are_quantities_of_named_things() {
    let parsed = requests("cpu=500m,nvidia.com/gpu=1,memory=1.5Gi").unwrap();
    let names: Vec<&str> = parsed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cpu", "nvidia.com/gpu", "memory"]);
    for (bad, why) in [
        ("cpu=-1", "negative"),
        ("nvidia.com/gpu=0.5", "whole numbers"),
        ("runs=1500m", "whole numbers"),
        ("runs=1e-1", "whole numbers"),
        ("cpu", "NAME=AMOUNT"),
        ("cpu=two", "no quantity"),
        ("cpu=", "no quantity"),
        ("cpu=1.2.3", "no quantity"),
        ("cpu=1Zi", "no quantity"),
        ("=1", "empty"),
    ] {
        let error = requests(bad).unwrap_err();
        assert!(error.contains(why), "{bad}: {error}");
    }
    for fine in ["cpu=1e3", "runs=2.0", "runs=0", "runs=1E2", "memory=.5Gi", "cpu=+1", "a=-0"] {
        assert!(requests(fine).is_ok(), "{fine}");
    }
    assert!(limits("memory=1Gi,pids=64").is_ok());
    assert!(limits("nvidia.com/gpu=1").unwrap_err().contains("cannot be limited"));
}

/// Whatever passes here passes the CRD's own pattern.
#[test]
fn accepted_quantities_match_the_schema() {
    let pattern = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";
    assert!(kruntimes_api::crds::all().is_ok_and(|all| {
        serde_json::to_string(&all).unwrap().contains(&serde_json::to_string(pattern).unwrap())
    }));
    for (text, accepted) in [
        ("1", true),
        ("1.", true),
        (".5", true),
        (".", false),
        ("1e", false),
        ("e3", false),
        ("1Ki", true),
        ("1K", false),
    ] {
        assert_eq!(quantity(text).is_ok(), accepted, "{text}");
    }
}

#[test]
fn git_references_are_split_at_the_right_sign() {
    let git = |text: &str| {
        let Git { url, reference } = super::git(text).unwrap();
        (url, reference.unwrap_or_default())
    };
    let pair = |url: &str, reference: &str| (url.to_owned(), reference.to_owned());
    assert_eq!(git("https://host/a.git@main"), pair("https://host/a.git", "main"));
    assert_eq!(git("https://me@host/a.git@feature/x"), pair("https://me@host/a.git", "feature/x"));
    assert_eq!(git("https://me@host/a.git"), pair("https://me@host/a.git", ""));
    assert_eq!(git("git@host:a/b.git@v1"), pair("git@host:a/b.git", "v1"));
    assert_eq!(git("git@host:a/b.git"), pair("git@host:a/b.git", ""));
    assert_eq!(git("ssh://git@host:22/a.git@v1"), pair("ssh://git@host:22/a.git", "v1"));
    assert_eq!(git("http://127.0.0.1:8000/a"), pair("http://127.0.0.1:8000/a", ""));
    for bad in [
        "http://host/a",
        "file:///etc",
        "/etc",
        "ext::sh",
        "https://host/a@",
        "https:///a",
        "https://host/a@-x",
        "",
    ] {
        assert!(super::git(bad).is_err(), "{bad}");
    }
}

#[test]
fn phases_are_found_in_any_case() {
    assert_eq!(phase("running").unwrap(), Phase::Running);
    assert!(phase("done").unwrap_err().contains("Succeeded"));
}
