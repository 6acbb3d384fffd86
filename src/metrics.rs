//! Counters and timings in Prometheus' text form.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// One label and its value.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Labels {
    /// What: a provider, a kind of job.
    pub subject: String,
    /// Which way it went.
    pub outcome: String,
}

type Count = Family<Labels, Counter<u64, AtomicU64>>;

/// All of the hub's counters. Never holds a name, an address or an id of a payer.
pub struct Metrics {
    registry: Registry,
    /// Inbound webhook calls by provider and verdict.
    pub deliveries: Count,
    /// Moves of payments by new status and cause.
    pub transitions: Count,
    /// Runs of jobs by kind and outcome.
    pub job_runs: Count,
    /// Outside calls by kind of host and outcome.
    pub calls: Count,
    /// Times of outside calls, in seconds.
    pub call_seconds: Family<Labels, Histogram>,
    /// HTTP answers by route and status class.
    pub answers: Count,
    /// Transactions repeated because of a conflict, by place.
    pub conflicts: Count,
    /// Things that look like an attack or a wrong set-up, by kind.
    pub security: Count,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("grosz");
        let mut count = |name: &str, help: &str| {
            let family = Count::default();
            registry.register(name, help, family.clone());
            family
        };
        let deliveries = count("deliveries", "Inbound webhook calls by provider and verdict");
        let transitions = count("transitions", "Moves of payments by new status and cause");
        let job_runs = count("job_runs", "Runs of jobs by kind and outcome");
        let calls = count("calls", "Outside calls by kind and outcome");
        let answers = count("http_answers", "HTTP answers by route and status");
        let conflicts = count("store_conflicts", "Transactions repeated because of a conflict");
        let security = count("security_events", "Things that look like an attack or a wrong set-up");
        registry.register("log_dropped", "Lines of the log that were never written", crate::log::DROPPED.clone());
        let call_seconds =
            Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.0, 14)));
        registry.register("call_seconds", "Times of outside calls", call_seconds.clone());
        Metrics { registry, deliveries, transitions, job_runs, calls, call_seconds, answers, conflicts, security }
    }
}

impl Metrics {
    /// Adds one to a counter.
    pub fn count(&self, counter: &Family<Labels, Counter<u64, AtomicU64>>, subject: &str, outcome: &str) {
        counter.get_or_create(&Labels { subject: subject.to_owned(), outcome: outcome.to_owned() }).inc();
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.registry);
        out
    }
}

impl crate::outbound::Observe for Metrics {
    fn on_call(
        &self,
        kind: crate::outbound::CallKind,
        outcome: Result<u16, &crate::outbound::CallError>,
        took: std::time::Duration,
    ) {
        let outcome = match outcome {
            Ok(status) => format!("{}xx", status / 100),
            Err(e) if e.is_certainly_not_sent() => "not_sent".into(),
            Err(_) => "no_answer".into(),
        };
        self.count(&self.calls, kind.word(), &outcome);
        let labels = Labels { subject: kind.word().to_owned(), outcome };
        self.call_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }
}
