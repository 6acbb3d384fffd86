//! What a person sees of the simulated Stripe: the payment page, and a panel for what banks do later.

use serde_json::Value;

use super::objects;
use super::{ASYNC_S, LATE_S, State, later, text};
use crate::money::Money;
use crate::stripe::amount;
use crate::twin::{TwinAnswer, TwinRequest};

/// Seconds in which a merchant may answer a dispute.
const DISPUTE_S: i64 = 14 * 86_400;

/// Serves everything beside the API.
pub(super) fn serve(state: &mut State, request: &TwinRequest) -> TwinAnswer {
    let path: Vec<_> = request.path.trim_matches('/').split('/').collect();
    match (request.method.as_str(), &path[..]) {
        ("GET", ["c", "pay", session]) => pay_page(state, request, session),
        ("POST", ["c", "pay", session, action]) => press(state, request, session, action),
        ("GET", ["" | "panel"]) => html(200, panel(state, request)),
        ("POST", ["panel", id, action]) => press_panel(state, request, id, action),
        _ => html(404, plain_page("Nothing here", "This page does not exist.")),
    }
}

/// A payer's button.
fn press(state: &mut State, request: &TwinRequest, session: &str, action: &str) -> TwinAnswer {
    let body = state.body(session);
    if body["status"] != "open" {
        return closed(&body);
    }
    let (now, faults) = (request.now, &request.faults);
    match action {
        "pay" if faults.on("late_success") => state.pay_later(session, &[(0, false), (LATE_S, true)], now),
        "pay" => state.pay(session, now),
        "pay_later" => state.pay_later(session, &[(ASYNC_S, !faults.on("pay_later_fails"))], now),
        "decline" => {
            state.decline(session, now);
            return TwinAnswer::see_other(&format!("{}/c/pay/{session}?declined=1", request.root));
        }
        "cancel" => return TwinAnswer::see_other(&text(&body, "cancel_url")),
        _ => return html(404, plain_page("Nothing here", "This button does not exist.")),
    }
    TwinAnswer::see_other(&text(&body, "success_url").replace("{CHECKOUT_SESSION_ID}", session))
}

/// A bank's button.
fn press_panel(state: &mut State, request: &TwinRequest, id: &str, action: &str) -> TwinAnswer {
    let (body, now) = (state.body(id), request.now);
    match (body["object"].as_str(), action) {
        (Some("charge"), "dispute") if body["disputed"] == false => {
            let account = state.get(id).map(|e| e.account.clone()).unwrap_or_default();
            let dispute = state.name("dp", now);
            let due_by = later(now, DISPUTE_S).as_second();
            state.insert(&account, objects::dispute(&dispute, &body, due_by, now));
            state.set(id, serde_json::json!({"disputed": true}));
            state.emit("charge.dispute.created", &dispute, now);
            state.emit("charge.dispute.funds_withdrawn", &dispute, now);
        }
        (Some("dispute"), "won" | "lost") if body["status"] == "needs_response" => {
            state.set(id, serde_json::json!({"status": action}));
            state.emit("charge.dispute.closed", id, now);
            if action == "won" {
                state.emit("charge.dispute.funds_reinstated", id, now);
            }
        }
        (Some("refund"), "fail") => state.move_refund(id, "failed", now),
        _ => return html(409, plain_page("Too late", "This cannot be done any more.")),
    }
    TwinAnswer::see_other(&format!("{}/panel", request.root))
}

fn pay_page(state: &State, request: &TwinRequest, session: &str) -> TwinAnswer {
    let body = state.body(session);
    if body["status"] != "open" {
        return closed(&body);
    }
    let intent = text(&body, "payment_intent");
    let refused = request.query.contains("declined=1") && state.body(&intent)["last_payment_error"].is_object();
    let note = if refused { "<p class=\"no\">Your card has insufficient funds. Try another card.</p>" } else { "" };
    let what = state.intent_data.get(session).map(|d| text(d, "bought")).unwrap_or_default();
    let button = |action: &str, words: &str| {
        let url = escape(&format!("{}/c/pay/{session}/{action}", request.root));
        format!("<form method=\"post\" action=\"{url}\"><button data-twin-action=\"{action}\">{words}</button></form>")
    };
    let main = format!(
        "<section class=\"what\"><h1>{what}</h1><p class=\"sum\">{sum}</p><p>{email}</p></section>\
         <section><h2>Pay with card</h2><p class=\"card\">4242 4242 4242 4242 <span>12 / 34</span></p>{note}\
         {pay}{later}{decline}{cancel}</section>",
        what = escape(&what),
        sum = escape(&sum(&body, "amount_total")),
        email = escape(&text(&body, "customer_email")),
        pay = button("pay", "Pay"),
        later = button("pay_later", "Pay by a slow bank transfer"),
        decline = button("decline", "Try a card without funds"),
        cancel = button("cancel", "Back to the shop"),
    );
    html(200, layout("Checkout", &main))
}

