//! Why is it in this state? Everything that is known about one payment, in order of time.

use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Part;
use super::payments::find;
use crate::clock::rfc3339;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::{Job, Payment, Tx};

pub(super) fn part() -> Part {
    Part::default().add(__path_show, show)
}

/// A payment's history.
#[derive(Debug, Serialize, ToSchema)]
pub struct Timeline {
    /// The payment.
    payment: String,
    /// What happened, the oldest first.
    data: Vec<Entry>,
}

/// One thing that happened, or a job that is to happen.
#[derive(Debug, Serialize, ToSchema)]
pub struct Entry {
    /// RFC 3339.
    at: String,
    /// `transition`, `attempt`, `event`, `refund`, `dispute`, `invoice`, `job`, `alert`, `notice`, `message`.
    kind: &'static str,
    /// Id of the row it is about.
    id: String,
    /// In a few words.
    summary: String,
    /// The row itself; its fields depend on the kind.
    #[schema(value_type = Object)]
    details: Value,
    #[serde(skip)]
    micros: i64,
}

/// Shows everything known about a payment, in order of time
#[utoipa::path(get, path = "/v1/payments/{id}/timeline", tag = "payments", operation_id = "get_timeline",
    params(("id" = String, Path, description = "The payment")),
    responses((status = 200, body = Timeline), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Json<Timeline>, Problem> {
    let mut tx = web.app.store.read().await?;
    let payment = find(&mut tx, &caller, &id).await?;
    let data = entries(&mut tx, &payment).await?;
    Ok(Json(Timeline { payment: payment.id, data }))
}

/// Gathers the rows of all tables that know the payment.
pub(crate) async fn entries(tx: &mut Tx, p: &Payment) -> Result<Vec<Entry>, Problem> {
    let mut all = Gathered::default();
    let (merchant, id) = (&p.merchant_id, &p.id);
    for t in tx.transitions(merchant, id).await? {
        let from = t.from.as_deref().unwrap_or("nothing");
        let summary = format!("status {from} → {} by {}", t.to, t.cause);
        let details = json!({"from": t.from, "to": t.to, "reason": t.reason, "cause": t.cause, "cause_id": t.cause_id});
        all.add(t.at, "transition", t.id, summary, details);
    }
    for a in tx.attempts(merchant, id).await? {
        all.jobs(tx.jobs_about(merchant, &a.id).await?);
        let summary = format!("attempt {} at {}, now {}", a.no, a.provider_account_id, a.state);
        let details = json!({"no": a.no, "state": a.state, "reference": a.reference, "gateway_ref": a.gateway_ref,
            "provider_account": a.provider_account_id, "expires_at": rfc3339(a.expires_at)});
        all.add(a.created_at, "attempt", a.id, summary, details);
    }
    for e in tx.events_of_payment(merchant, id).await? {
        all.jobs(tx.jobs_about(merchant, &e.id).await?);
        let summary = format!("{} by {}: {} ({})", e.event.kind.word(), e.origin, e.state, e.event.detail);
        let details = json!({"event": e.event.kind.word(), "origin": e.origin, "state": e.state,
            "delivery": e.delivery_id, "attempt": e.attempt_id, "detail": e.event.detail,
            "gateway_ref": e.event.gateway_ref, "amount": e.event.amount, "body_sha256": e.body_sha256});
        all.add(e.created_at, "event", e.id, summary, details);
    }
    let mut subjects = vec![id.clone()];
    for r in tx.refunds(merchant, id).await? {
        all.jobs(tx.jobs_about(merchant, &r.id).await?);
        subjects.push(r.id.clone());
        let details = json!({"amount": r.amount, "state": r.state, "reason": r.reason, "gateway_ref": r.gateway_ref,
            "detail": r.detail, "updated_at": rfc3339(r.updated_at)});
        all.add(r.created_at, "refund", r.id, format!("refund of {}, now {}", r.amount, r.state), details);
    }
    for d in tx.disputes(merchant, id).await? {
        let details = json!({"gateway_ref": d.gateway_ref, "status": d.status, "closed": d.closed, "lost": d.lost,
            "amount": d.amount, "currency": d.currency, "due_by": d.due_by.map(rfc3339)});
        all.add(d.created_at, "dispute", d.id, format!("dispute, now {}", d.status), details);
    }
    if let Some(i) = tx.invoice_of_payment(merchant, id).await? {
        all.jobs(tx.jobs_about(merchant, &i.id).await?);
        let details = json!({"state": i.state.word(), "attempts": i.attempts, "generation": i.generation,
            "external_key": i.external_key, "number": i.number, "first_sent_at": i.first_sent_at.map(rfc3339),
            "unknown_since": i.unknown_since.map(rfc3339), "issued_at": i.issued_at.map(rfc3339),
            "last_failure": i.last_class, "last_code": i.last_code, "last_message": i.last_message});
        all.add(i.created_at, "invoice", i.id.clone(), format!("invoice ordered, now {}", i.state), details);
        if let Some(at) = i.issued_at {
            let number = i.number.as_deref().unwrap_or("without a number");
            all.add(at, "invoice", i.id, format!("invoice issued: {number}"), json!({"number": number}));
        }
    }
    all.people(tx, p).await?;
    for subject in subjects {
        for m in tx.messages_about(merchant, &subject).await? {
            let mut ways = vec![];
            for t in tx.tellings_of(merchant, &m.id).await? {
                all.jobs(tx.jobs_about(merchant, &t.id).await?);
                ways.push(json!({"endpoint": t.endpoint_id, "state": t.state, "attempts": t.attempts,
                    "last_status": t.last_status, "last_error": t.last_error}));
            }
            let details = json!({"type": m.kind, "deliveries": ways});
            all.add(m.created_at, "message", m.id, format!("told clients {}", m.kind), details);
        }
    }
    Ok(all.in_order())
}

#[derive(Default)]
struct Gathered(Vec<Entry>);

impl Gathered {
    fn add(&mut self, micros: i64, kind: &'static str, id: String, summary: String, details: Value) {
        self.0.push(Entry { at: rfc3339(micros), kind, id, summary, details, micros });
    }

    fn jobs(&mut self, jobs: Vec<Job>) {
        for j in jobs {
            let next = (j.state == "ready").then(|| rfc3339(j.run_at));
            let summary = match &next {
                Some(at) => format!("job {} waits until {at}", j.kind),
                None => format!("job {} is {}", j.kind, j.state),
            };
            let details = json!({"job": j.kind.word(), "subject": j.subject, "state": j.state, "attempts": j.attempts,
                "next_run_at": next, "last_error": j.last_error});
            self.add(j.created_at, "job", j.id, summary, details);
        }
    }

    async fn people(&mut self, tx: &mut Tx, p: &Payment) -> Result<(), Problem> {
        let page = crate::store::Page { before: None, limit: 1000 };
        for a in tx.alerts(&p.merchant_id, Some(&p.id), false, &page).await? {
            let details = json!({"code": a.code, "reason": a.reason, "next_step": a.next_step, "expert": a.expert_id,
                "resolved_at": a.resolved_at.map(rfc3339)});
            self.add(a.opened_at, "alert", a.id, format!("alert {}: {}", a.code, a.reason), details);
        }
        for n in tx.notices(&p.merchant_id, Some(&p.id), &page).await? {
            self.jobs(tx.jobs_about(&p.merchant_id, &n.id).await?);
            let details = json!({"notice": n.kind, "recipient": n.recipient, "state": n.state, "alert": n.alert_id,
                "message_id": n.message_id, "sent_at": n.sent_at.map(rfc3339), "detail": n.detail});
            self.add(n.created_at, "notice", n.id, format!("notice to {}: {}", n.recipient, n.state), details);
        }
        Ok(())
    }

    /// By time; within one instant as the things follow from each other.
    fn in_order(mut self) -> Vec<Entry> {
        self.0.sort_by(|a, b| (a.micros, rank(a.kind), &a.id).cmp(&(b.micros, rank(b.kind), &b.id)));
        self.0
    }
}

fn rank(kind: &str) -> usize {
    const ORDER: [&str; 10] =
        ["event", "transition", "attempt", "refund", "dispute", "invoice", "alert", "notice", "message", "job"];
    ORDER.iter().position(|k| *k == kind).unwrap_or(ORDER.len())
}
