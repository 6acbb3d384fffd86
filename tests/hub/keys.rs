//! The keys that a distribution by merchant needs: every unique key holds the merchant, every table that a statement
//! names is bound to one merchant.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Engine, Hub};
use crate::on_both;
use crate::raw::Raw;
use crate::statements::{Sql, statements, tables};

/// Tables that belong to no merchant, and why that is well.
const COMMON: &[(&str, &str)] = &[
    ("merchants", "its id is the merchant; a reference table when distributed"),
    ("schema_versions", "the schema is of the whole database"),
    ("scheduled_runs", "housekeeping is of the whole database; one row an hour"),
];

/// Statements that do not name the merchant, and why.
const UNBOUND: &[(&str, &str)] = &[
    ("FROM api_keys WHERE hash = $1", "begins a request: the key says who calls"),
    ("FROM provider_accounts WHERE id = $1", "begins a request: the webhook's address names the account"),
    ("FROM payments WHERE token = $1", "begins a request: the payment link"),
    ("FROM payers WHERE portal_token = $1", "begins a request: the payer's list"),
    ("FROM attempts WHERE id = $1", "begins a request: the address to which a gateway sends the payer back"),
    ("FROM provider_accounts WHERE live = 0", "the simulators serve every merchant; test accounts only"),
    ("FROM invoicing_accounts WHERE live = 0", "the simulators serve every merchant; test accounts only"),
    ("(SELECT COUNT(*) FROM provider_accounts)", "the simulators ask whether there are new accounts"),
    ("run_at <= $1 ORDER BY run_at", "a worker takes whatever is due; when distributed, on its own node"),
    ("ORDER BY run_at LIMIT 1", "a worker asks when the next job is due"),
    (
        "FROM invoicing_accounts a WHERE EXISTS",
        "a worker wakes whoever waits; each account is looked for by its merchant",
    ),
    ("COUNT(*) AS jobs", "a metric of the whole queue"),
];

async fn tables_with_columns(raw: &Raw) -> BTreeMap<String, BTreeSet<String>> {
    let sql = if raw.is_postgres() {
        "SELECT c.table_name::text, c.column_name::text FROM information_schema.columns c
         JOIN information_schema.tables t ON t.table_name = c.table_name AND t.table_schema = c.table_schema
         WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'"
    } else {
        "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"
    };
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in raw.rows(sql).await {
        found.entry(row[0].clone()).or_default().insert(row[1].clone());
    }
    found
}

/// Unique keys as (table, index, its columns in order).
async fn unique_keys(raw: &Raw) -> Vec<Vec<String>> {
    let sql = if raw.is_postgres() {
        "SELECT t.relname::text, i.relname::text, string_agg(a.attname::text, ',' ORDER BY k.n)
         FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
         JOIN pg_namespace s ON s.oid = t.relnamespace AND s.nspname = 'public',
         LATERAL unnest(x.indkey) WITH ORDINALITY AS k (att, n) JOIN pg_attribute a ON a.attnum = k.att
         WHERE x.indisunique AND a.attrelid = x.indrelid GROUP BY 1, 2"
    } else {
        "SELECT m.name, l.name, group_concat(c.name, ',')
         FROM sqlite_master m, pragma_index_list(m.name) l, pragma_index_info(l.name) c
         WHERE m.type = 'table' AND l.\"unique\" = 1 GROUP BY 1, 2"
    };
    raw.rows(sql).await
}

on_both!(every_unique_key_begins_with_the_merchant, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let common: BTreeSet<&str> = COMMON.iter().map(|(name, _)| *name).collect();
    let all = tables_with_columns(&raw).await;
    let mut keyed = BTreeSet::new();
    for key in unique_keys(&raw).await {
        let (table, index, columns) = (&key[0], &key[1], &key[2]);
        keyed.insert(table.clone());
        if !common.contains(table.as_str()) {
            assert!(columns.starts_with("merchant_id,"), "{index} of {table} is ({columns})");
        }
    }
    assert!(all.len() > 25, "{}", all.len());
    for (table, columns) in &all {
        let owned = columns.contains("merchant_id");
        assert_ne!(owned, common.contains(table.as_str()), "{table}: a merchant's, or named with a reason");
        // SQLite keeps `BIGINT PRIMARY KEY` and one-column text keys as indexes too, so each table is seen.
        assert!(keyed.contains(table), "{table} has no unique key");
    }
});

