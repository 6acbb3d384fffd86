//! The other side of a protocol: a simulated gateway or invoicing API that speaks the real wire format.
//!
//! A twin is state and rules only. Whoever hosts it feeds it HTTP requests and the time, and carries its deliveries
//! out; so a twin runs inside the hub's binary and is reached over HTTP like the real one. A twin is never the
//! source of test fixtures: those come from the vendors' documents.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::facts::Settings;
use crate::wire::Headers;

/// A request to a twin.
#[derive(Debug, Clone)]
pub struct TwinRequest {
    /// `GET`, `POST` …
    pub method: String,
    /// The path below the twin's root, with a leading slash: `/webapi/transactionStatus`.
    pub path: String,
    /// The query, without `?`.
    pub query: String,
    /// Headers with lower-case names.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// The twin's root as the caller reached it, without a final slash: `http://127.0.0.1:8080/sandbox/autopay`.
    pub root: String,
    /// When.
    pub now: Timestamp,
    /// Faults to show on this request.
    pub faults: Faults,
}

/// What a twin answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TwinAnswer {
    /// An HTTP answer: status, content type, body.
    Page {
        /// HTTP status.
        status: u16,
        /// Content type.
        content_type: String,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// The work was done, and the connection is cut without an answer.
    Cut,
    /// The connection stays open and no answer comes.
    Hang,
}

impl TwinAnswer {
    /// An answer of that status, type and body.
    pub fn page(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        TwinAnswer::Page { status, content_type: content_type.to_owned(), headers: vec![], body: body.into() }
    }

    /// A 303 to an address.
    pub fn see_other(location: &str) -> Self {
        let headers = vec![("location".to_owned(), location.to_owned())];
        TwinAnswer::Page { status: 303, content_type: "text/plain".into(), headers, body: vec![] }
    }
}

/// A webhook call that a twin wants made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinDelivery {
    /// The twin's own name for it.
    pub id: u64,
    /// Where to.
    pub url: String,
    /// Header pairs.
    pub headers: Vec<(String, String)>,
    /// The body, signed.
    pub body: Vec<u8>,
}

/// Faults by name; a value of 0 is off, any other is how many more times (or, for `drop_percent`, how much).
///
/// The host carries out what concerns the way: `drop`, `repeat`, `delay_s`, `reorder`, `tamper`. A twin carries out
/// what concerns the meaning. Names known to all: `wrong_amount`, `wrong_currency`, `unknown_status`, `late_success`,
/// `cut_after_work` (do the work, cut the connection), `hang`, `http_500` (do nothing), `http_500_after_work`,
/// `error_in_200` (a refusal inside HTTP 200). A twin lists its own further ones in [`GatewayTwin::faults`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(pub BTreeMap<String, u32>);

impl Faults {
    /// True when the fault is on.
    pub fn on(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|n| *n > 0)
    }
}

/// A simulated gateway.
pub trait GatewayTwin: Send + Sync {
    /// Names of the faults it understands, each with one sentence.
    fn faults(&self) -> &'static [(&'static str, &'static str)];

    /// Makes a merchant's account known: the settings the hub uses, and where the gateway shall report. Repeating it
    /// changes nothing.
    fn enroll(&self, settings: &Settings, webhook_url: &str);

    /// Serves one HTTP request: the API and the payer's pages.
    fn serve(&self, request: &TwinRequest) -> TwinAnswer;

    /// Deliveries whose time has come, each handed out once until [`GatewayTwin::answered`] is told about it.
    fn due(&self, now: Timestamp, faults: &Faults) -> Vec<TwinDelivery>;

    /// What the hub answered to a delivery (`None`: nothing came); the twin repeats by the gateway's own schedule.
    fn answered(&self, id: u64, answer: Option<(u16, Vec<u8>)>, now: Timestamp);

    /// Names of the faults that concern a request of this path. The host hands over no others, and counts those that
    /// are on down by one. So `cut_after_work: 1` is not spent on a page before the create.
    fn spends(&self, path: &str) -> Vec<&'static str> {
        let _ = path;
        self.faults().iter().map(|(name, _)| *name).collect()
    }

    /// Names of the faults that concern deliveries, handed over and counted down likewise. A twin that decides at the
    /// payer's press what it will tell has none.
    fn spends_by_delivery(&self) -> &'static [&'static str] {
        &["wrong_amount", "wrong_currency", "unknown_status"]
    }

    /// The path of the page where a person does what banks do later, if there is one: `/panel`.
    fn panel(&self) -> Option<&'static str> {
        None
    }

    /// Settings of an account at this twin, reached at `root`, for demonstrations. Empty: it takes no part in them.
    fn demo_settings(&self, root: &str) -> Map<String, Value> {
        let _ = root;
        Map::new()
    }
}

/// A simulated invoicing API.
pub trait InvoicerTwin: Send + Sync {
    /// Names of the faults it understands, each with one sentence.
    fn faults(&self) -> &'static [(&'static str, &'static str)];

    /// Makes a merchant's account known. Repeating it changes nothing.
    fn enroll(&self, settings: &Settings);

    /// Serves one HTTP request.
    fn serve(&self, request: &TwinRequest) -> TwinAnswer;

    /// Names of the faults that concern a request of this path. The host hands over no others, and counts those that
    /// are on down by one. So `cut_after_work: 1` is not spent on a look-up before the create.
    fn spends(&self, path: &str) -> Vec<&'static str> {
        let _ = path;
        self.faults().iter().map(|(name, _)| *name).collect()
    }

    /// The path of the page that shows the books, if there is one: `/panel`.
    fn panel(&self) -> Option<&'static str> {
        None
    }

    /// Settings of an account at this twin, reached at `root`, for demonstrations. Empty: it takes no part in them.
    fn demo_settings(&self, root: &str) -> Map<String, Value> {
        let _ = root;
        Map::new()
    }
}
