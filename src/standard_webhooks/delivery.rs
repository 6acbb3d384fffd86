//! What an attempt to tell a client means, when the next one is due, and when an endpoint is given up.
//!
//! The rules are those of Standard Webhooks 1.0.0, "Deliverability and reliability".

use std::time::{Duration, SystemTime};

use crate::outbound::CallError;

/// After an answer that asks us to slow down, the next attempt is at least this far away.
const SLOW_DOWN: Duration = Duration::from_secs(60);

/// What one attempt means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The client has it.
    Delivered,
    /// A failure; try again on schedule.
    Retry,
    /// A failure; the receiver is overloaded.
    RetrySlower,
    /// The receiver is gone for good (410): stop this and all later messages and tell the owner.
    DisableEndpoint,
    /// The address is not one that we call. A failure like others, since the name may be repaired, but the owner is
    /// warned at once.
    RefusedTarget,
}

impl Verdict {
    /// Judges the status of an answer, or the lack of one.
    pub fn of(outcome: Result<u16, &CallError>) -> Self {
        match outcome {
            Ok(200..=299) => Verdict::Delivered,
            Ok(410) => Verdict::DisableEndpoint,
            Ok(429 | 502 | 504) => Verdict::RetrySlower,
            // Redirects are not followed: the message would travel to an address that nobody has vetted.
            Ok(_) => Verdict::Retry,
            Err(CallError::Refused(refusal)) if !refusal.is_temporary() => Verdict::RefusedTarget,
            Err(_) => Verdict::Retry,
        }
    }

    /// One stable word.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Delivered => "delivered",
            Verdict::Retry => "retry",
            Verdict::RetrySlower => "retry_slower",
            Verdict::DisableEndpoint => "disable_endpoint",
            Verdict::RefusedTarget => "refused_target",
        }
    }
}

/// The wait before each attempt; there are as many attempts as waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

impl Default for Schedule {
    /// The example of the specification: ten attempts in a little more than three days.
    fn default() -> Self {
        Schedule::from_seconds(&[0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400])
    }
}

impl Schedule {
    /// A schedule from waits in seconds.
    pub fn from_seconds(waits: &[u32]) -> Self {
        Schedule(waits.iter().map(|s| Duration::from_secs(u64::from(*s))).collect())
    }

    /// The wait before an attempt, counted from 1; `None` when there is no such attempt.
    pub fn wait_before(&self, attempt: u32) -> Option<Duration> {
        let index = usize::try_from(attempt).ok()?.checked_sub(1)?;
        self.0.get(index).copied()
    }

    /// How long to wait, after `made` attempts, for the next one; `None` when there is none. The wait is spread by
    /// ±10 %, so that a receiver that comes back is not met by everybody at once. `Retry-After` only ever makes it
    /// longer, and never longer than the longest step.
    pub fn next(&self, made: u32, verdict: Verdict, retry_after: Option<Duration>, random: u32) -> Option<Duration> {
        let least = match verdict {
            Verdict::Delivered | Verdict::DisableEndpoint => return None,
            Verdict::Retry | Verdict::RefusedTarget => Duration::ZERO,
            Verdict::RetrySlower => SLOW_DOWN,
        };
        let planned = spread(self.wait_before(made.checked_add(1)?)?, random);
        let longest = self.0.iter().max().copied().unwrap_or_default();
        let asked = retry_after.unwrap_or_default().max(least).min(longest);
        Some(planned.max(asked))
    }
}

/// Between 90 % and 110 % of the wait, evenly.
fn spread(wait: Duration, random: u32) -> Duration {
    let tenth = wait / 10;
    let share = u128::from(random) * 2 * tenth.as_nanos() / u128::from(u32::MAX);
    wait - tenth + Duration::from_nanos(u64::try_from(share).unwrap_or_default())
}

/// Reads `Retry-After`: seconds or an HTTP date. What cannot be read is as if it were not there; a date that has passed
/// asks for nothing.
pub fn retry_after(header: Option<&str>, now: SystemTime) -> Option<Duration> {
    let text = header?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The failures of an endpoint since its last success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureRun {
    /// The first failure, in Unix seconds.
    pub first_s: u64,
    /// The latest failure, in Unix seconds.
    pub last_s: u64,
    /// How many different messages failed.
    pub messages: u32,
}

/// When an endpoint is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthRule {
    /// All attempts over more than this time must have failed, in seconds.
    pub after_s: u64,
    /// And at least so many different messages: one poisoned message must not close an endpoint.
    pub messages: u32,
}

