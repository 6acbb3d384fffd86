//! `Idempotency-Key`: a POST that is sent again has one effect and one answer.
//!
//! The effect and the stored answer are written in one transaction, so a crash between them is impossible. Of two
//! calls at once with one key the second waits in the database and is then given the first one's answer. Keys belong to
//! a merchant and are kept for ever, their answers for `keep_answers_months`: a repeat that comes later is refused, and makes
//! nothing anew. Refusals are not kept: the corrected request may use the same key.

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use grosz_providers::sign::sha256_hex;
use serde::Serialize;
use serde_json::Value;

use super::auth::Caller;
use crate::app::App;
use crate::idempotency_key::idempotency_key;
use crate::problem::Problem;
use crate::seal::SealError;
use crate::store::{ANSWER_GONE, NewAnswer, StoreError, StoredAnswer, Tx};

/// What makes two POSTs the same: whose key it is, and what was asked under it.
#[derive(Debug, Clone)]
pub struct Mark(Option<Claim>);

#[derive(Debug, Clone)]
struct Claim {
    merchant: String,
    key: String,
    fingerprint: String,
}

impl Mark {
    /// Reads the header and takes the fingerprint of mode, method, address and parameters.
    ///
    /// # Errors
    /// The header is no key, or came twice.
    pub fn of(caller: &Caller, parts: &Parts, body: &[u8]) -> Result<Mark, Problem> {
        let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "bad_idempotency_key").detail(detail);
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let key = match (values.next(), values.next()) {
            (None, _) => return Ok(Mark(None)),
            (Some(_), Some(_)) => return Err(bad("Idempotency-Key must come once".into())),
            (Some(value), None) => {
                idempotency_key(value.to_str().unwrap_or_default()).map_err(|e| bad(e.to_string()))?
            }
        };
        // Parsed and written again, so that blanks and the order of fields do not count.
        let written = match serde_json::from_slice::<Value>(body) {
            Ok(value) => value.to_string(),
            Err(_) => "{}".to_owned(),
        };
        let address = parts.uri.path_and_query().map_or("", |p| p.as_str());
        // A key of the test mode does not find what a live one made.
        let mode = if caller.live { "live" } else { "test" };
        let fingerprint = sha256_hex(format!("{mode} {} {address}\n{written}", parts.method).as_bytes());
        Ok(Mark(Some(Claim { merchant: caller.merchant.clone(), key, fingerprint })))
    }

    /// The answer given before to this very request, if there is one.
    ///
    /// # Errors
    /// The key was used for something else, its answer is no longer kept or cannot be opened, or the database.
    pub async fn answered(&self, app: &App) -> Result<Option<Response>, Problem> {
        if self.0.is_none() {
            return Ok(None);
        }
        self.answered_in(app, &mut app.store.read().await?).await
    }

    /// Like [`Mark::answered`], within a transaction.
    ///
    /// # Errors
    /// The key was used for something else, its answer is no longer kept, or the database.
    pub async fn answered_in(&self, app: &App, tx: &mut Tx) -> Result<Option<Response>, Problem> {
        let Some(claim) = &self.0 else { return Ok(None) };
        let stored = tx.stored_answer(&claim.merchant, &claim.key).await?;
        let Some(StoredAnswer { fingerprint, status, body }) = stored else { return Ok(None) };
        if fingerprint != claim.fingerprint {
            let detail = "this Idempotency-Key was used with another method, address, body or mode; use a new one";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_mismatch").detail(detail));
        }
        if status == ANSWER_GONE {
            let made = if body.is_empty() { "something" } else { &body };
            let detail = format!(
                "this request made {made} long ago; its answer is no longer kept, and nothing was made anew; for a new one use a new Idempotency-Key"
            );
            return Err(Problem::new(StatusCode::CONFLICT, "idempotency_answer_gone").detail(detail));
        }
        let status = u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok());
        let body = if body.starts_with('{') { body } else { claim.open(app, &body)? };
        let mut answer = respond(status.unwrap_or(StatusCode::OK), body);
        let name = HeaderName::from_static("idempotent-replayed");
        answer.headers_mut().insert(name, HeaderValue::from_static("true"));
        Ok(Some(answer))
    }

    /// The key with its merchant, for reading ahead.
    pub fn key(&self) -> Option<&str> {
        self.0.as_ref().map(|claim| claim.key.as_str())
    }

    /// Keeps the answer in the transaction of its effect, which has a book.
    ///
    /// # Errors
    /// The database.
    pub async fn keep(&self, tx: &mut Tx, answer: &Answer, now: i64) -> Result<(), StoreError> {
        let Some(claim) = &self.0 else { return Ok(()) };
        let status = i64::from(answer.status.as_u16());
        let kept = StoredAnswer { fingerprint: claim.fingerprint.clone(), status, body: answer.body.clone() };
        let (merchant_id, key) = (claim.merchant.clone(), claim.key.clone());
        tx.add_answer(NewAnswer { merchant_id, key, answer: kept, created_at: now }).await
    }

    /// Begins the transaction of a POST's effect and claims its key there.
    ///
    /// # Errors
    /// Another call had the key until this moment: the same request again finds its answer (the layer around the API
    /// repeats it). Or the database.
    pub async fn begin(&self, app: &App) -> Result<Turn, Problem> {
        let mut tx = app.store.begin().await?;
        if let Some(claim) = &self.0 {
            let now = app.now();
            if !tx.claim_idempotency_key(&claim.merchant, &claim.key, &claim.fingerprint, now).await? {
                return Err(StoreError::Conflict.into());
            }
        }
        Ok(Turn { tx, claim: self.0.clone() })
    }
}

