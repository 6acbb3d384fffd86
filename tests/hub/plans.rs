//! No statement of the store scans a table that grows: each is explained, as it would be prepared, on a filled database
//! with fresh statistics. Half of all rows belong to one merchant, so that the merchant alone is no way to find a row.

use std::collections::BTreeMap;

use grosz::ids::first_of;
use grosz::months::month_start;

use crate::harness::{Engine, Hub};
use crate::raw::Raw;
use crate::statements::{For, Sql, Statement, statements, tables};

/// Rows of each table that grows.
const ROWS: i64 = 20_000;

/// Tables that do not grow with the payments: a handful of rows for each merchant.
const SMALL: &[&str] = &[
    "merchants",
    "api_keys",
    "provider_accounts",
    "invoicing_accounts",
    "invoicing_slots",
    "experts",
    "endpoints",
    "refusals",
    "schema_versions",
    "scheduled_runs",
    "house_marks",
];

/// Statements that may read a whole table, and why.
const ALLOWED: &[(&str, &str)] = &[
    ("COUNT(*) AS jobs", "the metric counts the whole queue; live jobs only"),
    (
        "FROM jobs WHERE merchant_id = $1 AND ($2 IS NULL OR state = $2)",
        "a list for people; the table holds live jobs only, and one more index would be written by every job",
    ),
];

/// Columns with few different values, as in life.
const WORDS: &[(&str, &str, &str)] = &[
    ("payments", "status", "CASE n % 20 WHEN 0 THEN 'started' WHEN 1 THEN 'error' ELSE 'completed' END"),
    ("jobs", "state", "CASE n % 4 WHEN 0 THEN 'running' WHEN 1 THEN 'failed' ELSE 'ready' END"),
    ("events", "state", "CASE n % 50 WHEN 0 THEN 'parked' ELSE 'applied' END"),
    ("events", "has_moved", "CASE n % 10 WHEN 0 THEN NULL ELSE 1 END"),
    ("messages", "of_transition", "CASE n % 3 WHEN 0 THEN NULL ELSE 1 END"),
    ("invoices", "kind", "'sales'"),
    ("idempotency_keys", "status", "200"),
    ("", "state", "CASE n % 10 WHEN 0 THEN 'pending' ELSE 'settled' END"),
    ("", "status", "'open'"),
    ("", "kind", "'kind_' || (n % 5)"),
    ("", "type", "'type_' || (n % 5)"),
    ("", "provider", "'gateway'"),
    ("", "currency", "'PLN'"),
    ("", "live", "1"),
    ("", "merchant_id", "'mer_' || (n % 2)"),
    ("", "account_id", "'acc_' || (n % 6)"),
    ("", "provider_account_id", "'acc_' || (n % 6)"),
    ("", "invoicing_account_id", "'inv_' || (n % 2)"),
    ("", "endpoint_id", "'ep_' || (n % 4)"),
    ("", "expert_id", "'exp_' || (n % 10)"),
    ("", "payer_id", "'pyr_' || (n / 10)"),
    ("", "resolved_at", "CASE n % 20 WHEN 0 THEN NULL ELSE n END"),
    ("", "deleted_at", "CASE n % 20 WHEN 0 THEN n ELSE NULL END"),
];

/// Columns of each table with their types, in upper case.
async fn columns(raw: &Raw) -> BTreeMap<String, Vec<(String, String)>> {
    let sql = if raw.is_postgres() {
        "SELECT c.relname::text, a.attname::text, upper(format_type(a.atttypid, NULL)) FROM pg_class c
         JOIN pg_namespace s ON s.oid = c.relnamespace AND s.nspname = 'public'
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1, a.attnum"
    } else {
        "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY 1, c.cid"
    };
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for row in raw.rows(sql).await {
        found.entry(row[0].clone()).or_default().push((row[1].clone(), row[2].clone()));
    }
    found
}

/// Fills every table that grows, from the catalogue: a new table or column is filled without a word here.
async fn fill(raw: &Raw, now: i64) {
    let series = if raw.is_postgres() {
        format!("(SELECT generate_series(1, {ROWS})::bigint AS n) AS s")
    } else {
        format!("(WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {ROWS}) SELECT n FROM s)")
    };
    for (table, columns) in columns(raw).await.iter().filter(|(table, _)| !SMALL.contains(&table.as_str())) {
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let values: Vec<String> = columns.iter().map(|(name, kind)| value(table, name, kind, now)).collect();
        raw.run(format!("INSERT INTO {table} ({}) SELECT {} FROM {series}", names.join(", "), values.join(", "))).await;
    }
    // The vacuum too, so that it does not come by itself between two plans.
    raw.run(if raw.is_postgres() { "VACUUM ANALYZE" } else { "ANALYZE" }).await;
}