impl Default for HealthRule {
    fn default() -> Self {
        HealthRule { after_s: 120 * 3600, messages: 3 }
    }
}

impl FailureRun {
    /// The run after one more attempt. A success ends it; so does switching the endpoint on again.
    pub fn after(run: Option<FailureRun>, verdict: Verdict, now_s: u64, is_new_message: bool) -> Option<FailureRun> {
        match verdict {
            Verdict::Delivered => None,
            Verdict::Retry | Verdict::RetrySlower | Verdict::RefusedTarget | Verdict::DisableEndpoint => {
                let run = run.unwrap_or(FailureRun { first_s: now_s, last_s: now_s, messages: 0 });
                let messages = run.messages.saturating_add(u32::from(is_new_message));
                Some(FailureRun { first_s: run.first_s, last_s: run.last_s.max(now_s), messages })
            }
        }
    }

    /// True when the endpoint is to be switched off. Silence is no failure: only the time between failures counts.
    pub fn is_hopeless(&self, rule: &HealthRule) -> bool {
        self.last_s.saturating_sub(self.first_s) > rule.after_s && self.messages >= rule.messages
    }
}

/// True for the name of an event type: parts of ASCII letters, digits and `_`, joined by full stops, at most 256
/// characters.
pub fn is_event_type(name: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    name.len() <= 256 && name.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::outbound::Refusal;
    use crate::outbound::client::TlsFault;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/fixtures/webhooks.json")).unwrap()
    }

    fn error(word: &str) -> CallError {
        match word {
            "timeout" | "body_too_slow" => CallError::TimeOut,
            "connection_refused" => CallError::ConnectionRefused,
            "connection_reset" => CallError::Cut,
            "tls_certificate" => CallError::Tls(TlsFault::Expired),
            "dns_no_answer" => CallError::Refused(Refusal::LookUpFailed),
            "address_not_public" => CallError::Refused(Refusal::Private),
            other => panic!("unknown error {other}"),
        }
    }

    #[test]
    fn outcomes_are_judged_as_listed() {
        let cases = vectors()["delivery_outcomes"].as_array().unwrap().clone();
        assert_eq!(cases.len(), 40);
        for case in cases {
            let verdict = match case["status"].as_u64() {
                Some(status) => Verdict::of(Ok(u16::try_from(status).unwrap())),
                None => Verdict::of(Err(&error(case["error"].as_str().unwrap()))),
            };
            assert_eq!(verdict.word(), case["action"].as_str().unwrap(), "{case}");
        }
    }

    /// The middle of the spread, so that the planned wait stays as it is.
    const MIDDLE: u32 = u32::MAX / 2 + 1;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    // The notes of the published outcomes that carry `Retry-After`.
    #[test]
    fn retry_after_is_read_and_bounded() {
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 20:30:00 GMT").unwrap();
        let next = |header| {
            let wait = retry_after(header, now);
            Schedule::default().next(2, Verdict::Retry, wait, MIDDLE).map(|wait| wait.as_secs())
        };
        assert_eq!(next(Some("600")), Some(600));
        assert_eq!(next(Some("Sat, 21 Nov 2026 20:40:00 GMT")), Some(600));
        assert_eq!(next(Some("Sat, 21 Nov 2026 20:20:00 GMT")), Some(300));
        assert_eq!(next(Some("99999999")), Some(86_400));
        assert_eq!(next(Some("99999999999999999999999999")), Some(86_400));
        for nothing in [None, Some("soon"), Some(""), Some("-5"), Some("1.5"), Some("0")] {
            assert_eq!(next(nothing), Some(300), "{nothing:?}");
        }
    }

    #[test]
    fn the_schedule_is_that_of_the_specification() {
        let mut since_start = 0;
        for case in vectors()["schedules"]["standard_webhooks_example"].as_array().unwrap() {
            let attempt = u32::try_from(case["attempt"].as_u64().unwrap()).unwrap();
            let wait = Schedule::default().wait_before(attempt).unwrap();
            since_start += wait.as_secs();
            assert_eq!(case["delay_seconds"], wait.as_secs());
            assert_eq!(case["seconds_since_start"], since_start);
        }
        assert_eq!(Schedule::default().wait_before(0), None);
        assert_eq!(Schedule::default().wait_before(11), None);
        assert_eq!(Schedule::default().next(10, Verdict::Retry, Some(secs(60)), 0), None);
        assert_eq!(Schedule::default().next(u32::MAX, Verdict::Retry, None, 0), None);
    }

    #[test]
    fn waits_are_spread_as_listed() {
        let vectors = vectors();
        let cases = vectors["schedules"]["jitter"].as_array().unwrap().iter();
        let ours: Vec<_> = cases.filter(|c| c["rule"].as_str().unwrap().contains("for the hub")).collect();
        assert_eq!(ours.len(), 2);
        for case in ours {
            let base = secs(case["base"].as_u64().unwrap());
            assert_eq!(spread(base, 0), secs(case["low"].as_u64().unwrap()));
            assert_eq!(spread(base, u32::MAX), secs(case["high"].as_u64().unwrap()));
        }
    }

    #[test]
    fn retry_after_only_makes_the_wait_longer() {
        for case in vectors()["schedules"]["retry_after"].as_array().unwrap() {
            let base = u32::try_from(case["base"].as_u64().unwrap()).unwrap();
            let schedule = Schedule::from_seconds(&[0, base, 86_400]);
            let next = schedule.next(1, Verdict::Retry, case["retry_after"].as_u64().map(secs), MIDDLE);
            assert_eq!(next.map(|wait| wait.as_secs()), case["next"].as_u64(), "{case}");
        }
    }

    #[test]
    fn an_overloaded_receiver_is_given_a_minute() {
        let schedule = Schedule::default();
        assert_eq!(schedule.next(1, Verdict::RetrySlower, None, MIDDLE), Some(secs(60)));
        assert_eq!(schedule.next(1, Verdict::RetrySlower, Some(secs(120)), MIDDLE), Some(secs(120)));
        assert_eq!(schedule.next(1, Verdict::DisableEndpoint, None, MIDDLE), None);
        assert_eq!(schedule.next(1, Verdict::Delivered, None, MIDDLE), None);
    }

    #[test]
    fn endpoints_are_given_up_as_listed() {
        let cases = vectors()["endpoint_health"].as_array().unwrap().clone();
        assert_eq!(cases.len(), 8);
        for case in cases {
            let id = case["id"].as_str().unwrap();
            let result = if case["statuses"][0] == 410 {
                assert_eq!(Verdict::of(Ok(410)), Verdict::DisableEndpoint);
                "disabled_at_once"
            } else if hopeless(&case) {
                "disabled"
            } else {
                "enabled"
            };
            assert_eq!(result, case["result"].as_str().unwrap(), "{id}");
        }
    }

    fn hopeless(case: &Value) -> bool {
        let messages = usize::try_from(case["messages"].as_u64().unwrap_or(1)).unwrap();
        let hours = |v: &Value| v.as_u64().unwrap() * 3600;
        let rule = HealthRule::default();
        if let Some(threshold) = case["threshold_hours"].as_u64() {
            assert_eq!(rule.after_s, threshold * 3600);
        }
        let mut run = None;
        for (i, at) in case["failures_hours"].as_array().into_iter().flatten().enumerate() {
            run = FailureRun::after(run, Verdict::Retry, hours(at), i < messages);
            if run.unwrap().is_hopeless(&rule) {
                return true;
            }
        }
        if !case["success_hour"].is_null() {
            run = FailureRun::after(run, Verdict::Delivered, 0, true);
            assert_eq!(run, None);
        }
        run.is_some_and(|run| run.is_hopeless(&rule))
    }

    #[test]
    fn event_types_are_named_as_listed() {
        let cases = vectors()["event_type_names"].as_array().unwrap().clone();
        assert_eq!(cases.len(), 13);
        for case in cases {
            let name = case["name"].as_str().unwrap();
            assert_eq!(is_event_type(name), case["accept"].as_bool().unwrap(), "{name}");
        }
        assert!(!is_event_type(""));
    }

    proptest! {
        #[test]
        fn the_spread_stays_within_a_tenth(seconds in 0u32..1_000_000, random: u32) {
            let base = secs(seconds.into());
            let wait = spread(base, random);
            prop_assert!(wait >= base - base / 10 && wait <= base + base / 10);
        }

        #[test]
        fn no_header_makes_the_reader_panic(text in "\\PC{0,40}") {
            let _ = retry_after(Some(&text), SystemTime::UNIX_EPOCH);
        }
    }
}
