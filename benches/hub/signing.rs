//! Signed webhook calls as the gateways send them: bytes of the providers' fixtures (made by the vendors' documents,
//! not by our encoder) with other names filled in, signed here by the documented rules.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::load::{Requests, request};

/// What the bench's Stripe account signs with.
pub const STRIPE_SECRET: &str = "whsec_b3Jv7XkQw2Lr9TnYp5Dm8ZsGc4HfVaEu";
/// What a forger signs with, who does not know it.
const FORGERS_SECRET: &str = "whsec_Zx81kWq0Tn5YcR7uJv3PdB6mSg2LhEoA";
/// The bench's Autopay service and its key.
pub const AUTOPAY: (&str, &str) = ("903117", "vecA7Qz2vN9sLw4Rt8YbH3mXc6Pd1Ja5Ge0UfTio");
/// What every payment of the bench costs, in grosze.
pub const AMOUNT_MINOR: i64 = 24_600;

/// Stripe events: one text, in which the names of event, payment and reference are filled in at fixed places.
pub struct StripeCalls {
    text: Vec<u8>,
    slots: Vec<(usize, Slot)>,
    names: Vec<String>,
    signatures: Vec<[u8; 64]>,
    order: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Slot {
    Reference,
    Name,
    Signature,
}

/// Stands in a template where a reference of 26 characters goes.
const REFERENCE_MARK: &str = "<<<<<<<<<reference>>>>>>>>>";
const REFERENCE: usize = 26;

impl StripeCalls {
    /// One signed call for each reference, sent in `order`.
    pub fn new(path: &str, fixture: &str, references: Vec<String>, order: Vec<u32>) -> StripeCalls {
        StripeCalls::signed(STRIPE_SECRET, path, fixture, references, order)
    }

    /// One forged call for each reference: a body and a signature of its own, as well-formed as the valid ones.
    pub fn forged(path: &str, fixture: &str, references: Vec<String>) -> StripeCalls {
        let order = (0..u32::try_from(references.len()).expect("fewer than 2^32")).collect();
        StripeCalls::signed(FORGERS_SECRET, path, fixture, references, order)
    }

    fn signed(secret: &str, path: &str, fixture: &str, references: Vec<String>, order: Vec<u32>) -> StripeCalls {
        let reference_mark = &REFERENCE_MARK[..REFERENCE];
        let (body, event, object) = stripe_body(fixture);
        // Names of theirs get the reference's 26 characters, so that each is as distinct as the reference.
        let name_mark = "~".repeat(REFERENCE);
        let body = body.replace(&event, &format!("evt_{name_mark}"));
        let body = body.replace(&object, &format!("{}_{name_mark}", object.split('_').next().unwrap_or("pi")));
        let body = body.replace("att_01JD7Q9ZK3M5N8P2", reference_mark);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let signature_mark = "^".repeat(64);
        let headers = [
            ("Content-Type", "application/json; charset=utf-8"),
            ("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)"),
            ("Stripe-Signature", &format!("t={seconds},v1={signature_mark}")),
        ];
        let text = request("POST", path, &headers, body.as_bytes());
        let mut slots = vec![];
        for (mark, slot) in
            [(reference_mark, Slot::Reference), (&name_mark, Slot::Name), (&signature_mark, Slot::Signature)]
        {
            let whole = String::from_utf8(text.clone()).expect("text");
            slots.extend(whole.match_indices(mark).map(|(at, _)| (at, slot)));
        }
        let body_at = text.len() - body.len();
        let mut calls = StripeCalls { text, slots, names: references, signatures: vec![], order };
        let mut signed = vec![];
        for n in 0..calls.names.len() {
            signed.clear();
            calls.fill(n, &[b'0'; 64], &mut signed);
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
            mac.update(format!("{seconds}.").as_bytes());
            mac.update(&signed[body_at..]);
            let mut hex = [0; 64];
            hex::encode_to_slice(mac.finalize().into_bytes(), &mut hex).expect("32 bytes");
            calls.signatures.push(hex);
        }
        calls
    }

