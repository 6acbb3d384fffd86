//! The OpenAPI document.

/// The document as YAML.
pub fn yaml() -> String {
    String::new()
}
