//! The books of one simulated company: cards, invoices, and the rules by which they come to be.

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Map, Value, json};

use crate::facts::Settings;
use crate::invoicer::{Vat, day_in};
use crate::ksef;
use crate::money::{Currency, MAX_MINOR, Money};
use crate::vat;
use crate::wfirma::envelope::{amount, field, id_of, items, numbered as in_order, text_of};
use crate::wfirma::order::numbered;

/// Most lines of one document.
const MAX_LINES: usize = 200;
const SELLER_NIP: &str = "1111111111";
/// The codes an account has, with their ids and rates in basis points.
const VAT_CODES: &[(&str, &str, u32)] = &[
    ("222", "23", 2300),
    ("223", "8", 800),
    ("224", "5", 500),
    ("225", "0", 0),
    ("226", "WDT", 0),
    ("227", "EXP", 0),
    ("230", "NP", 0),
    ("231", "NPUE", 0),
    ("232", "ZW", 0),
];

/// One company.
pub(super) struct Company {
    /// Access, secret and application key.
    pub keys: [String; 3],
    /// Id of its only series.
    pub series: String,
    id: String,
    is_vat_payer: bool,
    uses_ksef: bool,
    cards: Vec<Value>,
    invoices: Vec<Invoice>,
}

/// One issued invoice.
pub(super) struct Invoice {
    /// When.
    pub created: Timestamp,
    record: Value,
    ksef_number: Option<String>,
}

impl Invoice {
    /// The record as it is told: with its KSeF number, or without while it waits for one.
    pub fn shown(&self, is_pending: bool) -> Value {
        let mut record = self.record.clone();
        if let (Some(number), Some(members)) = (&self.ksef_number, record.as_object_mut()) {
            let (number, status) = if is_pending { ("", "processing") } else { (number.as_str(), "ok") };
            members.insert("ksef_reference_number".into(), number.into());
            members.insert("ksef_status".into(), status.into());
        }
        record
    }
}

pub(super) fn keys(settings: &Settings) -> [String; 3] {
    ["access_key", "secret_key", "app_key"].map(|name| settings.text(name).to_owned())
}

pub(super) fn vat_codes() -> Vec<Value> {
    let row = |(id, code, bp): &(&str, &str, u32)| {
        let rate = Money::new(i64::from(*bp), Currency::PLN).to_decimal();
        json!({"id": id, "code": code, "rate": rate, "declaration_country": {"id": "0"}})
    };
    VAT_CODES.iter().map(row).collect()
}

impl Company {
    pub fn new(settings: &Settings) -> Self {
        Company {
            keys: keys(settings),
            series: settings.get("series_id").unwrap_or("3310").to_owned(),
            id: settings.text("company_id").to_owned(),
            is_vat_payer: settings.flag("vat_payer"),
            uses_ksef: settings.text("ksef") != "off",
            cards: vec![],
            invoices: vec![],
        }
    }

    pub fn shown(&self) -> Value {
        let vat_payer = if self.is_vat_payer { "1" } else { "0" };
        json!({"id": self.id, "name": "Sprzedawca Próbny", "nip": SELLER_NIP, "vat_payer": vat_payer, "tax": "taxregister"})
    }

    pub fn invoices(&self) -> impl Iterator<Item = &Invoice> {
        self.invoices.iter()
    }

    pub fn invoice(&self, id: &str) -> Option<&Invoice> {
        self.invoices.iter().find(|i| id_of(&i.record).as_deref() == Some(id))
    }

    pub fn cards(&self) -> impl Iterator<Item = &Value> {
        self.cards.iter()
    }

    pub fn card(&self, id: &str) -> Option<&Value> {
        self.cards.iter().find(|card| id_of(card).as_deref() == Some(id))
    }

    /// Makes a card; `Err` is the card with its errors.
    pub fn add_card(&mut self, given: &Value, now: Timestamp) -> Result<Value, Value> {
        let mut card = given.clone();
        for name in ["name", "zip", "city"].into_iter().filter(|name| is_blank(given, name)) {
            hang_error(&mut card, "", name, "Pole nie może być puste");
        }
        if card.get("errors").is_some() {
            return Err(card);
        }
        let id = (48_120_077 + self.cards.len()).to_string();
        set(
            &mut card,
            &[("id", id), ("created", local(now)), ("modified", local(now)), ("discount_percent", "0.00".into())],
        );
        self.cards.push(card.clone());
        Ok(card)
    }

