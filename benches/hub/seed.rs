//! Rows in bulk. The hub itself makes one payment through its API; its rows are then copied with other ids, so that a
//! seeded row has every column as the hub writes it, whatever columns there are by now.

use ulid::Ulid;

use crate::cluster::Db;

/// Rows of one batch: ids and references are a batch's ten first characters and a number in sixteen hex digits.
#[derive(Debug, Clone)]
pub struct Batch {
    stamp: String,
    /// The first number.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// What is copied.
pub struct Template<'a> {
    /// Owner.
    pub merchant: &'a str,
    /// The payment.
    pub payment: &'a str,
}

impl Batch {
    /// The reference (or the id without its kind) of the row `n` of this batch.
    pub fn name(&self, n: u64) -> String {
        format!("{}{:016X}", self.stamp, self.first + n)
    }

    /// All of them.
    pub fn names(&self) -> Vec<String> {
        (0..self.count).map(|n| self.name(n)).collect()
    }
}

/// Numbers rows over the whole run.
#[derive(Default)]
pub struct Seeder {
    next: u64,
}

/// Payments of one payer, where there are several payers.
pub const PAYMENTS_A_PAYER: u64 = 20;

/// Rows in one transaction: SQLite's hub must not wait long for its turn.
const CHUNK: u64 = 20_000;

impl Seeder {
    /// Reserves ids that sort after everything made so far.
    pub fn reserve(&mut self, count: u64) -> Batch {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let ulid = Ulid::from_parts(u64::try_from(now.as_millis()).unwrap_or(0), 0).to_string();
        let batch = Batch { stamp: ulid[..10].to_owned(), first: self.next, count };
        self.next += count;
        batch
    }

    /// Copies a payer.
    pub async fn payers(&mut self, db: &mut Db, merchant: &str, payer: &str, count: u64) -> Batch {
        let batch = self.reserve(count);
        let token = db.pick("lower(hex(randomblob(16)))", "replace(gen_random_uuid()::text, '-', '')").to_owned();
        let itself = format!("t.merchant_id = '{merchant}' AND t.id = '{payer}'");
        copy(db, &batch, "payers", &itself, &[("id", "{pyr}"), ("portal_token", &token)]).await;
        batch
    }

    /// Copies a payment with all that was written when it was made: its attempt, transition, job and message. Its payer is
    /// the same, or of `payers` each has [`PAYMENTS_A_PAYER`].
    pub async fn payments(
        &mut self,
        db: &mut Db,
        template: &Template<'_>,
        count: u64,
        payers: Option<&Batch>,
    ) -> Batch {
        let batch = self.reserve(count);
        let (merchant, payment) = (template.merchant, template.payment);
        let of_payment = format!("t.merchant_id = '{merchant}' AND t.payment_id = '{payment}'");
        let its_attempt = format!(
            "t.merchant_id = '{merchant}' AND t.subject = (SELECT id FROM attempts
             WHERE merchant_id = '{merchant}' AND payment_id = '{payment}')"
        );
        // Looked up once: its subject may be in no index, and the copies would be looked through for each of them.
        let subject = format!("SELECT id FROM messages WHERE merchant_id = '{merchant}' AND subject = '{payment}'");
        let its_message = format!("t.merchant_id = '{merchant}' AND t.id = '{}'", db.text(&subject).await);
        let itself = format!("t.merchant_id = '{merchant}' AND t.id = '{payment}'");
        let token = db.pick("lower(hex(randomblob(16)))", "replace(gen_random_uuid()::text, '-', '')").to_owned();
        let body = format!("replace(t.body, '{payment}', {{pay}})");
        let mut changed = vec![("id", "{pay}"), ("token", token.as_str())];
        let theirs = payers.map(|p| {
            let number = format!("({} + (s.n - {}) / {PAYMENTS_A_PAYER})", p.first, batch.first);
            let digits = db.pick("printf('%016X', {n})", "upper(lpad(to_hex({n}), 16, '0'))").replace("{n}", &number);
            format!("'pyr_{}' || {digits}", p.stamp)
        });
        changed.extend(theirs.as_ref().map(|text| ("payer_id", text.as_str())));
        // What lists show is kept with the payment as text, ids and all.
        let of_attempt = |column: &str| {
            format!("(SELECT {column} FROM attempts WHERE merchant_id = '{merchant}' AND payment_id = '{payment}')")
        };
        let mut glance = format!("replace(t.glance, '{payment}', {{pay}})");
        for (old, new) in [(of_attempt("id"), "{att}"), (of_attempt("reference"), "{bare}")] {
            glance = format!("replace({glance}, {old}, {new})");
        }
        if let Some(theirs) = &theirs {
            glance = format!("replace({glance}, t.payer_id, {theirs})");
        }
        changed.push(("glance", &glance));
        copy(db, &batch, "payments", &itself, &changed).await;
        let attempt = [("id", "{att}"), ("payment_id", "{pay}"), ("reference", "{bare}")];
        copy(db, &batch, "attempts", &of_payment, &attempt).await;
        copy(db, &batch, "transitions", &of_payment, &[("id", "{trn}"), ("payment_id", "{pay}")]).await;
        copy(db, &batch, "jobs", &its_attempt, &[("id", "{job}"), ("subject", "{att}")]).await;
        copy(db, &batch, "messages", &its_message, &[("id", "{msg}"), ("subject", "{pay}"), ("body", &body)]).await;
        batch
    }
}

/// Copies the one row of `table` that fits, once for each number of the batch. In the values of `changed`, `{pay}`
/// stands for an id of that kind and `{bare}` for one without a kind.
pub async fn copy(db: &mut Db, batch: &Batch, table: &str, fits: &str, changed: &[(&str, &str)]) {
    let columns = db.columns(table).await;
    let found = db.number(&format!("SELECT COUNT(*) FROM {table} t WHERE {fits}")).await;
    assert!(found <= 1, "{found} rows to copy in {table} where {fits}");
    if found == 0 {
        // The hub writes none there.
        return;
    }
    let bare = format!("'{}' || {}", batch.stamp, db.pick("printf('%016X', s.n)", "upper(lpad(to_hex(s.n), 16, '0'))"));
    let value = |column: &String| match changed.iter().find(|(name, _)| name == column) {
        None => format!("t.{column}"),
        Some((_, text)) => spell(text, &bare),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    let (columns, values) = (columns.join(", "), values.join(", "));
    for chunk in 0..batch.count.div_ceil(CHUNK) {
        let from = batch.first + chunk * CHUNK;
        let to = (from + CHUNK).min(batch.first + batch.count) - 1;
        let series = match db {
            Db::Sqlite(_) => format!(
                "WITH RECURSIVE s(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM s WHERE n < {to})
                 INSERT INTO {table} ({columns}) SELECT {values} FROM s CROSS JOIN {table} t WHERE {fits}"
            ),
            Db::Postgres(_) => format!(
                "INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series({from}::bigint, {to}) AS s(n)
                 CROSS JOIN {table} t WHERE {fits}"
            ),
        };
        db.run(&series).await;
    }
}

/// `{pay}` becomes `('pay_' || …)`.
fn spell(text: &str, bare: &str) -> String {
    let mut spelled = text.replace("{bare}", &format!("({bare})"));
    for kind in ["pay", "att", "trn", "job", "msg", "tel", "pyr"] {
        spelled = spelled.replace(&format!("{{{kind}}}"), &format!("('{kind}_' || {bare})"));
    }
    spelled
}
