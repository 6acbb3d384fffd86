//! Jobs: durable work, to be looked at, and to be tried again when it was set aside.

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Part;
use super::invoicing_accounts::Nothing;
use super::lists::{List, Sieve, page};
use crate::clock::rfc3339;
use crate::flows::FlowError;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::Job as Row;

pub(super) fn part() -> Part {
    Part::default().add(__path_list, list).add(__path_retry, retry)
}

/// A piece of durable work.
#[derive(Debug, Serialize, ToSchema)]
pub struct Job {
    /// `job_…`
    id: String,
    /// What is to be done: `issue_invoice`, `poll_status`, `tell_client` …
    kind: String,
    /// To which row: its id.
    subject: String,
    /// `ready`, `running` or `failed`.
    state: String,
    /// Not before (RFC 3339); of a running job: until when its run owns it.
    run_at: String,
    /// Runs begun so far.
    attempts: i64,
    /// Runs that ended without a word.
    crashes: i64,
    /// What went wrong last.
    last_error: Option<String>,
    /// RFC 3339.
    created_at: String,
}

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// `ready`, `running` or `failed`.
    state: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists jobs
///
/// Those about the other mode than the key's are left out.
#[utoipa::path(get, path = "/v1/jobs", tag = "operations", operation_id = "list_jobs",
    params(JobQuery), responses((status = 200, body = List<Job>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<JobQuery>,
) -> Result<Json<List<Job>>, Problem> {
    let page = page("job", query.limit, query.cursor.as_deref())?;
    if query.state.as_deref().is_some_and(|s| !["ready", "running", "failed"].contains(&s)) {
        return Err(Problem::field("state", "must be one of: ready, running, failed"));
    }
    let mut tx = web.app.store.read().await?;
    let mut sieve = Sieve::new(page);
    while let Some(page) = sieve.wanted() {
        let rows = tx.jobs(&caller.merchant, query.state.as_deref(), &page).await?;
        let subjects: Vec<&str> = rows.iter().map(|j| j.subject.as_str()).collect();
        let modes = tx.modes_of(&caller.merchant, &subjects).await?;
        sieve.take(rows, |j| &j.id, |j| caller.sees(modes.get(&j.subject)));
    }
    Ok(Json(sieve.list(view)))
}

/// Runs a job again that was set aside
///
/// When the cause is gone: the worker died or stalled on it again and again (`job.poison`), or it was given up. It goes on
/// where it was; what it may have done outside is looked up first, as after any crash. The alert about it closes.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "operations", operation_id = "retry_job",
    params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 200, body = Job), (status = "4XX", body = ProblemBody)))]
async fn retry(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<Nothing>,
) -> Result<Response, Problem> {
    let mut turn = post.mark.begin(&web.app).await?;
    let (tx, now) = (&mut turn.tx, web.app.now());
    let job = tx.job_set_aside(&caller.merchant, &id).await?.ok_or_else(Problem::not_found)?;
    let modes = tx.modes_of(&caller.merchant, &[&job.subject]).await?;
    if !caller.sees(modes.get(&job.subject)) {
        return Err(Problem::not_found());
    }
    let Some(revived) = tx.revive_job(&caller.merchant, &id, now).await? else {
        let detail = "another job of this kind about the same thing is at work";
        return Err(FlowError::conflict("job_is_live", detail).into());
    };
    tx.resolve_alert_by_key(&caller.merchant, &format!("job.poison:{id}"), now).await?;
    turn.end(&web.app, Answer::ok(&view(revived))).await
}

fn view(j: Row) -> Job {
    Job {
        id: j.id,
        kind: j.kind.word().to_owned(),
        subject: j.subject,
        state: j.state,
        run_at: rfc3339(j.run_at),
        attempts: j.attempts,
        crashes: j.crashes,
        last_error: j.last_error,
        created_at: rfc3339(j.created_at),
    }
}
