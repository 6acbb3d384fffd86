//! What wFirma writes, read with tolerance: JSON with numbered keys, arrays or bare records, XML where JSON was asked
//! for, ids as text or numbers, relations that are empty in five ways.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;
use serde_json::{Map, Value};

use crate::money::{Currency, MAX_MINOR, Money};

/// Largest answer looked at, in bytes. The documented ones have a few kilobytes.
const MAX_BODY: usize = 4 << 20;
/// Deepest XML read; serde_json has a limit of its own.
const MAX_DEPTH: usize = 32;

/// An answer with a status.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Envelope {
    /// `status.code`, in capitals, trimmed, `_` as a blank.
    pub code: String,
    /// `status.message`.
    pub message: String,
    root: Value,
}

impl Envelope {
    /// Reads JSON or XML by its first character; `None` for everything without a status code.
    pub fn read(body: &[u8]) -> Option<Envelope> {
        if body.len() > MAX_BODY {
            return None;
        }
        let text = std::str::from_utf8(body).ok()?.trim_start_matches('\u{feff}').trim();
        let root = match text.chars().next()? {
            '{' => serde_json::from_str(text).ok()?,
            '<' => read_xml(text)?,
            _ => return None,
        };
        let root: Value = match root {
            Value::Object(mut members) => members.remove("api").unwrap_or(Value::Object(members)),
            other => other,
        };
        let status = root.get("status")?;
        let code = text_of(status.get("code")?).trim().to_uppercase().replace('_', " ");
        let message = status.get("message").map(text_of).unwrap_or_default();
        (!code.is_empty()).then_some(Envelope { code, message, root })
    }

    /// The records of a branch (`invoices`), each out of its wrapper (`invoice`), in numeric order. A branch that is
    /// missing, `[]` or holds parameters only has none.
    pub fn records(&self, branch: &str, record: &str) -> Vec<&Value> {
        self.root.get(branch).map(|list| items(list, record)).unwrap_or_default()
    }

    /// A whole branch.
    pub fn branch(&self, branch: &str) -> Option<&Value> {
        self.root.get(branch)
    }
}

/// The members of a list in any of its three shapes: `{"0": {"x": …}}`, `[{"x": …}]`, `{"x": …}`.
pub(super) fn items<'a>(list: &'a Value, wrapper: &str) -> Vec<&'a Value> {
    let unwrapped = |v: &'a Value| v.get(wrapper).unwrap_or(v);
    match list {
        Value::Array(members) => members.iter().map(unwrapped).collect(),
        Value::Object(members) => match members.get(wrapper) {
            Some(Value::Array(bare)) => bare.iter().collect(),
            Some(bare) => vec![bare],
            None => numbered(members).into_iter().map(|(_, v)| unwrapped(v)).collect(),
        },
        _ => vec![],
    }
}

/// Members whose key is all digits, in numeric order.
pub(super) fn numbered(members: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let digits = |k: &str| !k.is_empty() && k.len() <= 6 && k.bytes().all(|b| b.is_ascii_digit());
    let mut list: Vec<_> = members.iter().filter(|(k, _)| digits(k)).map(|(k, v)| (k.as_str(), v)).collect();
    list.sort_by_key(|(k, _)| k.parse::<u32>().unwrap_or(u32::MAX));
    list
}

/// Text of a value that may be text, a number or a flag; empty for everything else.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(true) => "1".into(),
        Value::Bool(false) => "0".into(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// Text of a member, `None` when the record has no such member.
pub(super) fn field(record: &Value, name: &str) -> Option<String> {
    record.get(name).map(text_of)
}

/// The id in a relation (`{"id": "7"}`) or in a record; `None` for the five ways of saying "none".
pub(super) fn id_of(record: &Value) -> Option<String> {
    let id = record.get("id").map(text_of)?;
    let plain = !id.is_empty() && id.len() <= 32 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    (plain && id != "0").then_some(id)
}

/// Reads `99.99`, `99.9`, `99` or `99.9900` exactly; digits beyond the currency's decimals must be zeros.
pub(super) fn amount(text: &str, currency: Currency) -> Option<Money> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.len() <= 15 && s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let places = usize::from(currency.exponent());
    let (kept, rest) = part.split_at_checked(places).unwrap_or((part, ""));
    if rest.bytes().any(|b| b != b'0') {
        return None;
    }
    let minor: i64 = format!("{whole}{kept:0<places$}").parse().ok()?;
    (minor <= MAX_MINOR).then(|| Money::new(minor, currency))
}