    pub fn edit_card(&mut self, id: &str, given: &Value, now: Timestamp) -> Option<Value> {
        let card = self.cards.iter_mut().find(|card| id_of(card).as_deref() == Some(id))?;
        for (name, value) in given.as_object()?.iter().filter(|(name, _)| *name != "id") {
            card.as_object_mut()?.insert(name.clone(), value.clone());
        }
        set(card, &[("modified", local(now))]);
        Some(card.clone())
    }

    /// Issues an invoice; `Err` is the record with its errors.
    pub fn issue(&mut self, given: Value, now: Timestamp, is_wrong: bool, is_keyless: bool) -> Result<Value, Value> {
        let (currency, date) = self.validate(&given, now)?;
        let card = given.get("contractor").and_then(id_of).and_then(|id| self.card(&id)).cloned().unwrap_or_default();
        let id = (510_277_301 + self.invoices.len()).to_string();
        let lines = lines(&given, currency);
        let splits = vat::by_rate(lines.iter().map(|l| (l.gross, l.vat))).unwrap_or_default();
        let sum = |part: fn(&vat::Split) -> i64| splits.iter().map(|(_, s)| part(s)).sum::<i64>();
        let decimal = |minor: i64| Money::new(minor, currency).to_decimal();
        let total = sum(|s| s.gross) - i64::from(is_wrong);
        let paid = field(&given, "alreadypaid_initial").and_then(|t| amount(&t, currency)).map_or(0, Money::minor);
        let number = 1 + self.invoices.iter().filter(|i| same_month(&i.record, date)).count();
        let text = |name: &str| field(&given, name).unwrap_or_default();
        let detail = |name: &str| field(&card, name).unwrap_or_default();
        let record = json!({
            "id": id,
            "type": text("type"),
            "fullnumber": format!("FV {number}/{:02}/{}", date.month(), date.year()),
            "number": number.to_string(),
            "day": format!("{:02}", date.day()),
            "month": format!("{:02}", date.month()),
            "year": date.year().to_string(),
            "date": date.to_string(),
            "disposaldate": text("disposaldate"),
            "paymentdate": text("paymentdate"),
            "paymentmethod": text("paymentmethod"),
            "paymentstate": if paid >= total { "paid" } else { "unpaid" },
            "currency": currency.code(),
            "price_type": "brutto",
            "netto": decimal(sum(|s| s.net)),
            "tax": decimal(sum(|s| s.vat)),
            "total": decimal(total),
            "total_composed": decimal(total),
            "alreadypaid": decimal(paid),
            "alreadypaid_initial": decimal(paid),
            "remaining": decimal((total - paid).max(0)),
            "id_external": if is_keyless { String::new() } else { text("id_external") },
            "description": text("description"),
            "auto_send": "0",
            "created": local(now),
            "modified": local(now),
            "contractor": {"id": card.get("id")},
            "contractor_detail": {
                "tax_id_type": detail("tax_id_type"), "name": detail("name"), "nip": detail("nip"),
                "street": detail("street"), "zip": detail("zip"), "city": detail("city"),
                "country": detail("country"), "email": detail("email"),
            },
            "company_detail": {"name": "Sprzedawca Próbny", "nip": SELLER_NIP, "street": "Umowna 1", "zip": "00-001",
                "city": "Warszawa", "country": "PL"},
            "series": {"id": self.series},
            "invoicecontents": numbered(lines.iter().map(|l| json!({"invoicecontent": l.shown(currency)}))),
        });
        let unique = format!(
            "{SELLER_NIP}-{}-{:012X}",
            date.strftime("%Y%m%d"),
            0x0100_0000_0000_u64 + self.invoices.len() as u64
        );
        let ksef_number = self.uses_ksef.then(|| ksef::with_check(&unique));
        let invoice = Invoice { created: now, record, ksef_number };
        let told = invoice.shown(true);
        self.invoices.push(invoice);
        Ok(told)
    }

