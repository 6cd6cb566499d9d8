use std::sync::Mutex;

use serde_json::json;

use super::*;

/// Answers in the given order; must be used up.
struct Scripted(Mutex<Vec<Result<(), WriteError>>>);

#[async_trait]
impl RunWriter for Scripted {
    async fn patch_status(&self, _: &str, _: &str, _: &Value) -> Result<(), WriteError> {
        self.0.lock().unwrap().remove(0)
    }
}

async fn stubborn(answers: Vec<Result<(), WriteError>>, tries: u32) -> (Result<(), WriteError>, usize) {
    let writer = Scripted(Mutex::new(answers));
    let result = patch_status_stubbornly(&writer, "team", "a", &json!({}), tries).await;
    let left = writer.0.lock().unwrap().len();
    (result, left)
}

fn busy() -> Result<(), WriteError> {
    Err(WriteError::Transient("busy".into()))
}

#[tokio::test(start_paused = true)]
async fn only_what_may_pass_is_repeated() {
    assert_eq!(stubborn(vec![busy(), busy(), Ok(())], 8).await, (Ok(()), 0));
    assert_eq!(stubborn(vec![busy(), Err(WriteError::Conflict)], 8).await, (Err(WriteError::Conflict), 0));
    assert_eq!(stubborn(vec![Err(WriteError::Gone), Ok(())], 8).await, (Err(WriteError::Gone), 1));
    assert_eq!(stubborn(vec![busy(), busy(), Ok(())], 2).await, (busy(), 1));
}

#[test]
fn answers_of_the_api_have_a_class() {
    let class = |code| {
        let status = kube::core::Status::failure("no", "Reason").with_code(code).boxed();
        WriteError::from(kube::Error::Api(status))
    };
    assert_eq!(class(409), WriteError::Conflict);
    assert_eq!(class(404), WriteError::Gone);
    for code in [429, 500, 503, 504] {
        assert!(matches!(class(code), WriteError::Transient(_)), "{code}");
    }
    for code in [400, 403, 422] {
        assert!(matches!(class(code), WriteError::Refused(_)), "{code}");
    }
}
