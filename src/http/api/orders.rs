//! Payments are started in slices: calls that wait at the same time share one commit, each with its own effect, its own
//! answer and its own idempotency key.

use axum::response::{IntoResponse, Response};

use super::payments::look_up;
use crate::app::App;
use crate::flows::FlowError;
use crate::flows::start_checkout::{NewPayment, create_payment};
use crate::http::auth::Caller;
use crate::http::idempotency::{Answer, Mark};
use crate::intake::Sliced;
use crate::problem::Problem;
use crate::store::{SoughtOrder, StoreError, Tx};

/// One call that starts a payment.
pub struct Called {
    /// Who calls.
    pub caller: Caller,
    /// What is wanted.
    pub order: NewPayment,
    /// Its idempotency key.
    pub mark: Mark,
}

/// Orders of payments are done in slices.
pub struct Orders;

impl Sliced for Orders {
    type Call = Called;
    type Answer = Result<Response, Problem>;
    const NAME: &'static str = "orders";
    const KIND: usize = 1;

    fn about(call: &Called) -> &str {
        // One case, or one key, one committer.
        call.order.case.as_deref().or(call.mark.key()).unwrap_or_default()
    }

    fn weight(call: &Called) -> usize {
        let lines = call.order.lines.as_ref().map_or(0, Vec::len);
        2048 + 512 * lines
    }

    fn can_do_without_locks(call: &Called) -> bool {
        // What an order of a case finds must stay so: its case is locked.
        call.order.case.is_none()
    }

    async fn act(app: &App, tx: &mut Tx, slice: &[Called]) -> Result<Vec<Self::Answer>, FlowError> {
        let sought = slice.iter().map(|Called { caller, order, mark }| SoughtOrder {
            merchant: &caller.merchant,
            key: mark.key(),
            payer: order.payer.as_deref(),
            case: order.case.as_deref(),
        });
        let sought: Vec<SoughtOrder<'_>> = sought.collect();
        tx.read_orders_ahead(&sought).await?;
        let mut answers = Vec::with_capacity(slice.len());
        for order in slice {
            let before = tx.mark();
            match start(app, tx, order).await {
                // The whole slice begins anew, or fails.
                Err(Refusal::Store(error)) => return Err(error.into()),
                Err(Refusal::Problem(problem)) => {
                    tx.take_back(&before);
                    answers.push(Err(problem));
                }
                Ok(answer) => answers.push(Ok(answer)),
            }
        }
        Ok(answers)
    }
}

/// Why an order was not done.
enum Refusal {
    Store(StoreError),
    Problem(Problem),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Refusal::Store(error)
    }
}

impl From<FlowError> for Refusal {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Store(error) => Refusal::Store(error),
            other => Refusal::Problem(other.into()),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Refusal::Problem(problem)
    }
}

/// One order of a slice.
async fn start(app: &App, tx: &mut Tx, Called { caller, order, mark }: &Called) -> Result<Response, Refusal> {
    if let Some(before) = mark.answered_in(app, tx).await? {
        return Ok(before);
    }
    let merchant = tx.merchant(&caller.merchant).await?.ok_or_else(Problem::not_found)?;
    let running = match &order.case {
        Some(case) => {
            // Locked before the look, so that what is found is what the flow finds.
            tx.case_for_update(&caller.merchant, case).await?;
            tx.started_payment_of_case(&caller.merchant, case).await?
        }
        None => None,
    };
    let payment = create_payment(app, tx, &merchant, caller.live, order.clone()).await?;
    let is_old = running.is_some_and(|p| p.id == payment.id);
    let known = look_up(tx, payment).await?;
    let shown = known.show(app);
    let answer = if is_old { Answer::ok(&shown) } else { Answer::created(&shown) };
    mark.keep(tx, &answer, app.now()).await?;
    Ok(answer.into_response())
}