// Whoever joins two tables, or looks into one from within another, stays with one merchant.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_in_a_statement_is_bound_to_a_merchant() {
    let hub = Hub::start(Engine::Sqlite).await;
    let columns = tables_with_columns(&Raw::of(&hub.app).await).await;
    let owned = |table: &str| columns.get(table).is_some_and(|c| c.contains("merchant_id"));
    let mut used = BTreeSet::new();
    for statement in statements() {
        let flat = statement.text.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((pattern, _)) = UNBOUND.iter().find(|(pattern, _)| flat.contains(pattern)) {
            used.insert(*pattern);
            continue;
        }
        for scope in Sql::of(&statement.text).scopes() {
            let uses = tables(&scope);
            for table in uses.iter().filter(|u| owned(&u.table)) {
                // The columns of a set are named apart from those of the tables.
                let alone = uses.iter().filter(|u| owned(&u.table)).count() == 1;
                let bound = if table.is_target_of_insert {
                    scope.contains(&"merchant_id".to_owned())
                } else {
                    is_bound(&scope, &table.alias, alone)
                };
                assert!(bound, "{}: {} is not bound to a merchant in\n{flat}", statement.place, table.alias);
            }
        }
    }
    let unused: Vec<_> = UNBOUND.iter().filter(|(pattern, _)| !used.contains(pattern)).collect();
    assert!(unused.is_empty(), "exceptions that are no longer needed: {unused:?}");
}

/// `alias.merchant_id = …`, `… = alias.merchant_id`, or `(merchant_id, id) IN (…)`; without the alias where the table is
/// alone. Rows named by their place (`rowid IN`, `ctid = ANY`) are those of the query in brackets, which is judged itself.
fn is_bound(scope: &[String], alias: &str, alone: bool) -> bool {
    let qualified = format!("{alias}.merchant_id");
    (0..scope.len()).any(|n| {
        let at = |n: Option<usize>| n.and_then(|n| scope.get(n)).map_or("", String::as_str);
        if alone && matches!(scope[n].as_str(), "rowid" | "ctid") && matches!(at(Some(n + 1)), "IN" | "=") {
            return true;
        }
        let named = scope[n] == qualified || (alone && scope[n] == "merchant_id");
        let compared = at(Some(n + 1)) == "=" || at(n.checked_sub(1)) == "=";
        let row_in = at(n.checked_sub(1)) == "(" && scope[n..].iter().take(5).any(|t| t == "IN");
        named && (compared || row_in)
    })
}

#[test]
fn a_join_that_forgets_the_merchant_is_seen() {
    let check = |sql: &str, expect: bool| {
        let scope = Sql::of(sql).scopes().remove(0);
        let uses = tables(&scope);
        let bound = uses.iter().all(|u| is_bound(&scope, &u.alias, uses.len() == 1));
        assert_eq!(bound, expect, "{sql}");
    };
    check("SELECT a.id FROM attempts a JOIN captures c ON c.attempt_id = a.id WHERE a.merchant_id = $1", false);
    check(
        "SELECT a.id FROM attempts a JOIN captures c ON c.merchant_id = a.merchant_id WHERE a.merchant_id = $1",
        true,
    );
    check("SELECT id FROM attempts WHERE id = $1", false);
    check("SELECT merchant_id FROM attempts WHERE id = $1", false);
    check("UPDATE jobs SET n = 1 WHERE (merchant_id, id) IN (1)", true);
}