    fn validate(&self, given: &Value, now: Timestamp) -> Result<(Currency, Date), Value> {
        let mut checked = given.clone();
        let empty = "Pole nie może być puste";
        let text = |name: &str| field(given, name).unwrap_or_default();
        let wanted = if self.is_vat_payer { "normal" } else { "bill" };
        if text("type") != wanted {
            hang_error(&mut checked, "", "type", "Nieprawidłowy typ dokumentu");
        }
        if given.get("contractor").and_then(id_of).is_none_or(|id| self.card(&id).is_none()) {
            hang_error(&mut checked, "", "contractor", empty);
        }
        if text("price_type") != "brutto" {
            hang_error(&mut checked, "", "price_type", "Symulator wystawia tylko w cenach brutto");
        }
        let currency = match text("currency").as_str() {
            "" => Some(Currency::PLN),
            code => code.parse().ok(),
        };
        if currency.is_none() {
            hang_error(&mut checked, "", "currency", "Nieznana waluta");
        }
        let date = match text("date").as_str() {
            "" => Some(day_in("Europe/Warsaw", now)),
            text if text.len() == 10 => text.parse().ok(),
            _ => None,
        };
        if date.is_none() {
            hang_error(&mut checked, "", "date", "Data musi być w formacie RRRR-MM-DD");
        }
        let lines = given.get("invoicecontents").map(|l| items(l, "invoicecontent")).unwrap_or_default();
        if lines.is_empty()
            || lines.len() > MAX_LINES
            || lines.iter().any(|l| is_blank(l, "name") || is_blank(l, "price") || is_blank(l, "count"))
        {
            hang_error(&mut checked, "", "invoicecontents", empty);
        }
        match (currency, date) {
            (Some(currency), Some(date)) if checked == *given => Ok((currency, date)),
            _ => Err(checked),
        }
    }
}

struct Line {
    name: String,
    unit: String,
    count: String,
    price: String,
    code: &'static str,
    code_id: &'static str,
    vat: Vat,
    gross: i64,
}

impl Line {
    fn shown(&self, currency: Currency) -> Value {
        let decimal = |minor: i64| Money::new(minor, currency).to_decimal();
        let bp = if let Vat::Rate(bp) = self.vat { bp } else { 0 };
        let net = decimal(vat::from_gross(self.gross, bp).net);
        json!({"name": self.name, "unit": self.unit, "count": self.count, "price": self.price, "netto": net,
            "brutto": decimal(self.gross), "vat": self.code, "vat_code": {"id": self.code_id}, "good": {"id": "0"}})
    }
}

fn lines(given: &Value, currency: Currency) -> Vec<Line> {
    let list = given.get("invoicecontents").map(|l| items(l, "invoicecontent")).unwrap_or_default();
    list.into_iter()
        .map(|line| {
            let text = |name: &str| field(line, name).unwrap_or_default();
            // An unknown or missing rate silently becomes the standard one.
            let code = VAT_CODES.iter().find(|(_, code, _)| *code == text("vat")).unwrap_or(&VAT_CODES[0]);
            let price = amount(&text("price"), currency).map_or(0, Money::minor);
            // A count has up to four decimals: digits over a power of ten.
            let count = text("count").replace('.', "").parse::<i64>().unwrap_or_default();
            let places = text("count").split_once('.').map_or(0, |(_, part)| part.len().min(6));
            let scale = 10_i128.pow(u32::try_from(places).unwrap_or(0));
            let gross = (i128::from(price) * i128::from(count) + scale / 2) / scale;
            let vat = if code.2 > 0 || code.1 == "0" { Vat::Rate(code.2) } else { Vat::Exempt };
            Line {
                name: text("name"),
                unit: text("unit"),
                count: text("count"),
                price: text("price"),
                code: code.1,
                code_id: code.0,
                vat,
                // Sums of such amounts stay far from the limit of an `i64`.
                gross: i64::try_from(gross).ok().filter(|g| (0..=MAX_MINOR).contains(g)).unwrap_or_default(),
            }
        })
        .collect()
}

