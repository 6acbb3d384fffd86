//! The document and the server are one (R-HUB-07).

use serde_json::Value;

use super::client::{document, operations};
use crate::harness::{Engine, Hub};

#[test]
fn openapi_yaml_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml");
    let said = grosz::http::openapi::yaml();
    if std::env::var_os("GROSZ_BLESS").is_some() {
        std::fs::write(path, &said).expect("written");
    }
    let kept = std::fs::read_to_string(path).expect("openapi.yaml");
    assert!(kept == said, "openapi.yaml is not what the program says: run with GROSZ_BLESS=1 to write it anew");
}

// R-HUB-04
#[test]
fn three_groups_use_the_hub() {
    let tags: Vec<&str> =
        document()["tags"].as_array().unwrap().iter().map(|t| t["description"].as_str().unwrap()).collect();
    for group in ["Client apps", "Payment providers", "Experts and operators"] {
        assert!(tags.iter().any(|t| t.starts_with(group)), "{group}");
    }
}

#[test]
fn every_operation_has_a_name_a_key_a_tag_and_its_errors() {
    let mut names = std::collections::BTreeSet::new();
    let known: Vec<&Value> = document()["tags"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
    assert!(operations().len() >= 50);
    for (method, path, operation) in operations() {
        let name = operation["operationId"].as_str().expect("a name");
        assert!(names.insert(name), "{name} twice");
        assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{method} {path}");
        assert!(operation["security"][0]["key"].is_array(), "{method} {path}");
        assert!(operation["tags"].as_array().unwrap().iter().all(|t| known.contains(&t)), "{method} {path}");
        for errors in ["4XX", "5XX"] {
            let schema = &operation["responses"][errors]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{method} {path}");
        }
        let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let has_key = parameters.iter().any(|p| p["name"] == "Idempotency-Key");
        assert_eq!(has_key, method == "POST", "{method} {path}");
    }
}

// OpenAPI 3.1 asks for a description of every answer, and readers of YAML 1.1 take some bare words for true or false.
#[test]
fn other_readers_understand_the_document() {
    for (path, methods) in document()["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let text = answer["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{method} {path} {status}");
            }
        }
    }
    let said = grosz::http::openapi::yaml();
    for line in said.lines() {
        for word in line.trim_start_matches([' ', '-']).splitn(2, ": ") {
            let bare = word.trim().trim_end_matches(':').to_ascii_lowercase();
            assert!(!["y", "n", "yes", "no", "on", "off"].contains(&bare.as_str()), "{line}");
        }
    }
    assert!(said.contains("'no':"), "an attempt has its number");
}

#[test]
fn every_reference_leads_somewhere() {
    let text = document().to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document().pointer(reference).is_some(), "{reference}");
    }
}

// A method that no address takes tells routes (405) from nothing (404). The other direction holds by construction: a
// route of /v1 is added with its description or not at all.
#[tokio::test]
async fn every_documented_address_is_served() {
    let hub = Hub::start(Engine::Sqlite).await;
    for path in document()["paths"].as_object().unwrap().keys() {
        let address: String =
            path.split('/').map(|p| if p.starts_with('{') { "x" } else { p }).collect::<Vec<_>>().join("/");
        let answer = hub.raw("TRACE", &address, &[], vec![]).await;
        assert_eq!(answer.status, 405, "{path}: {}", answer.text());
    }
    assert_eq!(hub.raw("TRACE", "/nowhere", &[], vec![]).await.status, 404);
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let hub = Hub::start(Engine::Sqlite).await;
    let served = hub.raw("GET", "/openapi.yaml", &[], vec![]).await.expect(200);
    assert_eq!(served.text(), grosz::http::openapi::yaml());
    let page = hub.raw("GET", "/docs", &[], vec![]).await.expect(200);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    for (_, path, _) in operations() {
        assert!(page.text().contains(&format!("<code>{path}</code>")), "{path}");
    }
}
