//! Notices: messages to people, and what became of them.

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Part;
use super::lists::{List, Sieve, page};
use crate::clock::rfc3339;
use crate::flows::resend_notice::resend_notice;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::Notice as Row;

pub(super) fn part() -> Part {
    Part::default().add(__path_list, list).add(__path_resend, resend)
}

/// A message to a person.
#[derive(Debug, Serialize, ToSchema)]
pub struct Notice {
    /// `ntc_…`
    id: String,
    /// The alert's code, or `invoice_ready`.
    kind: String,
    /// The alert it belongs to.
    alert: Option<String>,
    /// The payment it is about.
    payment: Option<String>,
    /// Address.
    recipient: String,
    /// Language it is written in.
    language: String,
    /// Subject line.
    subject: String,
    /// Text.
    body: String,
    /// Message-ID, the same at every try.
    message_id: String,
    /// `queued`, `sent` or `refused`.
    state: String,
    /// The mail server's words, when refused.
    detail: Option<String>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    sent_at: Option<String>,
}

/// Which notices.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NoticeQuery {
    /// About this payment.
    payment: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists notices
///
/// Those about the other mode than the key's are left out.
#[utoipa::path(get, path = "/v1/notices", tag = "alerts", operation_id = "list_notices",
    params(NoticeQuery), responses((status = 200, body = List<Notice>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<NoticeQuery>,
) -> Result<Json<List<Notice>>, Problem> {
    let page = page("ntc", query.limit, query.cursor.as_deref())?;
    let mut tx = web.app.store.read().await?;
    let mut sieve = Sieve::new(page);
    while let Some(page) = sieve.wanted() {
        let rows = tx.notices(&caller.merchant, query.payment.as_deref(), &page).await?;
        let ids: Vec<&str> = rows.iter().map(|n| n.id.as_str()).collect();
        let modes = tx.modes_of(&caller.merchant, &ids).await?;
        sieve.take(rows, |n| &n.id, |n| caller.sees(modes.get(&n.id)));
    }
    Ok(Json(sieve.list(view)))
}

/// A letter to be sent again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resend {
    /// Where to; when left out, the present address of whoever it is for: the case's expert, or what the payer's invoice
    /// data say.
    recipient: Option<String>,
}

/// Sends a notice again
///
/// When its address was corrected, or its reader lost it. The same words leave as a letter of its own; the alert that it
/// could not be delivered (`notice.undeliverable`) closes.
#[utoipa::path(post, path = "/v1/notices/{id}/resend", tag = "alerts", operation_id = "resend_notice",
    params(("id" = String, Path)), request_body = Option<Resend>,
    responses((status = 201, body = Notice), (status = "4XX", body = ProblemBody)))]
async fn resend(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<Resend>,
) -> Result<Response, Problem> {
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let found = tx.notice(&caller.merchant, &id).await?.ok_or_else(Problem::not_found)?;
    let modes = tx.modes_of(&caller.merchant, &[&id]).await?;
    if !caller.sees(modes.get(&id)) {
        return Err(Problem::not_found());
    }
    let again = resend_notice(&web.app, tx, &found, post.input.recipient.as_deref()).await?;
    turn.end(&web.app, Answer::created(&view(again))).await
}

fn view(n: Row) -> Notice {
    Notice {
        id: n.id,
        kind: n.kind,
        alert: n.alert_id,
        payment: n.payment_id,
        recipient: n.recipient,
        language: n.language,
        subject: n.subject,
        body: n.body,
        message_id: n.message_id,
        state: n.state,
        detail: n.detail,
        created_at: rfc3339(n.created_at),
        sent_at: n.sent_at.map(rfc3339),
    }
}
