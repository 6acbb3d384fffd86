//! The list of payment channels of a service (Autopay documentation, gatewayList/v3).

use serde_json::{Value, json};

use super::calls::{self, Answer};
use super::message::Key;
use super::start;
use crate::gateway::{CallError, Cx};
use crate::money::{Currency, Money};
use crate::wire::HttpRequest;

/// Most channels that are taken from an answer.
const MAX_CHANNELS: usize = 500;

/// One way to pay, as the service offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its number (GatewayID), for the setting `channel`.
    pub id: u32,
    /// Name for people, in the language that was asked for.
    pub name: String,
    /// The gateway's group: `PBL`, `BLIK`.
    pub group: String,
    /// True when it can be used now.
    pub is_open: bool,
    /// Smallest amount in the currency that was asked for, where the gateway says one.
    pub min: Option<Money>,
    /// Largest amount, where the gateway says one.
    pub max: Option<Money>,
}

/// Asks for the channels that take a currency. The answer carries no signature: show it, decide nothing by it.
pub(super) async fn list(cx: &Cx<'_>, currency: Currency, language: &str) -> Result<Vec<Channel>, CallError> {
    let key = Key::of(cx.settings);
    let (service, language) = (cx.settings.text("service_id"), start::language(language));
    let id = calls::message_id(cx.settings, "channels", &cx.now.as_microsecond().to_string());
    let fields =
        [("ServiceID", service), ("MessageID", id.as_str()), ("Currencies", currency.code()), ("Language", language)];
    let hash = key.sign(fields)?;
    let number: u64 =
        service.parse().map_err(|_| CallError::Invalid { field: "ServiceID", why: "must be 1 to 10 digits".into() })?;
    let body = json!({
        "ServiceID": number, "MessageID": id, "Currencies": currency.code(), "Language": language, "Hash": hash,
    });
    let request = HttpRequest::json(calls::address(cx.settings, "/gatewayList/v3"), &body);
    let Answer::Json(answer) = calls::ask(cx, request).await? else {
        return Err(CallError::Unknown("the answer is XML where JSON belongs".into()));
    };
    let list = answer.get("gatewayList").and_then(Value::as_array);
    let channels: Vec<Channel> =
        list.into_iter().flatten().take(MAX_CHANNELS).filter_map(|c| channel(c, currency)).collect();
    // An empty list is a bad answer by the documentation, not a service without channels.
    if channels.is_empty() { Err(CallError::Unknown("the answer lists no channel".into())) } else { Ok(channels) }
}

/// One entry; `None` when it has no number, or does not take the currency. Samples of the documentation write `id`
/// for `gatewayID`.
fn channel(entry: &Value, currency: Currency) -> Option<Channel> {
    let text = |name: &str| entry.get(name).and_then(calls::json_text).unwrap_or_default();
    let number = entry.get("gatewayID").or(entry.get("id"))?;
    let takes = |c: &&Value| c.get("currency").and_then(Value::as_str) == Some(currency.code());
    let limits = entry.get("currencies").and_then(Value::as_array)?.iter().find(takes)?;
    Some(Channel {
        id: calls::json_text(number)?.parse().ok()?,
        name: calls::short(&text("name")),
        group: calls::short(&text("groupType")),
        is_open: text("state") == "OK",
        min: limits.get("minAmount").and_then(|v| limit(v, currency)),
        max: limits.get("maxAmount").and_then(|v| limit(v, currency)),
    })
}

/// A limit, written as text or as a JSON number with fewer or more zeros than the currency has decimals.
fn limit(value: &Value, currency: Currency) -> Option<Money> {
    let text = calls::json_text(value)?;
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let digits = usize::from(currency.exponent());
    let (kept, zeros) = part.split_at_checked(digits).unwrap_or((part, ""));
    if !zeros.bytes().all(|b| b == b'0') {
        return None;
    }
    let text = if digits == 0 { whole.to_owned() } else { format!("{whole}.{kept:0<digits$}") };
    Money::from_decimal(&text, currency).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_limit(value: Value, minor: Option<i64>) {
        assert_eq!(limit(&value, Currency::PLN).map(Money::minor), minor, "{value}");
    }

    #[test]
    fn limits_are_read_however_they_are_written() {
        check_limit(json!("0.01"), Some(1));
        check_limit(json!(0.01), Some(1));
        check_limit(json!(100_000), Some(10_000_000));
        check_limit(json!(100_000.0), Some(10_000_000));
        check_limit(json!("50000.5"), Some(5_000_050));
        check_limit(json!("1.000"), Some(100));
        for bad in [json!("1.001"), json!("x"), json!(-1), json!(null), json!([1]), json!("ż.ż")] {
            check_limit(bad, None);
        }
    }
}
