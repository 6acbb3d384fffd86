//! The start of a payment: the signed fields, the self-submitting form, and the pre-transaction.

use url::Url;

use super::calls::{self, Answer};
use super::message::{Key, Node, Seal};
use super::{latin, time};
use crate::facts::Settings;
use crate::gateway::{CallError, Checkout, Cx, Redirect};
use crate::money::Money;
use crate::wire::HttpRequest;

/// Every documented field of the start message in the order of its number, which is the order of the hash; the last
/// three are numbered 170 to 172 (Autopay documentation, transaction parameters).
const FIELDS: &[&str] = &[
    "ServiceID",
    "OrderID",
    "Amount",
    "Description",
    "GatewayID",
    "Currency",
    "CustomerEmail",
    "Language",
    "CustomerNRB",
    "SwiftCode",
    "ForeignTransferMode",
    "TaxCountry",
    "CustomerIP",
    "Title",
    "ReceiverName",
    "Products",
    "CustomerPhone",
    "CustomerPesel",
    "ValidityTime",
    "CustomerNumber",
    "InvoiceNumber",
    "CompanyName",
    "Nip",
    "Regon",
    "VerificationFName",
    "VerificationLName",
    "VerificationStreet",
    "VerificationStreetHouseNo",
    "VerificationStreetStaircaseNo",
    "VerificationStreetPremiseNo",
    "VerificationPostalCode",
    "VerificationCity",
    "VerificationNRB",
    "LinkValidityTime",
    "RecurringAcceptanceState",
    "RecurringAction",
    "ClientHash",
    "OperatorName",
    "ICCID",
    "AuthorizationCode",
    "ScreenType",
    "BlikUIDKey",
    "BlikUIDLabel",
    "BlikAMKey",
    "ReturnURL",
    "TransactionSettlementMode",
    "PaymentToken",
    "DocNumber",
    "RecurringAcceptanceID",
    "RecurringAcceptanceTime",
    "DefaultRegulationAcceptanceState",
    "DefaultRegulationAcceptanceID",
    "DefaultRegulationAcceptanceTime",
    "WalletType",
    "RecurringValidityTime",
    "ServiceURL",
    "MCC",
    "BlikPPLabel",
    "BlikPPRefuseNotSupported",
    "ReceiverNameForFront",
    "AccountHolderName",
    "UserAgent",
    "PlatformName",
    "PlatformVersion",
    "PlatformPluginVersion",
];

/// Languages of the payment page, two capitals; `UK` is Ukrainian. There is no Russian and no Icelandic page.
const LANGUAGES: &[&str] = &[
    "BG", "CS", "DE", "EL", "EN", "ES", "ET", "FR", "HR", "HU", "IT", "LT", "LV", "NL", "PL", "RO", "SK", "SL", "TR",
    "UK",
];

/// Begins a checkout in the way the account is set up for.
///
/// A pre-transaction whose answer was lost and that is sent again makes a second waiting transaction of the same order, as a
/// form that is sent twice does. There is one thing to pay all the same: nobody was ever given the first link, and a second
/// success of an order is told by its own `remoteID`. Asking for the status first would help nobody, since its answer holds
/// no link. A service that takes each order once refuses the repeat, which then is [`CallError::Unknown`].
pub(super) async fn start(cx: &Cx<'_>, checkout: &Checkout) -> Result<Redirect, CallError> {
    let key = Key::of(cx.settings);
    let fields = sign(&key, &fields(cx, checkout)?)?;
    let action = calls::address(cx.settings, cx.settings.text("start_path"));
    if cx.settings.text("start") != "pretransaction" {
        return Ok(Redirect::Form { action, fields });
    }
    let pairs = fields.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    let request = HttpRequest::form(action, pairs).header("bmheader", "pay-bm-continue-transaction-url").once();
    match calls::order(cx, request).await? {
        Answer::Document(answer) => read_answer(cx.settings, &key, &answer, &checkout.reference),
        Answer::Json(_) => Err(CallError::Unknown("the gateway answered JSON where XML belongs".into())),
    }
}

/// The fields of a start, not yet in order and not yet signed.
fn fields(cx: &Cx<'_>, checkout: &Checkout) -> Result<Vec<(&'static str, String)>, CallError> {
    let invalid = |field, why: &str| Err(CallError::Invalid { field, why: why.into() });
    if !order_id(&checkout.reference) {
        return invalid("OrderID", "must be 1 to 32 of letters, digits, - and _");
    }
    if !(3..=255).contains(&checkout.email.chars().count()) {
        return invalid("CustomerEmail", "must have 3 to 255 characters");
    }
    if checkout.return_url.chars().count() > 1000 {
        return invalid("ReturnURL", "must have at most 1000 characters");
    }
    if checkout.expires_at <= cx.now {
        return invalid("ValidityTime", "has passed");
    }
    let until = time::request_form(checkout.expires_at);
    Ok(vec![
        ("ServiceID", cx.settings.text("service_id").to_owned()),
        ("OrderID", checkout.reference.clone()),
        ("Amount", amount(checkout.amount)?),
        ("Description", description(checkout)),
        ("GatewayID", cx.settings.text("channel").to_owned()),
        ("Currency", checkout.amount.currency().code().to_owned()),
        ("CustomerEmail", checkout.email.clone()),
        ("Language", language(&checkout.language).to_owned()),
        ("CustomerIP", checkout.ip.clone().filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).unwrap_or_default()),
        ("ValidityTime", until.clone()),
        ("LinkValidityTime", until),
        ("ReturnURL", checkout.return_url.clone()),
    ])
}

