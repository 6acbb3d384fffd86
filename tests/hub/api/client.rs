//! A client app that reads the document: each answer must be one that the document describes.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

use crate::harness::{Answer, Hub, KEY};
use crate::stories::stage::Stage;

/// The document as JSON.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::to_value(grosz::http::openapi::document()).expect("JSON"))
}

/// Every operation below `/v1`: method, path, operation.
pub fn operations() -> Vec<(String, String, &'static Value)> {
    let mut all = vec![];
    for (path, methods) in document()["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            if path.starts_with("/v1/") {
                all.push((method.to_uppercase(), path.clone(), operation));
            }
        }
    }
    all
}

/// Calls with one key.
pub struct Client<'a> {
    hub: &'a Hub,
    key: String,
    seen: Mutex<BTreeSet<String>>,
}

impl<'a> Client<'a> {
    /// With the key of the hub's first merchant.
    pub fn new(hub: &'a Hub) -> Self {
        Client::with(hub, KEY)
    }

    pub fn with(hub: &'a Hub, key: &str) -> Self {
        Client { hub, key: key.to_owned(), seen: Mutex::default() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(body), &[]).await
    }

    pub async fn post_once(&self, key: &str, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(body), &[("idempotency-key", key)]).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call("PATCH", path, Some(body), &[]).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, None, &[]).await
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>, headers: &[(&str, &str)]) -> Answer {
        let answer = self.hub.call(method, path, Some(&self.key), body, headers).await;
        self.check(method, path, &answer);
        answer
    }

    pub async fn put(&self, path: &str, media_type: &str, body: &[u8]) -> Answer {
        let headers = [("content-type", media_type.to_owned()), ("authorization", format!("Bearer {}", self.key))];
        let answer = self.hub.raw("PUT", path, &headers, body.to_vec()).await;
        self.check("PUT", path, &answer);
        answer
    }

    /// Ids of the operations that were answered with success.
    pub fn seen(&self) -> BTreeSet<String> {
        self.seen.lock().expect("no panic before").clone()
    }

    #[track_caller]
    fn check(&self, method: &str, path: &str, answer: &Answer) {
        assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req_")), "{method} {path}");
        let Some(operation) = operation_of(method, path) else {
            check_problem(answer);
            return;
        };
        if answer.status >= 400 {
            check_problem(answer);
            return;
        }
        let id = operation["operationId"].as_str().expect("a name").to_owned();
        let described = &operation["responses"][answer.status.to_string()];
        assert!(described.is_object(), "{id} answers {}, which the document does not know", answer.status);
        self.seen.lock().expect("no panic before").insert(id.clone());
        let Some(schema) = described["content"].get("application/json").map(|c| &c["schema"]) else { return };
        check_schema(&id, schema, &answer.json());
    }
}

/// An error is a problem, told in full, that says nothing of the inside (F73).
#[track_caller]
pub fn check_problem(answer: &Answer) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text());
    let body = answer.json();
    check_schema("problem", &json!({"$ref": "#/components/schemas/Problem"}), &body);
    assert_eq!(body["status"], answer.status);
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"));
    let text = answer.text().to_lowercase();
    for inside in ["select ", "insert ", "sqlx", "sqlite", "postgres", ".rs", "panicked", env!("CARGO_MANIFEST_DIR")] {
        assert!(!text.contains(inside), "{text} tells {inside}");
    }
}

#[track_caller]
fn check_schema(name: &str, schema: &Value, body: &Value) {
    let mut whole = schema.clone();
    whole["components"] = document()["components"].clone();
    let validator = jsonschema::validator_for(&whole).expect("a schema");
    let errors: Vec<String> = validator.iter_errors(body).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{name}: {errors:?} in {body}");
}

fn operation_of(method: &str, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let (a, b): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        a.len() == b.len() && a.iter().zip(&b).all(|(t, p)| t.starts_with('{') || t == p)
    };
    let found = operations().into_iter().find(|(m, template, _)| m == method && fits(template));
    found.map(|(_, _, operation)| operation)
}

/// The id in an answer.
#[track_caller]
pub fn id_of(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap_or_else(|| panic!("no id in {}", answer.text())).to_owned()
}

/// The fields that were refused, sorted.
#[track_caller]
pub fn refused(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 422, "{}", answer.text());
    let body = answer.json();
    let errors = body["errors"].as_array().unwrap_or_else(|| panic!("no fields in {body}"));
    let mut fields: Vec<String> = errors.iter().filter_map(|e| e["pointer"].as_str().map(str::to_owned)).collect();
    fields.sort();
    fields
}

/// A case of a new number for the stage's payer.
pub fn case_body(stage: &Stage, number: &str) -> Value {
    json!({
        "number": number, "title": "Analiza umowy", "expert": stage.experts[0].id, "payer": stage.payer.id,
        "amount": 12300, "currency": "PLN",
        "lines": [{"name": "Analiza umowy", "quantity": 1, "unit_price": 12300, "vat": 23}],
    })
}

/// A payment without a case.
pub fn payment_body(stage: &Stage) -> Value {
    json!({
        "amount": 12300, "currency": "PLN", "description": "Konsultacja", "payer": stage.payer.id,
        "provider_account": stage.account("autopay").id,
    })
}