fn value(table: &str, column: &str, kind: &str, now: i64) -> String {
    let known = WORDS.iter().find(|(t, c, _)| *c == column && (t.is_empty() || *t == table));
    if let Some((_, _, value)) = known {
        return (*value).to_owned();
    }
    match (table, column, kind) {
        // Calls of four months, so that the table is divided as in life.
        ("deliveries", "id", _) => {
            let months = (0..4).map(|m| first_of("dlv", month_start(now, m)));
            let cases = months.enumerate().map(|(m, id)| format!("WHEN {m} THEN '{}'", &id[..15]));
            let prefix = cases.collect::<Vec<_>>().join(" ");
            format!(
                "CASE n % 4 {prefix} END || substr('00000000000000' || CAST(n AS TEXT), -15 + length('00000000000000' || CAST(n AS TEXT)) + 1, 15)"
            )
        }
        (_, "id", _) => "'id_' || substr('00000000' || CAST(n AS TEXT), length(CAST(n AS TEXT)) + 1, 8)".into(),
        (_, name, "TEXT") if name.ends_with("_id") || name == "subject" => "'ref_' || (n / 2)".into(),
        (_, _, "TEXT") => "'v' || n".into(),
        (_, _, "BYTEA") => "'x'::bytea".into(),
        (_, _, "BLOB") => "x'00'".into(),
        _ => "n".into(),
    }
}

/// The plan of a statement, a line a step.
async fn plan(raw: &Raw, statement: &Statement, types: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    if !raw.is_postgres() {
        let names = statement.set.join(", ");
        let set = vec!["?"; statement.set.len()].join(", ");
        let frame = if set.is_empty() {
            String::new()
        } else {
            format!("WITH r ({names}) AS (SELECT * FROM (VALUES ({set}), ({set})) WHERE column1 IS NOT NULL) ")
        };
        let sql = format!("EXPLAIN QUERY PLAN {}", with_frame(&frame, &statement.text));
        raw.try_run(&sql).await.map_err(|e| e.to_string())?;
        return Ok(raw.rows(&sql).await.into_iter().map(|row| row[3].clone()).collect());
    }
    // The hub says what each value is; here it is found out from what PostgreSQL objects to, one by one.
    let mut set: Vec<String> =
        statement.set.iter().map(|name| types.get(name).cloned().unwrap_or("text".into())).collect();
    let mut kinds = vec![];
    let mut count;
    let mut tries = 0;
    loop {
        let arrays: Vec<String> = set.iter().enumerate().map(|(n, kind)| format!("${}::{kind}[]", n + 1)).collect();
        let frame = match arrays.as_slice() {
            [] => String::new(),
            _ => format!("WITH r ({}) AS (SELECT * FROM UNNEST({})) ", statement.set.join(", "), arrays.join(", ")),
        };
        let text = with_frame(&frame, &statement.text);
        count = Sql::of(&text).parameters();
        kinds.resize(count, "unknown".to_owned());
        let declared = if count == 0 || !set.is_empty() { String::new() } else { format!("({})", kinds.join(", ")) };
        let sql = format!("PREPARE q {declared} AS {text}");
        let Err(error) = raw.try_run(&sql).await else { break };
        tries += 1;
        if tries > 50 || !correct(&error, &sql, statement, &mut set, &mut kinds) {
            return Err(error.to_string());
        }
    }
    let nothing = if count == 0 { String::new() } else { format!("({})", vec!["NULL"; count].join(", ")) };
    let plan = raw.column(&format!("EXPLAIN (COSTS OFF) EXECUTE q {nothing}")).await;
    raw.run("DEALLOCATE q").await;
    Ok(plan)
}

/// Corrects the type of the one value that PostgreSQL objects to; `false` when it objects to something else.
fn correct(error: &sqlx::Error, sql: &str, statement: &Statement, set: &mut [String], kinds: &mut [String]) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let message = error.message();
    if let Some(rest) = message.split("could not determine data type of parameter $").nth(1) {
        let n: usize = rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        kinds[n - 1] = "text".into();
        return true;
    }
    let words: Vec<&str> = message.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let Some(wanted) = ["bigint", "bytea"].into_iter().find(|kind| words.contains(kind)) else { return false };
    let position = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|e| e.position());
    let Some(sqlx::postgres::PgErrorPosition::Original(at)) = position else { return false };
    // The value stands where the objection is, or on either side of the operator there.
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
    let (before, after): (String, String) = (sql.chars().take(at - 1).collect(), sql.chars().skip(at - 1).collect());
    let left = before.trim_end().rsplit(|c| !is_name(c)).next().unwrap_or_default();
    let here = after.split(|c| !is_name(c)).next().unwrap_or_default();
    let right = after.trim_start_matches(|c| !is_name(c)).split(|c| !is_name(c)).next().unwrap_or_default();
    for name in [here, left, right] {
        if let Some(kind) = name.strip_prefix('$').and_then(|n| kinds.get_mut(n.parse::<usize>().ok()? - 1)) {
            *kind = wanted.into();
            return true;
        }
        let own = name.strip_prefix("r.").unwrap_or(name);
        if let Some(n) = statement.set.iter().position(|column| column == own).filter(|n| set[*n] != wanted) {
            set[n] = wanted.into();
            return true;
        }
    }
    false
}