/// Puts fields into the order of their numbers, leaves out the empty ones and adds the hash.
///
/// # Errors
/// A name that is not documented, an amount of another form, or a value that must not be signed.
pub(super) fn sign(key: &Key<'_>, given: &[(&str, String)]) -> Result<Vec<(String, String)>, CallError> {
    let mut ordered = Vec::new();
    for (name, value) in given {
        let place = FIELDS.iter().position(|known| known == name);
        let place = place.ok_or(CallError::Invalid { field: "Start", why: "has a field without a number".into() })?;
        if *name == "Amount" && !written_amount(value) {
            return Err(CallError::Invalid { field: "Amount", why: "must have exactly two decimals".into() });
        }
        ordered.push((place, value));
    }
    ordered.sort_by_key(|(place, _)| *place);
    ordered.retain(|(_, value)| !value.is_empty());
    let named = || ordered.iter().filter_map(|(place, value)| Some((*FIELDS.get(*place)?, value.as_str())));
    let hash = key.sign(named())?;
    let mut fields: Vec<_> = named().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    fields.push(("Hash".to_owned(), hash));
    Ok(fields)
}

/// Two decimals, always: `10.5` and `10.50` have different hashes.
pub(super) fn amount(money: Money) -> Result<String, CallError> {
    let text = money.to_decimal();
    if money.payable().is_ok() && written_amount(&text) {
        return Ok(text);
    }
    Err(CallError::Invalid { field: "Amount", why: "must be above zero in a currency with two decimals".into() })
}

fn written_amount(text: &str) -> bool {
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.').is_some_and(|(whole, part)| {
        (1..=14).contains(&whole.len()) && part.len() == 2 && digits(whole) && digits(part)
    })
}

/// 1 to 32 Latin letters, digits, `-`, `_`.
pub(super) fn order_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Up to 79 of the documented characters; the reference when nothing of the description is left.
fn description(checkout: &Checkout) -> String {
    let text = latin::description(&checkout.description, &checkout.language);
    if text.is_empty() { latin::description(&checkout.reference, "en") } else { text }
}

pub(super) fn language(code: &str) -> &'static str {
    LANGUAGES.iter().find(|known| known.eq_ignore_ascii_case(code)).copied().unwrap_or("EN")
}

/// What the pre-transaction answered (Autopay documentation, pre-transaction).
pub(super) fn read_answer(
    settings: &Settings,
    key: &Key<'_>,
    answer: &Node,
    reference: &str,
) -> Result<Redirect, CallError> {
    let unknown = |why: &str| Err(CallError::Unknown(why.into()));
    if answer.name != "transaction" {
        return unknown("the answer is not a transaction");
    }
    let (seal, confirmation) = (key.check(answer), answer.text("confirmation"));
    if seal == Seal::Wrong {
        return unknown("the answer's hash is wrong");
    }
    if confirmation == "NOTCONFIRMED" && was_begun_before(answer.text("reason")) {
        return unknown("the order was begun before, and the answer was lost");
    }
    if confirmation == "NOTCONFIRMED" {
        return Err(calls::refusal(answer.text("reason"), ""));
    }
    if seal == Seal::Missing {
        return unknown("the answer is not signed");
    }
    if answer.text("orderID") != reference {
        return unknown("the answer is about another order");
    }
    if confirmation == "CONFIRMED" {
        return match answer.text("paymentStatus") {
            "FAILURE" => Err(calls::refusal("FAILURE", answer.text("reason"))),
            _ => unknown("the gateway took the order and gave no page for the payer"),
        };
    }
    if answer.text("status") != "PENDING" || !confirmation.is_empty() {
        return unknown("the answer has a status nobody told us about");
    }
    let url = answer.text("redirecturl");
    if !at_gateway(settings, url) {
        return unknown("the answer leads to another host than the gateway's");
    }
    let remote = Some(answer.text("remoteID").to_owned()).filter(|id| !id.is_empty());
    Ok(Redirect::Url { url: url.to_owned(), gateway_ref: remote, expires_at: None })
}

/// The reasons of a service that is set up to take each order once (Autopay documentation, pre-transaction).
fn was_begun_before(reason: &str) -> bool {
    matches!(
        reason,
        "MULTIPLY_TRANSACTION"
            | "MULTIPLY_PAID_TRANSACTION"
            | "BLOCK_MULTIPLE_TRANSACTIONS"
            | "BLOCK_PAID_TRANSACTIONS"
    )
}

/// Scheme, host and port are those of the configured gateway.
fn at_gateway(settings: &Settings, url: &str) -> bool {
    match (Url::parse(url), Url::parse(settings.text("gateway_url"))) {
        (Ok(url), Ok(gateway)) => url.origin() == gateway.origin() && url.username().is_empty(),
        _ => false,
    }
}
