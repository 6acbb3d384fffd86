//! `/docs`: the operations of the OpenAPI document on one plain page, without anything from elsewhere.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use serde_json::Value;

use super::openapi::document;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
code,pre{font:14px/1.4 ui-monospace,monospace}details{border-top:1px solid #ccc;padding:.4rem 0}summary{cursor:pointer}\
b{display:inline-block;min-width:4.5rem}table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top}\
@media(prefers-color-scheme:dark){body{background:#111;color:#eee}a{color:#9cf}details{border-color:#444}}";

/// The page. Its one style sheet is allowed by its hash-free inline policy; nothing on it runs.
pub async fn serve() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page())).into_response()
}

fn page() -> String {
    let doc = serde_json::to_value(document()).unwrap_or_default();
    let about = text(&doc["info"]["description"]);
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Grosz API</title><style>{STYLE}</style><h1>Grosz API</h1>\
         <p>The whole document: <a href='/openapi.yaml'>openapi.yaml</a> (OpenAPI 3.1).</p>"
    );
    for paragraph in about.split("\n\n") {
        html.push_str(&format!("<p>{}</p>", marked(paragraph)));
    }
    for tag in doc["tags"].as_array().into_iter().flatten() {
        let name = text(&tag["name"]);
        html.push_str(&format!("<h2>{}</h2><p>{}</p>", escape(name), escape(text(&tag["description"]))));
        for (path, methods) in doc["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if operation["tags"].as_array().is_some_and(|t| t.iter().any(|t| t == name)) {
                    html.push_str(&operation_html(&doc, path, method, operation));
                }
            }
        }
    }
    html
}

fn operation_html(doc: &Value, path: &str, method: &str, operation: &Value) -> String {
    let mut html = format!(
        "<details><summary><b>{}</b><code>{}</code> {}</summary>",
        method.to_uppercase(),
        escape(path),
        escape(text(&operation["summary"]))
    );
    if let Some(description) = operation["description"].as_str() {
        html.push_str(&format!("<p>{}</p>", marked(description)));
    }
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: String = parameters.iter().map(|p| row(text(&p["name"]), text(&p["description"]))).collect();
    if !rows.is_empty() {
        html.push_str(&format!("<h4>Parameters</h4><table>{rows}</table>"));
    }
    let body = &operation["requestBody"]["content"];
    for (kind, content) in body.as_object().into_iter().flatten() {
        html.push_str(&format!("<h4>Body: {}</h4><table>{}</table>", escape(kind), fields(doc, &content["schema"])));
    }
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        for (kind, content) in answer["content"].as_object().into_iter().flatten() {
            let rows = if status.starts_with(['4', '5']) { String::new() } else { fields(doc, &content["schema"]) };
            html.push_str(&format!("<h4>{status}: {}</h4><table>{rows}</table>", escape(kind)));
        }
    }
    html.push_str("</details>");
    html
}

/// Rows for the fields of an object, through references and parts that are flattened into it.
fn fields(doc: &Value, schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return fields(doc, &doc["components"]["schemas"][name]);
    }
    let mut rows = String::new();
    for part in ["allOf", "oneOf"].iter().filter_map(|p| schema[*p].as_array()).flatten() {
        rows.push_str(&fields(doc, part));
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let mark = if required.contains(&name.as_str()) { "" } else { "?" };
        rows.push_str(&row(&format!("{name}{mark}"), text(&field["description"])));
    }
    rows
}

fn row(name: &str, description: &str) -> String {
    format!("<tr><td><code>{}</code><td>{}", escape(name), marked(description))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Escaped text with `code` and **strong** marks.
fn marked(text: &str) -> String {
    let escaped = escape(text);
    let alternate = |text: &str, mark: &str, tag: &str| {
        let parts = text.split(mark).enumerate();
        parts
            .map(|(n, part)| if n % 2 == 0 { part.to_owned() } else { format!("<{tag}>{part}</{tag}>") })
            .collect::<String>()
    };
    alternate(&alternate(&escaped, "`", "code"), "**", "strong")
}