/// The statement with its set before it, as the store puts it.
fn with_frame(frame: &str, text: &str) -> String {
    format!("{frame}{text}")
}

/// Tables that grow and that a plan reads from one end to the other.
fn scanned(
    statement: &Statement,
    plan: &[String],
    on_postgres: bool,
    partial: &[String],
    indexes: &Indexes,
) -> Vec<String> {
    let aliases: BTreeMap<String, String> =
        Sql::of(&statement.text).scopes().iter().flat_map(|scope| tables(scope)).map(|u| (u.alias, u.table)).collect();
    let mut found = vec![];
    for (n, step) in plan.iter().enumerate() {
        let words: Vec<&str> = step.split_whitespace().collect();
        let table = if on_postgres {
            words.windows(4).find(|w| w[0] == "Seq" && w[1] == "Scan" && w[2] == "on").map(|w| w[3])
        } else {
            words.windows(2).find(|w| w[0] == "SCAN").map(|w| w[1])
        };
        let table = table.or_else(|| walked(statement, plan, n, indexes));
        let Some(table) = table else { continue };
        // An index that holds only the rows that are asked for, such as jobs that are due, is no scan of the table.
        if partial.iter().any(|index| words.contains(&index.as_str())) {
            continue;
        }
        // Holds nothing but what met a missing month.
        if table == "deliveries_default" {
            continue;
        }
        let table = aliases.get(table).map_or(table, String::as_str);
        let table = if table.starts_with("deliveries_") { "deliveries" } else { table };
        found.push(table.to_owned());
    }
    found
}

/// Columns that say nothing about which of a merchant's rows are meant: with these alone an index is walked through.
const COMMON_COLUMNS: &[&str] = &[
    "merchant_id",
    "account_id",
    "provider_account_id",
    "invoicing_account_id",
    "endpoint_id",
    "expert_id",
    "state",
    "status",
    "kind",
    "type",
    "live",
];

/// The table of an index that a step walks through without an end: what it looks for begins the index with columns that
/// most rows have in common.
fn walked<'a>(statement: &Statement, plan: &'a [String], step: usize, indexes: &'a Indexes) -> Option<&'a str> {
    let words: Vec<&str> = plan[step].split_whitespace().collect();
    if statement.text.contains("LIMIT") {
        return None;
    }
    let is_common = |column: &str| COMMON_COLUMNS.contains(&column);
    // SQLite: SEARCH c USING INDEX captures_by_payment (merchant_id=? AND payment_id=?)
    if words.first() == Some(&"SEARCH") {
        let sought = plan[step].rsplit_once('(')?.1.trim_end_matches(')');
        let all_common = sought.split(" AND ").all(|c| c.strip_suffix("=?").is_some_and(is_common));
        return all_common.then_some(words[1]);
    }
    // PostgreSQL: Index Scan using captures_by_payment on captures c, or Bitmap Index Scan on captures_by_payment, and
    // below it Index Cond: ((merchant_id = $1) AND …
    let before = if words.contains(&"Bitmap") { "on" } else { "using" };
    let name = words.iter().position(|w| *w == before).and_then(|n| words.get(n + 1))?;
    let (table, columns) = indexes.get(*name)?;
    let condition = plan.get(step + 1).filter(|c| c.contains("Index Cond:")).map_or("", String::as_str);
    let is_sought = |column: &&String| condition.contains(&format!("({column} "));
    columns.iter().take_while(is_sought).all(|column| is_common(column)).then_some(table)
}