/// The transaction of one POST. Dropped without [`Turn::end`], nothing happened and the key is free.
pub struct Turn {
    /// Where the effect is written.
    pub tx: Tx,
    claim: Option<Claim>,
}

impl Turn {
    /// Stores the answer, commits both, and answers.
    ///
    /// # Errors
    /// The database.
    pub async fn end(mut self, app: &App, answer: Answer) -> Result<Response, Problem> {
        if let Some(claim) = &self.claim {
            let kept = if answer.is_secret { claim.seal(app, &answer.body)? } else { answer.body.clone() };
            let status = i64::from(answer.status.as_u16());
            self.tx.store_answer(&claim.merchant, &claim.key, status, &kept).await?;
        }
        self.tx.commit().await?;
        // Whatever was enqueued need not wait for the worker's next look.
        app.job_bell.notify_one();
        Ok(respond(answer.status, answer.body))
    }
}

impl Claim {
    fn place(&self) -> String {
        format!("idempotency_keys.body/{}/{}", self.merchant, self.key)
    }

    fn seal(&self, app: &App, body: &str) -> Result<String, Problem> {
        app.sealer.seal(body, &self.place()).map_err(|_| Problem::internal())
    }

    fn open(&self, app: &App, sealed: &str) -> Result<String, Problem> {
        match app.sealer.open(sealed, &self.place()) {
            Ok(plain) => Ok(plain.expose().to_owned()),
            Err(SealError::UnknownKey) => {
                let detail = "this request was carried out before; its answer held a secret and is sealed with a master key \
                              that the hub no longer has, and nothing was made anew; for a new one use a new Idempotency-Key";
                Err(Problem::conflict("idempotency_answer_gone", detail))
            }
            Err(_) => Err(Problem::internal()),
        }
    }
}

/// What a POST is answered with.
pub struct Answer {
    status: StatusCode,
    body: String,
    is_secret: bool,
}

impl Answer {
    /// An answer of that status.
    pub fn new(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).unwrap_or_default();
        Answer { status, body, is_secret: false }
    }

    /// 201 with what was made.
    pub fn created(body: &impl Serialize) -> Self {
        Answer::new(StatusCode::CREATED, body)
    }

    /// 200.
    pub fn ok(body: &impl Serialize) -> Self {
        Answer::new(StatusCode::OK, body)
    }

    /// The body holds a secret that is shown once: it is kept encrypted.
    #[must_use]
    pub fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        respond(self.status, self.body)
    }
}

fn respond(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
