//! The contract of a payment gateway: facts, `start`, `read`, `reply`, and what may be unsupported.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::facts::{ProviderFacts, Settings, SettingsError};
use crate::money::Money;
use crate::twin::GatewayTwin;
use crate::wire::{Headers, Http, HttpError};

/// What a provider is given for a call to the outside.
pub struct Cx<'a> {
    /// The account's settings, checked against the provider's facts.
    pub settings: &'a Settings,
    /// Sends requests.
    pub http: &'a dyn Http,
    /// The hub's time.
    pub now: Timestamp,
    /// True when the account moves real money.
    pub live: bool,
}

/// A gateway. All methods are free of side effects but for the calls they make through [`Cx::http`].
#[async_trait]
pub trait Provider: Send + Sync {
    /// What the gateway is and can do.
    fn facts(&self) -> &'static ProviderFacts;

    /// Checks what the facts cannot say (one setting that depends on another, or on whether the account's money is real).
    /// Called after [`Settings::check`].
    ///
    /// # Errors
    /// The setting that is wrong.
    fn check(&self, settings: &Settings, currency: Option<crate::Currency>, live: bool) -> Result<(), SettingsError> {
        let _ = (settings, currency, live);
        Ok(())
    }

    /// Whether a checkout of this amount can be begun at all, where the limits of the facts do not say it.
    ///
    /// # Errors
    /// [`CallError::Invalid`] with the reason.
    fn check_amount(&self, amount: crate::Money) -> Result<(), CallError> {
        let _ = amount;
        Ok(())
    }

    /// Begins one checkout; answers where to send the payer. Repeating it with the same
    /// [`Checkout::reference`] must not create a second thing to pay, or must end in [`CallError::Unknown`]. What nobody
    /// was given the way to is none.
    async fn start(&self, cx: &Cx<'_>, checkout: &Checkout) -> Result<Redirect, CallError>;

    /// Reads one webhook call: signature first, over the raw bytes, then meaning. Pure and synchronous. A status that
    /// is not known becomes [`EventKind::Unknown`], never a success.
    fn read(&self, settings: &Settings, delivery: &Delivery) -> Result<Reading, ReadError>;

    /// The exact acknowledgement the gateway waits for.
    fn reply(&self, settings: &Settings, verdict: &Verdict<'_>) -> Reply;

    /// True when the payer's return carries a right signature, `None` when this gateway signs no returns. Proves
    /// nothing about the payment.
    fn check_return(&self, settings: &Settings, query: &[(String, String)]) -> Option<bool> {
        let _ = (settings, query);
        None
    }

    /// Asks the gateway about an attempt.
    async fn status(&self, cx: &Cx<'_>, attempt: &AttemptRef) -> Result<StatusReport, CallError> {
        let _ = (cx, attempt);
        Err(CallError::Unsupported)
    }

    /// Closes an open checkout, so that it can no longer be paid.
    async fn cancel(&self, cx: &Cx<'_>, attempt: &AttemptRef) -> Result<(), CallError> {
        let _ = (cx, attempt);
        Err(CallError::Unsupported)
    }

    /// Orders a refund. The order's id is the idempotency key: ordering it twice refunds once.
    async fn refund(&self, cx: &Cx<'_>, order: &RefundOrder) -> Result<RefundReport, CallError> {
        let _ = (cx, order);
        Err(CallError::Unsupported)
    }

    /// Asks what became of a refund.
    async fn refund_status(&self, cx: &Cx<'_>, order: &RefundOrder) -> Result<RefundReport, CallError> {
        let _ = (cx, order);
        Err(CallError::Unsupported)
    }

    /// Asks which refunds there are of the payment that an order is about, whoever made them; each in the words of its
    /// webhook.
    async fn refunds(&self, cx: &Cx<'_>, order: &RefundOrder) -> Result<Vec<Event>, CallError> {
        let _ = (cx, order);
        Err(CallError::Unsupported)
    }

    /// A fresh simulated gateway that speaks this protocol from the other side.
    fn twin(&self) -> Option<Box<dyn GatewayTwin>> {
        None
    }
}

/// One checkout to begin.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Checkout {
    /// Our name for the attempt at the gateway: 4 to 32 of `[A-Za-z0-9_-]`, unique for ever, never reused.
    pub reference: String,
    /// What is to be paid.
    pub amount: Money,
    /// One line for the payer, any script, at most 200 characters.
    pub description: String,
    /// The payer's address for the gateway's mails.
    pub email: String,
    /// The payer's name, when known.
    #[serde(default)]
    pub name: Option<String>,
    /// Language of the payer's pages, ISO 639-1, small letters.
    pub language: String,
    /// The payer's network address, when known.
    #[serde(default)]
    pub ip: Option<String>,
    /// Where the gateway sends the payer afterwards.
    pub return_url: String,
    /// Where the gateway sends a payer who gave up; may equal `return_url`.
    pub cancel_url: String,
    /// Where the gateway shall report, for gateways that are told per checkout.
    pub webhook_url: String,
    /// After this the checkout must not be payable.
    pub expires_at: Timestamp,
}

/// Where to send the payer.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Redirect {
    /// Answer 303 to this address.
    Url {
        /// Absolute address at the gateway.
        url: String,
        /// The gateway's name for the checkout, when it gave one.
        gateway_ref: Option<String>,
        /// When the address stops working, when the gateway said so.
        expires_at: Option<Timestamp>,
    },
    /// Answer a page whose form submits itself by POST.
    Form {
        /// Absolute address at the gateway.
        action: String,
        /// Fields, in the order in which they were signed.
        fields: Vec<(String, String)>,
    },
}