/// Comparisons of a statement's order with a parameter, where a page begins and where it ends, that the plan does not look
/// up in an index: each row before that place would be read and thrown away. Rows that are looked up one by one are few.
fn not_looked_up(statement: &Statement, plan: &[String], on_postgres: bool) -> Vec<String> {
    let words = Sql::of(&statement.text).0;
    let order = words.windows(3).find(|w| w[0] == "ORDER" && w[1] == "BY").map(|w| w[2].as_str());
    let Some(order) = order.filter(|name| *name == "id" || name.ends_with(".id")) else { return vec![] };
    let mut missing = vec![];
    for (n, word) in words.iter().enumerate().filter(|(_, word)| *word == order) {
        let after = |at: usize| words.get(n + at).map_or("", String::as_str);
        let (mark, place) = match (after(1), after(2)) {
            (mark @ ("<" | ">"), "=") => (mark, 3),
            (mark @ ("<" | ">"), _) => (mark, 2),
            _ => continue,
        };
        if !after(place).starts_with('$') {
            continue;
        }
        let is_looked_up = |step: &String| match on_postgres {
            // PostgreSQL: Index Cond: ((merchant_id = $1) AND (id < $2))
            true if step.contains("Index Cond:") => [mark, "="].iter().any(|m| step.contains(&format!("(id {m}"))),
            // The partitions are of ids, and this place is in none of them.
            true => step.contains("Subplans Removed:"),
            // SQLite: SEARCH payments USING PRIMARY KEY (merchant_id=? AND id<?)
            false => {
                [mark, "="].iter().any(|m| step.contains(&format!(" id{m}?")) || step.contains(&format!("(id{m}?")))
            }
        };
        if !plan.iter().any(is_looked_up) {
            missing.push(format!("{word} {mark} {}", after(place)));
        }
    }
    missing
}

/// PostgreSQL's indexes: the table and the columns of each, in order.
type Indexes = BTreeMap<String, (String, Vec<String>)>;

async fn indexes(raw: &Raw) -> Indexes {
    if !raw.is_postgres() {
        return Indexes::new();
    }
    let sql = "SELECT c.relname::text, t.relname::text, pg_get_indexdef(x.indexrelid, k.n, true) FROM pg_index x
               JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
               JOIN pg_namespace s ON s.oid = c.relnamespace AND s.nspname = 'public',
               LATERAL generate_series(1, x.indnkeyatts) AS k (n) ORDER BY 1, k.n";
    let mut found = Indexes::new();
    for row in raw.rows(sql).await {
        found.entry(row[0].clone()).or_insert((row[1].clone(), vec![])).1.push(row[2].clone());
    }
    found
}

async fn partial_indexes(raw: &Raw) -> Vec<String> {
    let sql = if raw.is_postgres() {
        "SELECT c.relname::text FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indpred IS NOT NULL"
    } else {
        "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'"
    };
    raw.column(sql).await
}

