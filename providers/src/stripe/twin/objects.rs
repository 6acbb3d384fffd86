//! The shapes of the API's objects, with the members a client is likely to look at.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The parameters of a request as they came: `line_items[0][quantity]` → `1`.
pub(super) type Params = BTreeMap<String, String>;

/// Members of a session that are always empty here.
const UNUSED: &[&str] = &[
    "after_expiration",
    "allow_promotion_codes",
    "billing_address_collection",
    "client_secret",
    "consent",
    "consent_collection",
    "currency_conversion",
    "customer",
    "invoice",
    "payment_link",
    "recovered_from",
    "setup_intent",
    "submit_type",
    "subscription",
];

/// A key decides whether its objects are real.
pub(super) fn is_live(secret_key: &str) -> bool {
    secret_key.starts_with("sk_live_") || secret_key.starts_with("rk_live_")
}

/// A session as created. `total` is the sum of its lines, `expires_at` in Unix seconds.
pub(super) fn session(id: &str, url: &str, total: i64, expires_at: i64, params: &Params, now: Timestamp) -> Value {
    let given = |name: &str| params.get(name).cloned();
    let methods: Vec<_> = params.iter().filter(|(k, _)| k.starts_with("allowed_payment_method_types[")).collect();
    let methods: Vec<_> = match methods.is_empty() {
        true => vec!["card"],
        false => methods.into_iter().map(|(_, v)| v.as_str()).collect(),
    };
    let mut body = json!({
        "id": id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": given("adaptive_pricing[enabled]").as_deref() != Some("false")},
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": false, "liability": null, "provider": null, "status": null},
        "cancel_url": given("cancel_url"),
        "client_reference_id": given("client_reference_id"),
        "created": now.as_second(),
        "currency": given("line_items[0][price_data][currency]").map(|c| c.to_ascii_lowercase()),
        "custom_fields": [],
        "custom_text": {"after_submit": null, "shipping_address": null, "submit": null},
        "customer_creation": "if_required",
        "customer_details": given("customer_email").map(|email| json!({"email": email, "name": null, "address": null})),
        "customer_email": given("customer_email"),
        "discounts": [],
        "expires_at": expires_at,
        "livemode": id.starts_with("cs_live_"),
        "locale": given("locale"),
        "metadata": metadata(params, "metadata"),
        "mode": "payment",
        "payment_intent": null,
        "payment_method_collection": "if_required",
        "payment_method_options": {},
        "payment_method_types": methods,
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": false},
        "shipping_options": [],
        "status": "open",
        "success_url": given("success_url"),
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": url,
    });
    for name in UNUSED {
        body[*name] = Value::Null;
    }
    body
}

/// What a PaymentIntent takes from the session's parameters, kept until the payer confirms, and what is bought.
pub(super) fn intent_data(params: &Params) -> Value {
    json!({
        "metadata": metadata(params, "payment_intent_data[metadata]"),
        "description": params.get("payment_intent_data[description]"),
        "bought": params.get("line_items[0][price_data][product_data][name]"),
    })
}

/// The PaymentIntent of a session.
pub(super) fn intent(id: &str, session: &Value, data: &Value, now: Timestamp) -> Value {
    json!({
        "id": id,
        "object": "payment_intent",
        "amount": session["amount_total"],
        "amount_capturable": 0,
        "amount_received": 0,
        "canceled_at": null,
        "cancellation_reason": null,
        "capture_method": "automatic_async",
        "confirmation_method": "automatic",
        "created": now.as_second(),
        "currency": session["currency"],
        "customer": null,
        "description": data["description"],
        "last_payment_error": null,
        "latest_charge": null,
        "livemode": session["livemode"],
        "metadata": data["metadata"],
        "next_action": null,
        "payment_method": null,
        "payment_method_types": session["payment_method_types"],
        "receipt_email": session["customer_email"],
        "status": "requires_payment_method",
    })
}

/// A PaymentIntent's members after a refused card.
pub(super) fn declined() -> Value {
    json!({
        "status": "requires_payment_method",
        "last_payment_error": {
            "type": "card_error",
            "code": "card_declined",
            "decline_code": "insufficient_funds",
            "message": "Your card has insufficient funds.",
        },
    })
}

/// The charge that captured a PaymentIntent. It copies the metadata.
pub(super) fn charge(id: &str, intent: &Value, now: Timestamp) -> Value {
    json!({
        "id": id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"],
        "amount_refunded": 0,
        "captured": true,
        "created": now.as_second(),
        "currency": intent["currency"],
        "description": intent["description"],
        "disputed": false,
        "failure_code": null,
        "failure_message": null,
        "livemode": intent["livemode"],
        "metadata": intent["metadata"],
        "outcome": {"network_status": "approved_by_network", "reason": null, "type": "authorized"},
        "paid": true,
        "payment_intent": intent["id"],
        "payment_method_details": {
            "type": "card",
            "card": {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2034},
        },
        "refunded": false,
        "status": "succeeded",
    })
}

/// A refund of a charge.
pub(super) fn refund(id: &str, charge: &Value, amount: i64, status: &str, params: &Params, now: Timestamp) -> Value {
    json!({
        "id": id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": null,
        "charge": charge["id"],
        "created": now.as_second(),
        "currency": charge["currency"],
        "failure_reason": null,
        "metadata": metadata(params, "metadata"),
        "payment_intent": charge["payment_intent"],
        "pending_reason": (status == "pending").then_some("processing"),
        "reason": params.get("reason"),
        "receipt_number": null,
        "status": status,
    })
}

/// A dispute of a whole charge; `due_by` in Unix seconds.
pub(super) fn dispute(id: &str, charge: &Value, due_by: i64, now: Timestamp) -> Value {
    json!({
        "id": id,
        "object": "dispute",
        "amount": charge["amount"],
        "charge": charge["id"],
        "created": now.as_second(),
        "currency": charge["currency"],
        "evidence_details": {"due_by": due_by, "has_evidence": false, "past_due": false, "submission_count": 0},
        "is_charge_refundable": false,
        "livemode": charge["livemode"],
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": "fraudulent",
        "status": "needs_response",
    })
}

fn metadata(params: &Params, prefix: &str) -> Map<String, Value> {
    let key = |k: &str| k.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']').map(str::to_owned);
    params.iter().filter(|(_, v)| !v.is_empty()).filter_map(|(k, v)| Some((key(k)?, v.clone().into()))).collect()
}