/// One inbound webhook call, as received.
#[derive(Debug, Clone)]
pub struct Delivery<'a> {
    /// Headers with lower-case names.
    pub headers: &'a Headers,
    /// The query, without `?`.
    pub query: &'a str,
    /// The raw body.
    pub body: &'a [u8],
    /// When it came; `None` when a call that was taken in is read again: it was fresh then, and its age no longer counts.
    pub received_at: Option<Timestamp>,
}

/// What a delivery says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its events; empty when it is authentic and means nothing to us.
    pub events: Vec<Event>,
    /// What [`Provider::reply`] needs of the delivery; opaque to the hub.
    pub echo: String,
}

/// Why a delivery cannot be used. Nothing of it may touch any state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not the shape this gateway sends.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The signature is missing or wrong, the stamp is out of tolerance, or it addresses another account.
    #[error("refused: {why}")]
    Forged {
        /// A short word for the counter: `mismatch`, `too_old`, `missing`.
        why: &'static str,
        /// What [`Provider::reply`] needs for a refusal in the scheme's own form; opaque to the hub.
        echo: String,
    },
}

/// How an event names the attempt it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// By [`Checkout::reference`].
    Ours(String),
    /// By a name the gateway gave: the checkout's or the payment's.
    Gateway(String),
}

/// The verified meaning of a delivery or of a status answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Identity within the account: two events with one key are the same event.
    pub key: String,
    /// What happened.
    pub kind: EventKind,
    /// Which attempt.
    pub reference: Reference,
    /// The merchant's account as the message names it; compared with the account's setting by the hub.
    pub account: Option<String>,
    /// Test or live, where the message says so; compared by the hub.
    pub live: Option<bool>,
    /// The amount the message speaks of; `Paid` without it is refused by the hub.
    pub amount: Option<Money>,
    /// The gateway's name for the payment (Autopay's `remoteID`, Stripe's PaymentIntent): two `Paid` with different
    /// names are two payments.
    pub gateway_ref: Option<String>,
    /// The gateway's own words for the status, for people: `SUCCESS/AUTHORIZED`.
    pub detail: String,
    /// When it happened, by the gateway's clock. Shown, never used for ordering (F17).
    pub at: Option<Timestamp>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// Under way.
    Pending,
    /// The money is the merchant's.
    Paid,
    /// This try came to nothing.
    Failed {
        /// Why.
        reason: FailReason,
    },
    /// A refund moved. [`Event::amount`] is the refund's.
    Refund {
        /// [`RefundOrder::id`] when the refund is one of ours and the gateway repeats it.
        order: Option<String>,
        /// The gateway's name for the refund.
        gateway_ref: String,
        /// Where it stands.
        state: RefundState,
    },
    /// A dispute (chargeback, inquiry) moved. [`Event::amount`] is the disputed one.
    Dispute {
        /// The gateway's name for the dispute.
        gateway_ref: String,
        /// The gateway's word: `needs_response`, `won`.
        status: String,
        /// True when it is over.
        closed: bool,
        /// Until when an answer is possible.
        due_by: Option<Timestamp>,
        /// It goes on although it was over (an appeal). Without that, news of an open dispute that come after its end are old.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reopens: bool,
        /// The gateway gives the money back on order all the same: an inquiry moved none.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refundable: bool,
        /// It ended for the payer, who keeps the disputed amount.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lost: bool,
    },
    /// A saved instrument was made, changed or switched off; `handle` is secret-like.
    Instrument {
        /// The gateway's handle for later charges.
        handle: String,
        /// False when it was switched off.
        active: bool,
    },
    /// Authentic and understood, without meaning for the payment (a settlement, an unused type).
    Note,
    /// Authentic, with a status nobody told us about: parked for a person, never a success.
    Unknown,
}

impl EventKind {
    /// One word for logs, metrics and pages.
    pub fn word(&self) -> &'static str {
        match self {
            EventKind::Pending => "pending",
            EventKind::Paid => "paid",
            EventKind::Failed { .. } => "failed",
            EventKind::Refund { .. } => "refund",
            EventKind::Dispute { .. } => "dispute",
            EventKind::Instrument { .. } => "instrument",
            EventKind::Note => "note",
            EventKind::Unknown => "unknown",
        }
    }
}

/// Why a try came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// The payer gave up.
    Cancelled,
    /// The bank or the gateway said no.
    Declined,
    /// Its time ran out.
    Expired,
    /// Anything else.
    Technical,
}