fn closed(session: &Value) -> TwinAnswer {
    match session["status"].as_str() {
        Some("complete") => html(409, plain_page("All done", "This checkout was completed.")),
        Some(_) => html(410, plain_page("Too late", "This checkout has expired.")),
        None => html(404, plain_page("Nothing here", "There is no such checkout.")),
    }
}

/// Payments, refunds and disputes, newest first, with what banks may do.
fn panel(state: &State, request: &TwinRequest) -> String {
    let mut rows: Vec<_> = state
        .entities
        .values()
        .filter(|e| matches!(e.body["object"].as_str(), Some("charge" | "refund" | "dispute")))
        .collect();
    rows.sort_by_key(|e| std::cmp::Reverse(e.seq));
    let row = |body: &Value| {
        let id = text(body, "id");
        let actions: &[_] = match (body["object"].as_str(), body["status"].as_str()) {
            (Some("charge"), _) if body["disputed"] == false => &[("dispute", "Dispute")],
            (Some("dispute"), Some("needs_response")) => &[("won", "Merchant wins"), ("lost", "Merchant loses")],
            (Some("refund"), Some(status)) if status != "failed" => &[("fail", "Bounce")],
            _ => &[],
        };
        let button = |(action, words): &(&str, &str)| {
            let url = escape(&format!("{}/panel/{id}/{action}", request.root));
            format!(
                "<form method=\"post\" action=\"{url}\"><button data-twin-action=\"{action}\">{words}</button></form>"
            )
        };
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&id),
            escape(&sum(body, "amount")),
            escape(&text(body, "status")),
            actions.iter().map(button).collect::<String>(),
        )
    };
    let rows: String = rows.iter().take(100).map(|e| row(&e.body)).collect();
    let main = format!("<section class=\"wide\"><h1>Payments, refunds, disputes</h1><table>{rows}</table></section>");
    layout("Panel", &main)
}

fn sum(body: &Value, member: &str) -> String {
    let currency = text(body, "currency");
    let money = body[member].as_i64().and_then(|minor| amount::from_wire(minor, &currency));
    money.as_ref().map_or_else(|| "–".to_owned(), Money::to_string)
}

fn plain_page(title: &str, words: &str) -> String {
    layout(title, &format!("<section><h1>{title}</h1><p>{words}</p></section>"))
}

fn layout(title: &str, main: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title} – simulated Stripe</title>\
         <style>{STYLE}</style></head><body><header>Stripe <b>simulated</b></header><main>{main}</main>\
         <footer>No money moves here.</footer></body></html>"
    )
}

const STYLE: &str = "\
*{box-sizing:border-box}body{margin:0;min-height:100vh;font:16px/1.5 system-ui,sans-serif;color:#1a1f36;background:#f6f8fa}\
header,footer{padding:1rem 1.5rem;color:#596275}header{font-weight:600}header b{font-size:.75rem;color:#983705;\
background:#ffde92;border-radius:4px;padding:.1rem .4rem}main{display:flex;flex-wrap:wrap;gap:2rem;max-width:60rem;\
margin:2rem auto;padding:0 1.5rem}section{flex:1 1 20rem;background:#fff;border-radius:12px;padding:2rem;\
box-shadow:0 1px 3px #0002}.what{background:none;box-shadow:none}.wide{flex-basis:100%}h1{font-size:1.1rem;margin:0 0 .5rem;\
color:#596275;font-weight:500;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:0 0 1rem}.sum{font-size:2.25rem;\
font-weight:700;margin:0}.card{border:1px solid #d5dbe1;border-radius:6px;padding:.6rem .8rem;display:flex;\
justify-content:space-between;color:#596275}.no{color:#b3093c;background:#fde9ee;border-radius:6px;padding:.6rem .8rem}\
form{margin:.5rem 0}button{width:100%;padding:.7rem;border:1px solid #d5dbe1;border-radius:6px;background:#fff;\
color:#1a1f36;font:inherit;font-weight:600;cursor:pointer}button[data-twin-action=pay]{background:#0055de;color:#fff;\
border-color:#0055de}button:focus-visible{outline:3px solid #96c3ff}table{width:100%;border-collapse:collapse}\
td{padding:.5rem;border-top:1px solid #e6ebf1;overflow-wrap:anywhere}td form{display:inline-block;margin:0 .25rem 0 0}\
td button{padding:.2rem .6rem}";

fn html(status: u16, body: String) -> TwinAnswer {
    TwinAnswer::page(status, "text/html; charset=utf-8", body)
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}