/// Puts another rate on every line.
pub(super) fn charge(wanted: &mut Value, code: &str) {
    let list = wanted.get_mut("invoicecontents").and_then(Value::as_object_mut);
    for line in list.into_iter().flat_map(Map::values_mut) {
        if let Some(line) = line.get_mut("invoicecontent") {
            set(line, &[("vat", code.to_owned())]);
        }
    }
}

/// Hangs an error on a record, or on its member `node`.
pub(super) fn hang_error(record: &mut Value, node: &str, name: &str, message: &str) {
    let target = match (node, record.as_object_mut()) {
        ("", Some(members)) => members,
        (_, Some(members)) => match members.entry(node).or_insert_with(|| json!({})).as_object_mut() {
            Some(inner) => inner,
            None => return,
        },
        (_, None) => return,
    };
    let error = json!({"error": {"field": name, "message": message, "method": {"name": "notEmpty", "parameters": ""}}});
    let errors = target.entry("errors").or_insert_with(|| Value::Object(Map::new()));
    if let Some(list) = errors.as_object_mut() {
        list.insert(list.len().to_string(), error);
    }
}

/// True when a row satisfies every condition that is understood; the others are ignored, as the real one does.
pub(super) fn fits(row: &Value, parameters: &Value) -> bool {
    parameters.get("conditions").is_none_or(|list| conditions(list, 0).into_iter().all(|c| holds(row, c)))
}

/// The conditions in any of the shapes seen: `{"condition": …}`, numbered, listed, or under `and`.
fn conditions(list: &Value, depth: usize) -> Vec<&Value> {
    let inner = |v| if depth < 8 { conditions(v, depth + 1) } else { vec![] };
    match list {
        Value::Array(members) => members.iter().flat_map(inner).collect(),
        Value::Object(members) => match members.get("condition") {
            Some(condition) => vec![condition],
            None => members
                .get("and")
                .into_iter()
                .chain(in_order(members).into_iter().map(|(_, v)| v))
                .flat_map(inner)
                .collect(),
        },
        _ => vec![],
    }
}

fn holds(row: &Value, condition: &Value) -> bool {
    let text = |name: &str| condition.get(name).map(text_of).unwrap_or_default();
    let named = text("field");
    let Some(has) = field(row, named.rsplit('.').next().unwrap_or_default()) else { return true };
    // The real one's collation takes no notice of case and trailing blanks.
    let (has, wanted) = (has.trim_end().to_lowercase(), text("value").trim_end().to_lowercase());
    match text("operator").as_str() {
        "eq" => has == wanted,
        "ne" => has != wanted,
        "gt" => has > wanted,
        "ge" => has >= wanted,
        "lt" => has < wanted,
        "le" => has <= wanted,
        _ => true,
    }
}

/// A row cut down to the members asked for.
pub(super) fn with_fields(row: Value, parameters: &Value) -> Value {
    let list = parameters.get("fields").and_then(Value::as_object).map(in_order).unwrap_or_default();
    let names: Vec<String> = list.into_iter().filter_map(|(_, v)| field(v, "field")).collect();
    let wanted = |name: &String| names.iter().any(|n| n.rsplit('.').next() == Some(name));
    match row {
        Value::Object(members) if !names.is_empty() => {
            Value::Object(members.into_iter().filter(|(name, _)| wanted(name)).collect())
        }
        whole => whole,
    }
}

fn set(record: &mut Value, members: &[(&str, String)]) {
    if let Some(record) = record.as_object_mut() {
        for (name, value) in members {
            record.insert((*name).to_owned(), value.clone().into());
        }
    }
}

fn is_blank(record: &Value, name: &str) -> bool {
    field(record, name).is_none_or(|text| text.trim().is_empty())
}

fn same_month(record: &Value, date: Date) -> bool {
    let told = field(record, "date").and_then(|text| text.parse::<Date>().ok());
    told.is_some_and(|told| (told.year(), told.month()) == (date.year(), date.month()))
}

/// Polish local time, without a zone.
fn local(now: Timestamp) -> String {
    let zone = jiff::tz::TimeZone::get("Europe/Warsaw").unwrap_or(jiff::tz::TimeZone::UTC);
    now.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