impl FailReason {
    /// The word kept in `status_reason`.
    pub fn word(self) -> &'static str {
        match self {
            FailReason::Cancelled => "cancelled",
            FailReason::Declined => "declined",
            FailReason::Expired => "expired",
            FailReason::Technical => "technical",
        }
    }
}

/// What became of one event, decided and committed by the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Recorded; it moved a state or it meant nothing new.
    Recorded,
    /// Recorded, but amount, currency or account differ from what was started: no state moved.
    Mismatch,
    /// Recorded, but the attempt is not known (yet): kept and tried again for a window.
    UnknownAttempt,
}

/// What the hub made of a delivery, for [`Provider::reply`].
#[derive(Debug, Clone)]
pub enum Verdict<'a> {
    /// Committed. One outcome per event of the reading, in its order.
    Committed {
        /// [`Reading::echo`] of this delivery.
        echo: &'a str,
        /// What became of each event; the same as the first time when the delivery is a repeat.
        outcomes: &'a [Outcome],
    },
    /// Refused by [`Provider::read`].
    Refused(&'a ReadError),
}

/// An HTTP answer to the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Content type of the body; empty for none.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Reply {
    /// A bare status.
    pub fn status(status: u16) -> Self {
        Reply { status, content_type: "", body: String::new() }
    }
}

/// What a provider needs to speak of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRef {
    /// [`Checkout::reference`].
    pub reference: String,
    /// [`Redirect::Url::gateway_ref`], when there was one.
    pub gateway_ref: Option<String>,
    /// What was to be paid.
    pub amount: Money,
    /// When it was begun.
    pub created_at: Timestamp,
    /// After this it was not to be payable.
    pub expires_at: Timestamp,
}

/// Answer to a status query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// What the answer says, in the same words as a webhook; goes through the same door.
    pub events: Vec<Event>,
    /// Whether the attempt can still be paid.
    pub standing: Standing,
}

/// Whether an attempt can still be paid, by the gateway's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Paid.
    Paid,
    /// Not paid, and money is or may be under way.
    Open,
    /// Not paid, nothing under way (all tries failed, or the gateway knows nothing of it); an old link might still
    /// be used until the checkout's own end.
    Idle,
    /// Not paid, and closed for good.
    Closed,
}

/// A refund to order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundOrder {
    /// Our id, stored before the first call; the idempotency key.
    pub id: String,
    /// [`Checkout::reference`] of the attempt that was paid.
    pub reference: String,
    /// [`Event::gateway_ref`] of the payment to give back from.
    pub gateway_ref: String,
    /// How much to give back.
    pub amount: Money,
    /// How much was paid.
    pub paid: Money,
    /// The gateway's name for this refund, once it gave one.
    pub refund_ref: Option<String>,
}

/// Where a refund stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundReport {
    /// Where it stands.
    pub state: RefundState,
    /// The gateway's name for it.
    pub gateway_ref: Option<String>,
    /// The gateway's own words.
    pub detail: String,
}

/// Where a refund stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// Accepted, not done.
    Pending,
    /// The money left.
    Succeeded,
    /// It will not happen, or it came back.
    Failed,
    /// It will not happen, for the money is not there any more: it was given back otherwise, or is disputed.
    Gone,
}

impl RefundState {
    /// It will not happen, for whatever reason.
    pub fn has_failed(self) -> bool {
        matches!(self, RefundState::Failed | RefundState::Gone)
    }
}

/// Why a call to a gateway gave no result. The kind decides what may happen next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Certain: nothing was sent. May be repeated.
    #[error("the gateway could not be reached: {0}")]
    NotSent(String),
    /// It may or may not have been carried out. Ask before repeating.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// The gateway said no; repeating changes nothing.
    #[error("the gateway refused: {code} {message}")]
    Refused {
        /// The gateway's code.
        code: String,
        /// The gateway's words for people.
        message: String,
    },
    /// The gateway said no to a refund because the money is given back already, or disputed: paid in another way, it would
    /// be given back twice.
    #[error("the gateway refused: {code} {message}")]
    Gone {
        /// The gateway's code.
        code: String,
        /// The gateway's words for people.
        message: String,
    },
    /// Refused before execution; repeat later.
    #[error("the gateway is busy")]
    Busy {
        /// Seconds the gateway asked us to wait.
        retry_after_s: Option<u32>,
    },
    /// Credentials or permissions are wrong: a person must look at the account.
    #[error("the account is not set up right: {0}")]
    Config(String),
    /// A value of ours that must never be sent (a separator in a signed value, too long a text).
    #[error("{field} {why}")]
    Invalid {
        /// The field of the gateway's message.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// This gateway has no such call.
    #[error("this gateway has no such call")]
    Unsupported,
}

impl From<HttpError> for CallError {
    fn from(e: HttpError) -> Self {
        match e {
            HttpError::NotSent(why) => CallError::NotSent(why),
            HttpError::NoAnswer(why) => CallError::Unknown(why),
        }
    }
}
