//! Requests that the API server counted for our kinds and for Pods, from its own metrics.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kube::Client;

/// `apiserver_request_total` (stable since Kubernetes 1.14) by verb in small letters.
#[derive(Debug, Default)]
pub struct Requests(BTreeMap<String, f64>);

/// Whose requests count: our group, and Pods with their heartbeats.
const RESOURCES: [&str; 4] = ["runs", "runtimes", "runtimeinstances", "pods"];

impl Requests {
    pub async fn read(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await.context("the API server shows no metrics")?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut verbs = BTreeMap::<_, f64>::new();
        for line in text.lines() {
            let Some((labels, value)) =
                line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let (Some(resource), Some(verb)) = (label(labels, "resource"), label(labels, "verb")) else {
                continue;
            };
            if RESOURCES.contains(&resource) {
                *verbs.entry(verb.to_ascii_lowercase()).or_default() += value.parse::<f64>().unwrap_or(0.0);
            }
        }
        Self(verbs)
    }

    pub fn since(&self, before: &Self) -> Self {
        let spent = |(verb, now): (&String, &f64)| {
            (verb.clone(), now - before.0.get(verb).copied().unwrap_or_default())
        };
        Self(self.0.iter().map(spent).filter(|(_, requests)| *requests != 0.0).collect())
    }

    pub fn total(&self) -> f64 {
        self.0.values().sum()
    }

    pub fn by_verb(self) -> BTreeMap<String, f64> {
        self.0
    }
}

/// The value of a label; values with escaped quotes are none of ours.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = labels.split(',').filter_map(|part| part.split_once('='));
    parts.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_counted_by_verb() {
        let text = "# TYPE apiserver_request_total counter\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",group=\"kruntimes.io\",resource=\"runs\",subresource=\"status\",verb=\"PATCH\",version=\"v1alpha1\"} 12\n\
            apiserver_request_total{code=\"409\",group=\"kruntimes.io\",resource=\"runs\",subresource=\"status\",verb=\"PATCH\"} 1\n\
            apiserver_request_total{code=\"200\",group=\"\",resource=\"pods\",verb=\"LIST\"} 3\n\
            apiserver_request_total{code=\"200\",group=\"\",resource=\"nodes\",verb=\"LIST\"} 9\n\
            apiserver_request_duration_seconds_sum{resource=\"runs\",verb=\"LIST\"} 9\n";
        let now = Requests::parse(text);
        let before = Requests::parse("apiserver_request_total{resource=\"pods\",verb=\"LIST\"} 3\n");
        let verbs = now.since(&before);
        assert_eq!(verbs.total(), 13.0);
        assert_eq!(verbs.by_verb(), BTreeMap::from([("patch".to_owned(), 13.0)]));
    }
}