/// Explains every statement on one engine; answers what is wrong, in words.
async fn faults(engine: Engine) -> Vec<String> {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    fill(&raw, hub.app.now()).await;
    let on_postgres = raw.is_postgres();
    if on_postgres {
        // As after many calls on one connection: one plan for all values.
        raw.run("SET plan_cache_mode = force_generic_plan").await;
    }
    let all = columns(&raw).await;
    let types: BTreeMap<String, String> = all.values().flatten().cloned().collect();
    let grows = |table: &str| all.contains_key(table) && !SMALL.contains(&table);
    let partial = partial_indexes(&raw).await;
    let indexes = indexes(&raw).await;
    let other = if on_postgres { For::Sqlite } else { For::Postgres };
    let mut wrong = vec![];
    let mut all_of_them: Vec<Statement> = statements().into_iter().filter(|s| s.engine != other).collect();
    // One that has to be found, so that a filling or a plan that hides scans is found too.
    let text = "SELECT id FROM payments WHERE merchant_id = $1 AND description = $2".to_owned();
    all_of_them.push(Statement { place: "canary".into(), text, engine: For::Both, set: vec![] });
    for statement in &all_of_them {
        let flat = statement.text.split_whitespace().collect::<Vec<_>>().join(" ");
        // Questions to the engine itself, such as what time it is, name no table.
        let names_ours =
            Sql::of(&statement.text).scopes().iter().flat_map(|s| tables(s)).any(|u| all.contains_key(&u.table));
        if !names_ours || ALLOWED.iter().any(|(pattern, _)| flat.contains(pattern)) {
            continue;
        }
        let plan = match plan(&raw, statement, &types).await {
            Ok(plan) => plan,
            Err(error) => {
                wrong.push(format!("{}: cannot be explained on {engine:?}: {error}\n{flat}", statement.place));
                continue;
            }
        };
        let uses: Vec<_> = Sql::of(&statement.text).scopes().iter().flat_map(|s| tables(s)).collect();
        if uses.iter().any(|u| grows(&u.table)) {
            for missing in not_looked_up(statement, &plan, on_postgres) {
                let plan = plan.join("\n    ");
                let place = &statement.place;
                wrong.push(format!("{place}: {missing} is looked up in no index on {engine:?}\n{flat}\n    {plan}"));
            }
        }
        for table in scanned(statement, &plan, on_postgres, &partial, &indexes).iter().filter(|t| grows(t)) {
            let plan = plan.join("\n    ");
            wrong.push(format!("{}: scans {table} on {engine:?}\n{flat}\n    {plan}", statement.place));
        }
    }
    let canary = wrong.iter().position(|w| w.starts_with("canary")).expect("the canary is found");
    wrong.remove(canary);
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_scans_a_table_that_grows_on_sqlite() {
    let wrong = faults(Engine::Sqlite).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_scans_a_table_that_grows_on_postgres() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let wrong = faults(Engine::Postgres).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_cursor_that_is_only_a_filter_is_seen() {
    let check = |text: &str, plan: &str, on_postgres, expect: &[&str]| {
        let statement = Statement { place: String::new(), text: text.into(), engine: For::Both, set: vec![] };
        assert_eq!(not_looked_up(&statement, &[plan.to_owned()], on_postgres), expect, "{plan}");
    };
    let feed =
        "SELECT body FROM messages WHERE merchant_id = $1 AND ($2 IS NULL OR id > $2) AND id < $3 ORDER BY id LIMIT $4";
    check(feed, "    Index Cond: ((merchant_id = $1) AND (id < $3))", true, &["id > $2"]);
    check(feed, "    Index Cond: ((merchant_id = $1) AND (id > $2) AND (id < $3))", true, &[]);
    check(feed, "SEARCH messages USING PRIMARY KEY (merchant_id=?)", false, &["id > $2", "id < $3"]);
    check(feed, "SEARCH messages USING PRIMARY KEY (merchant_id=? AND id>? AND id<?)", false, &[]);
    let page = "SELECT d.id FROM deliveries d WHERE d.id >= $1 ORDER BY d.id DESC LIMIT 9";
    check(page, "    Filter: (id >= $1)", true, &["d.id > $1"]);
    check(page, "    Index Cond: (id >= $1)", true, &[]);
    check("SELECT id FROM payments WHERE id < $1 ORDER BY token", "SCAN payments", false, &[]);
}

#[test]
fn a_scan_is_seen_under_another_name() {
    let text = "SELECT p.id FROM payments p JOIN events ON events.payment_id = p.id".to_owned();
    let statement = Statement { place: String::new(), text, engine: For::Both, set: vec![] };
    let columns = ["merchant_id", "payer_id", "id"].map(str::to_owned).to_vec();
    let indexes = Indexes::from([("payments_by_payer".to_owned(), ("payments".to_owned(), columns))]);
    let check = |plan: &[&str], on_postgres, expect: &[&str]| {
        let plan: Vec<String> = plan.iter().map(|&step| step.to_owned()).collect();
        assert_eq!(scanned(&statement, &plan, on_postgres, &["jobs_due".into()], &indexes), expect, "{plan:?}");
    };
    check(&["SCAN p"], false, &["payments"]);
    check(&["SCAN p USING INDEX payments_by_payer"], false, &["payments"]);
    check(&["SEARCH p USING INDEX payments_by_payer (merchant_id=?)"], false, &["payments"]);
    check(&["SEARCH p USING INDEX payments_by_account (merchant_id=? AND account_id=?)"], false, &["payments"]);
    check(&["SEARCH p USING INDEX payments_by_payer (merchant_id=? AND payer_id=?)"], false, &[]);
    check(&["SCAN jobs USING INDEX jobs_due"], false, &[]);
    check(&["  ->  Seq Scan on payments p"], true, &["payments"]);
    check(&["  ->  Parallel Seq Scan on deliveries_2026_11 deliveries"], true, &["deliveries"]);
    let by_payer = "  ->  Index Scan using payments_by_payer on payments p";
    check(&[by_payer, "    Index Cond: ((merchant_id = $1) AND (payer_id = $2))"], true, &[]);
    check(&[by_payer, "    Index Cond: ((merchant_id = $1) AND (id = $2))"], true, &["payments"]);
    check(&[by_payer, "    Filter: (id = $2)"], true, &["payments"]);
    let by_bits = "  ->  Bitmap Index Scan on payments_by_payer";
    check(&[by_bits, "    Index Cond: (merchant_id = $1)"], true, &["payments"]);
    check(&[by_bits, "    Index Cond: ((merchant_id = $1) AND (payer_id = $2))"], true, &[]);
}
