//! The fixture file of one gateway.

use std::path::Path;

use grosz_providers::gateway::{AttemptRef, Checkout, Event, RefundOrder};
use grosz_providers::wire::Headers;
use grosz_providers::{Provider, Settings, Timestamp, registry};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    provider: String,
    settings: Map<String, Value>,
    now: Timestamp,
    #[serde(default)]
    pub start: Vec<Case>,
    #[serde(default)]
    pub deliveries: Vec<DeliveryCase>,
    #[serde(default)]
    pub status: Vec<Case>,
    #[serde(default)]
    pub refund: Vec<Case>,
    #[serde(default)]
    pub refund_status: Vec<Case>,
    #[serde(default)]
    pub cancel: Vec<Case>,
}

/// A call of ours. One of `checkout`, `attempt` and `order` is what it is about.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    settings: Map<String, Value>,
    now: Option<Timestamp>,
    pub checkout: Option<Checkout>,
    pub attempt: Option<AttemptRef>,
    pub order: Option<RefundOrder>,
    #[serde(default)]
    pub http: Vec<Exchange>,
    pub expect: Value,
}

/// One request and its answer. What is not given of the request is not compared; headers are a subset.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    pub expect: ExpectedRequest,
    pub answer: Answer,
}

#[derive(Deserialize, Clone, Default)]
#[serde(deny_unknown_fields)]
pub struct ExpectedRequest {
    pub method: Option<String>,
    pub url: Option<String>,
    #[serde(default)]
    pub headers: Map<String, Value>,
    pub form: Option<Vec<(String, String)>>,
    pub json: Option<Value>,
    pub body: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
pub enum Answer {
    Error {
        error: String,
    },
    Page {
        status: u16,
        #[serde(default)]
        headers: Map<String, Value>,
        #[serde(default)]
        body: String,
    },
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct DeliveryCase {
    pub name: String,
    pub tags: Vec<String>,
    #[serde(default)]
    settings: Map<String, Value>,
    now: Option<Timestamp>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    pub query: String,
    body: Option<String>,
    body_base64: Option<String>,
    pub expect: Value,
    pub outcomes: Option<Vec<grosz_providers::Outcome>>,
    pub reply: Option<ExpectedReply>,
    pub same_key_as: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct ExpectedReply {
    pub status: u16,
    pub body: Option<String>,
    #[serde(default)]
    pub contains: Vec<String>,
}

/// Every gateway with its fixture file.
pub fn all() -> Vec<(&'static dyn Provider, Fixture)> {
    registry::providers()
        .map(|provider| {
            let name = provider.facts().name;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.json"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let fixture: Fixture = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(fixture.provider, name);
            (provider, fixture)
        })
        .collect()
}

impl Fixture {
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The file's settings, checked.
    pub fn settings(&self, provider: &dyn Provider) -> Settings {
        self.settings_with(provider, &Map::new())
    }

    pub fn settings_of(&self, provider: &dyn Provider, case: &Case) -> Settings {
        self.settings_with(provider, &case.settings)
    }

    pub fn settings_of_delivery(&self, provider: &dyn Provider, case: &DeliveryCase) -> Settings {
        self.settings_with(provider, &case.settings)
    }

    /// The file's settings with a case's own on top.
    fn settings_with(&self, provider: &dyn Provider, more: &Map<String, Value>) -> Settings {
        let mut given = self.settings.clone();
        given.extend(more.clone());
        let settings = Settings::check(provider.facts().settings, &given).unwrap_or_else(|e| panic!("{e}"));
        provider.check(&settings, None, false).unwrap_or_else(|e| panic!("{e}"));
        settings
    }

    pub fn now_of(&self, case: &Case) -> Timestamp {
        case.now.unwrap_or(self.now)
    }

    pub fn now_of_delivery(&self, case: &DeliveryCase) -> Timestamp {
        case.now.unwrap_or(self.now)
    }
}

impl Case {
    pub fn is(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t == tag)
    }
}

impl DeliveryCase {
    pub fn is(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t == tag)
    }

    pub fn headers(&self) -> Headers {
        Headers::from_pairs(self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }

    pub fn body(&self) -> Vec<u8> {
        use base64::Engine;
        match (&self.body, &self.body_base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(text)) => base64::engine::general_purpose::STANDARD.decode(text).unwrap(),
            _ => panic!("{}: give either body or body_base64", self.name),
        }
    }
}

/// Events against the members that a case gives.
#[track_caller]
pub fn check_events(name: &str, found: &[Event], expect: &Value) {
    let expect = expect.as_array().unwrap_or_else(|| panic!("{name}: events must be a list"));
    assert_eq!(found.len(), expect.len(), "{name}: {found:#?}");
    for (event, members) in found.iter().zip(expect) {
        let event = serde_json::to_value(event).unwrap();
        for (member, value) in members.as_object().unwrap() {
            assert_eq!(event.get(member), Some(value), "{name}: {member}");
        }
    }
}

/// A member of a case's expectation.
#[track_caller]
pub fn expected<T: DeserializeOwned>(name: &str, expect: &Value, member: &str) -> T {
    let value = expect.get(member).unwrap_or_else(|| panic!("{name} expects no {member}: {expect}"));
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{name}: {member}: {e}"))
}