/// XML as the same tree: an element with elements is an object, one with text is text, repeated ones are an array.
fn read_xml(text: &str) -> Option<Value> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<(String, Map<String, Value>, String)> = vec![(String::new(), Map::new(), String::new())];
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) if open.len() <= MAX_DEPTH => {
                open.push((tag.name().into_inner().to_owned(), Map::new(), String::new()));
            }
            Event::Start(_) | Event::DocType(_) => return None,
            Event::Empty(tag) => add(&mut open.last_mut()?.1, tag.name().into_inner(), Value::String(String::new())),
            Event::End(_) => {
                let (name, members, text) = open.pop()?;
                let value = if members.is_empty() { Value::String(text.trim().into()) } else { Value::Object(members) };
                add(&mut open.last_mut()?.1, &name, value);
            }
            Event::Text(t) => open.last_mut()?.2.push_str(&t.xml10_content()),
            Event::CData(t) => open.last_mut()?.2.push_str(&t.xml10_content()),
            Event::GeneralRef(entity) => {
                let text = &mut open.last_mut()?.2;
                match entity.resolve_char_ref().ok()? {
                    Some(c) => text.push(c),
                    None => text.push_str(resolve_predefined_entity(&entity)?),
                }
            }
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    let (_, members, _) = open.pop()?;
    open.is_empty().then_some(Value::Object(members))
}

fn add(members: &mut Map<String, Value>, name: &str, value: Value) {
    match members.get_mut(name) {
        None => drop(members.insert(name.to_owned(), value)),
        Some(Value::Array(list)) => list.push(value),
        Some(first) => {
            let list = vec![first.take(), value];
            *first = Value::Array(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_ids(body: &str, ids: &[&str]) {
        let envelope = Envelope::read(body.as_bytes()).expect(body);
        let found: Vec<_> = envelope.records("invoices", "invoice").into_iter().filter_map(id_of).collect();
        assert_eq!(found, ids, "{body}");
    }

    #[test]
    fn a_list_has_many_shapes() {
        check_ids(
            r#"{"invoices":{"1":{"invoice":{"id":8}},"0":{"invoice":{"id":"7"}}},"status":{"code":"OK"}}"#,
            &["7", "8"],
        );
        check_ids(r#"{"invoices":[{"invoice":{"id":"7"}}],"status":{"code":"OK"}}"#, &["7"]);
        check_ids(r#"{"invoices":{"invoice":{"id":"7"}},"status":{"code":"OK"}}"#, &["7"]);
        check_ids(r#"{"api":{"invoices":[{"invoice":{"id":"7"}}],"status":{"code":"OK"}}}"#, &["7"]);
        check_ids(r#"{"invoices":{"parameters":{"total":0}},"status":{"code":"OK"}}"#, &[]);
        check_ids(r#"{"invoices":[],"status":{"code":"OK"}}"#, &[]);
        check_ids(r#"{"invoices":null,"status":{"code":"OK"}}"#, &[]);
        check_ids("\u{feff} {\"status\":{\"code\":\" ok \"}}", &[]);
        let one = "<invoice><id>7</id><name>a &amp; b</name></invoice>";
        check_ids(&format!("<api><invoices>{one}</invoices><status><code>OK</code></status></api>"), &["7"]);
        check_ids(&format!("<api><invoices>{one}{one}</invoices><status><code>OK</code></status></api>"), &["7", "7"]);
        check_ids(r#"{"invoices":{"invoice":{"id":"0"}},"status":{"code":"OK"}}"#, &[]);
        check_ids(r#"{"invoices":{"invoice":{"id":"../1"}},"status":{"code":"OK"}}"#, &[]);
    }

    #[test]
    fn what_has_no_status_is_no_envelope() {
        let deep = "<a>".repeat(100);
        for body in
            ["", "[]", "{}", "null", "<html><body>Bad Gateway</body></html>", "%PDF-1.4", "{\"status\":{}}", &deep]
        {
            assert_eq!(Envelope::read(body.as_bytes()), None, "{body}");
        }
        let bomb = r#"<!DOCTYPE a [<!ENTITY b "c">]><api><status><code>OK</code></status></api>"#;
        assert_eq!(Envelope::read(bomb.as_bytes()), None);
        assert_eq!(Envelope::read(&[0xff; 9]), None);
    }

    #[track_caller]
    fn check_amount(text: &str, currency: &str, minor: Option<i64>) {
        assert_eq!(amount(text, currency.parse().unwrap()).map(Money::minor), minor, "{text}");
    }

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        check_amount("99.99", "PLN", Some(9999));
        check_amount("99.9", "PLN", Some(9990));
        check_amount("99", "PLN", Some(9900));
        check_amount("99.9900", "PLN", Some(9999));
        check_amount("12400.00", "ISK", Some(12400));
        check_amount("99.995", "PLN", None);
        for bad in ["", ".5", "-1", "1e3", "1,00", "٩", "9999999999999999999", "99999999999.00"] {
            check_amount(bad, "PLN", None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..200), xml in "[<>/a&;#x0-9 ]{0,60}") {
            let _ = Envelope::read(&body);
            let _ = Envelope::read(format!("<{xml}").as_bytes());
        }
    }
}