    fn fill(&self, n: usize, signature: &[u8; 64], into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&self.text);
        let reference = self.names[n].as_bytes();
        for (at, slot) in &self.slots {
            let value: &[u8] = match slot {
                Slot::Reference | Slot::Name => reference,
                Slot::Signature => signature,
            };
            into[start + at..start + at + value.len()].copy_from_slice(value);
        }
    }
}

impl Requests for StripeCalls {
    fn count(&self) -> u64 {
        self.order.len() as u64
    }

    fn write(&self, n: u64, into: &mut Vec<u8>) {
        let n = self.order[n as usize] as usize;
        self.fill(n, &self.signatures[n], into);
    }
}

/// The body of a fixture with the names of its event and its object.
fn stripe_body(name: &str) -> (String, String, String) {
    let fixture = include_str!("../../providers/fixtures/stripe.json");
    let fixture: serde_json::Value = serde_json::from_str(fixture).expect("JSON");
    let deliveries = fixture["deliveries"].as_array().expect("a list");
    let delivery = deliveries.iter().find(|d| d["name"] == name).unwrap_or_else(|| panic!("no fixture {name}"));
    let body = delivery["body"].as_str().expect("text").to_owned();
    let event: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let text = |v: &serde_json::Value| v.as_str().expect("a name").to_owned();
    let object = &event["data"]["object"];
    let money = if object["payment_intent"].is_string() { &object["payment_intent"] } else { &object["id"] };
    (body.clone(), text(&event["id"]), text(money))
}

/// Autopay notifications (ITN): a form with one base64 XML document that carries its hash.
pub struct AutopayCalls {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl AutopayCalls {
    /// One signed notification for each reference.
    pub fn new(path: &str, references: &[String]) -> AutopayCalls {
        let mut calls = AutopayCalls { bytes: vec![], ends: vec![] };
        for reference in references {
            let form = form_urlencoded::Serializer::new(String::new())
                .append_pair("transactions", &STANDARD.encode(itn(reference)))
                .finish();
            let headers = [("Content-Type", "application/x-www-form-urlencoded")];
            calls.bytes.extend(request("POST", path, &headers, form.as_bytes()));
            calls.ends.push(calls.bytes.len());
        }
        calls
    }
}

impl Requests for AutopayCalls {
    fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    fn write(&self, n: u64, into: &mut Vec<u8>) {
        let n = n as usize;
        let start = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        into.extend_from_slice(&self.bytes[start..self.ends[n]]);
    }
}

/// The document, written as the fixture writes it. The hash: SHA-256 over all values in their order and the shared
/// key, joined by `|` (Autopay documentation, itn and hashing).
fn itn(reference: &str) -> String {
    let (service, key) = AUTOPAY;
    let remote = &reference[reference.len() - 12..];
    let amount = format!("{}.{:02}", AMOUNT_MINOR / 100, AMOUNT_MINOR % 100);
    let values = [
        ("orderID", reference),
        ("remoteID", remote),
        ("amount", &amount),
        ("currency", "PLN"),
        ("gatewayID", "106"),
        ("paymentDate", "20261121101500"),
        ("paymentStatus", "SUCCESS"),
        ("paymentStatusDetails", "AUTHORIZED"),
    ];
    let mut hashed = format!("{service}|");
    let mut nodes = String::new();
    for (name, value) in values {
        hashed.push_str(value);
        hashed.push('|');
        nodes.push_str(&format!("            <{name}>{value}</{name}>\n"));
    }
    hashed.push_str(key);
    let hash = hex::encode(Sha256::digest(hashed.as_bytes()));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<transactionList>\n    <serviceID>{service}</serviceID>\n    \
         <transactions>\n        <transaction>\n{nodes}        </transaction>\n    </transactions>\n    \
         <hash>{hash}</hash>\n</transactionList>\n"
    )
}

/// The order of calls in which about one in ten repeats a call of a moment ago, by a fixed sequence of numbers.
pub fn with_repeats(payments: u32) -> Vec<u32> {
    let mut order = vec![];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 0..payments {
        order.push(n);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if random.is_multiple_of(9) {
            order.push(n.saturating_sub((random >> 32) as u32 % 500));
        }
    }
    order
}
