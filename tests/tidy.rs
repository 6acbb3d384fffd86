//! Holds the house in order: who may know whom, where SQL may stand, that the hub names no gateway, and that the project
//! speaks of itself alone.

use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `dir` with one of these endings, as (path from the root, text).
fn files(dir: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = vec![];
    let mut queue = vec![root().join(dir)];
    while let Some(at) = queue.pop() {
        let entries = fs::read_dir(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
        for path in entries.map(|e| e.expect("an entry").path()) {
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if path.is_dir() && !hidden && !path.ends_with("target") && !path.ends_with("grosz-data") {
                queue.push(path);
            } else if has_ending(&path, endings) {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    assert!(!found.is_empty(), "{dir} holds no {endings:?}");
    found
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.is_file() && path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending))
}

/// The code of a file without its test module and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check_never(dir: &str, forbidden: &[&str]) {
    for (name, text) in files(dir, &["rs"]) {
        // Test modules in files of their own may use what tests need.
        if name.contains("/tests") {
            continue;
        }
        let code = code(&text);
        for word in forbidden {
            assert!(!code.contains(word), "{name} must not mention {word}");
        }
    }
}

#[test]
fn the_domain_is_pure() {
    check_never("src/domain", &["async ", "crate::store", "crate::flows", "crate::app", "crate::http", "clock.now"]);
}

#[test]
fn the_store_knows_only_the_domain() {
    check_never("src/store", &["crate::flows", "crate::app", "crate::http", "crate::web", "crate::worker"]);
}

#[test]
fn flows_know_neither_http_nor_pages() {
    check_never(
        "src/flows",
        &["crate::http", "crate::web", "crate::sandbox", "crate::worker", "axum::", "sqlx::", "rusqlite::"],
    );
}

#[test]
fn providers_know_nothing_of_the_hub() {
    check_never(
        "providers/src",
        &["grosz::", "sqlx", "rusqlite", "axum", "reqwest", "tokio::", "SystemTime::now", "Timestamp::now"],
    );
}

#[test]
fn sql_stands_in_the_store_alone() {
    for (name, text) in files("src", &["rs"]) {
        if name.starts_with("src/store/") {
            continue;
        }
        let code = code(&text);
        let is_past = ["sqlx::", "rusqlite::"].iter().any(|driver| code.contains(driver));
        assert!(!is_past, "{name} speaks to the database past the store");
        for verb in ["\"SELECT ", "\"INSERT INTO", "\"UPDATE ", "\"DELETE FROM"] {
            assert!(!code.contains(verb), "{name} holds SQL");
        }
    }
}

// Decisions and kept texts are good for one version of a payment (ADR 0029, ADR 0034).
#[test]
fn what_changes_a_payment_raises_its_version() {
    let mut found = 0;
    for (name, text) in files("src/store", &["rs"]) {
        for statement in code(&text).split("UPDATE payments SET").skip(1) {
            let statement = statement.split('"').next().unwrap_or_default();
            let raises = ["version = version + 1", "version = r.new_version"].iter().any(|w| statement.contains(w));
            let is_the_text =
                statement.trim_start().starts_with("glance = r.new_glance, glance_version = r.version_read");
            assert!(raises || is_the_text, "{name} changes payments and not their version: {statement}");
            found += 1;
        }
    }
    assert!(found > 6, "{found} statements change payments");
}

// Nothing in the hub, its configuration or its interface names a gateway; the twins' host and the demo neither.
#[test]
fn the_hub_names_no_gateway() {
    for (name, text) in files("src", &["rs", "html", "sql"]) {
        let lowered = code(&text).to_lowercase();
        for gateway in grosz_providers::registry::providers().map(|p| p.facts().name) {
            assert!(!lowered.contains(gateway), "{name} names the gateway {gateway}");
        }
        for invoicer in grosz_providers::registry::invoicers().map(|i| i.facts().name) {
            assert!(!lowered.contains(invoicer), "{name} names the invoicing API {invoicer}");
        }
    }
}

// R-OCS-20: no floats near money.
#[test]
fn money_never_meets_a_float() {
    for dir in ["src/domain", "src/flows", "src/store", "providers/src"] {
        check_never(dir, &[": f64", ": f32", "as f64", "as f32", "<f64>", "<f32>"]);
    }
}

#[test]
fn no_test_is_left_asleep() {
    for dir in ["src", "providers", "tests"] {
        for (name, text) in files(dir, &["rs"]) {
            let mark = concat!("#[", "ignore");
            assert!(!text.contains(mark), "{name} holds a test that nobody runs");
        }
    }
}

// R-HUB-05
#[test]
fn the_top_level_is_complete() {
    for name in [
        "Cargo.toml",
        "src",
        "providers",
        "tests",
        "benches",
        "openapi.yaml",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "deny.toml",
        ".ci/run",
        "docs/adr",
        "docs/operate.md",
        "docs/performance.md",
        "docs/add-a-gateway.md",
    ] {
        assert!(root().join(name).exists(), "{name} is missing");
    }
}

// R-HUB-06
#[test]
fn the_agreed_libraries_are_used() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    for library in ["axum", "tokio", "hmac", "sha2", "reqwest", "serde", "sqlx", "backon", "wiremock"] {
        assert!(manifest.lines().any(|l| l.starts_with(library)), "{library} is not a dependency");
    }
    assert!(!manifest.lines().any(|l| l.starts_with("backoff")), "backoff is unmaintained (RUSTSEC-2025-0012)");
}
