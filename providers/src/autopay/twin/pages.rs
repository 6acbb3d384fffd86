//! What the payer sees at the simulated gateway, in Polish or English.

use quick_xml::escape::escape;

use super::Link;
use crate::twin::TwinAnswer;

const STYLE: &str = "
:root { color-scheme: light; --blue: #1b53c5; --ink: #14213d; --soft: #5b6785; --line: #dfe4ef }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 24px 16px; background: #eef2fa;
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif }
main { width: 100%; max-width: 420px; background: #fff; border-radius: 16px; overflow: hidden;
  box-shadow: 0 12px 40px rgb(20 33 61 / 12%) }
header { padding: 16px 28px; background: var(--blue); color: #fff; display: flex; justify-content: space-between;
  font-weight: 600 }
header small { font-weight: 400; opacity: .85 }
section { padding: 24px 28px 28px }
h1 { margin: 0 0 4px; font-size: 34px; letter-spacing: -.02em; line-height: 1.2 }
p { margin: 0; color: var(--soft); overflow-wrap: anywhere }
.note { margin: 16px 0 0; padding: 10px 14px; border-radius: 10px; background: #fff6dc; color: #6b4e00 }
form { margin: 12px 0 0 }
form:first-of-type { margin-top: 24px }
button { width: 100%; padding: 13px 16px; border: 1px solid var(--line); border-radius: 10px; background: #fff;
  color: var(--ink); font: inherit; font-weight: 600; cursor: pointer }
button:hover, button:focus-visible { border-color: var(--blue); outline: 2px solid var(--blue) }
.first button { background: var(--blue); border-color: var(--blue); color: #fff }
footer { padding: 12px 28px; border-top: 1px solid var(--line); color: var(--soft); font-size: 13px }
";

/// The words of a page, Polish and English.
type Words = (&'static str, &'static str);

const ACTIONS: &[(&str, Words)] = &[
    ("pay", ("Zapłać", "Pay")),
    ("pay_later", ("Zapłać później (bank potwierdzi po chwili)", "Pay later (the bank confirms after a while)")),
    ("decline", ("Odmowa banku", "The bank declines")),
    ("cancel", ("Rezygnuję", "Cancel")),
    ("pay_twice", ("Zapłać dwa razy", "Pay twice")),
];

/// The page with the buttons.
pub(super) fn pay(link: &Link, address: &str, paid: bool) -> TwinAnswer {
    let mut body = format!(
        "<h1>{}</h1><p>{}</p><p>{} {}</p>",
        escape(link.amount.to_string()),
        escape(link.description.as_str()),
        word(link, ("Zamówienie", "Order")),
        escape(link.order.as_str()),
    );
    if paid {
        let words = ("To zamówienie jest już opłacone.", "This order is already paid.");
        body += &format!("<p class=\"note\">{}</p>", word(link, words));
    }
    for (action, words) in ACTIONS {
        let first = if *action == "pay" { " class=\"first\"" } else { "" };
        body += &format!(
            "<form method=\"post\" action=\"{}/{action}\"{first}><button data-twin-action=\"{action}\">{}</button></form>",
            escape(address),
            word(link, *words),
        );
    }
    TwinAnswer::page(200, "text/html; charset=UTF-8", page(language(link), &body))
}

/// A page for a link that leads no further.
pub(super) fn closed(link: &Link, why: &str) -> TwinAnswer {
    let words = match why {
        "cancelled" => ("Ta płatność została anulowana.", "This payment was cancelled."),
        "expired" => ("Ten link stracił ważność.", "This link has expired."),
        _ => ("Dziękujemy. Możesz zamknąć tę stronę.", "Thank you. You can close this page."),
    };
    let body = format!("<p>{}</p>", word(link, words));
    TwinAnswer::page(200, "text/html; charset=UTF-8", page(language(link), &body))
}

/// A wrong start ends here, with no way back to the shop.
pub(super) fn wrong_start(reason: &str) -> TwinAnswer {
    let body = format!("<p>Nie można rozpocząć płatności. The payment cannot be started.</p><p>{}</p>", escape(reason));
    TwinAnswer::page(400, "text/html; charset=UTF-8", page("pl", &body))
}

fn page(language: &str, body: &str) -> String {
    let (simulated, footer) = if language == "pl" {
        ("symulator", "To jest symulator bramki. Żadne pieniądze nie zmieniają właściciela.")
    } else {
        ("simulator", "This is a simulated gateway. No money changes hands.")
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"{language}\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Autopay ({simulated})</title><style>{STYLE}</style>\
         </head><body><main><header>Autopay <small>{simulated}</small></header><section>{body}</section>\
         <footer>{footer}</footer></main></body></html>\n"
    )
}

fn language(link: &Link) -> &'static str {
    if link.language == "PL" || link.language.is_empty() { "pl" } else { "en" }
}

fn word(link: &Link, words: Words) -> &'static str {
    if language(link) == "pl" { words.0 } else { words.1 }
}
