//! Right hashes that somebody saw and moved onto another message. The hash joins values without their names, and
//! these are seen from outside: that of a start form, that of a return, and that of our own refusals.

use super::*;
use crate::sign;

/// A document of leaves: names with their values, under the root and inside the transaction.
struct Leaves<'a> {
    before: &'a [(&'a str, &'a str)],
    inside: &'a [(&'a str, &'a str)],
    after: &'a [(&'a str, &'a str)],
}

fn written(leaves: &[(&str, &str)]) -> String {
    leaves.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect()
}

impl Leaves<'_> {
    fn post(&self, hash: &str) -> Vec<u8> {
        let (before, inside, after) = (written(self.before), written(self.inside), written(self.after));
        post(&format!(
            "<transactionList><serviceID>903117</serviceID>{before}<transactions><transaction>{inside}</transaction>\
             </transactions>{after}<hash>{hash}</hash></transactionList>"
        ))
    }

    /// The same with the hash that the service itself would write.
    fn signed(&self) -> Vec<u8> {
        let settings = settings("A");
        let leaves = [self.before, self.inside, self.after].concat();
        let values = leaves.iter().map(|(_, value)| *value).filter(|v| !v.is_empty());
        let values: Vec<_> = ["903117"].into_iter().chain(values).chain([settings.text("shared_key")]).collect();
        self.post(&sign::sha256_hex(values.join("|").as_bytes()))
    }
}

fn inside<'a>(inside: &'a [(&'a str, &'a str)]) -> Leaves<'a> {
    Leaves { before: &[], inside, after: &[] }
}

#[track_caller]
fn check_refused(name: &str, body: &[u8]) {
    let read = read_body(&settings("A"), body);
    assert!(matches!(read, Err(ReadError::Forged { why: "shape", .. })), "{name}: {read:?}");
}

/// The hash of the answer to a forged notification about this order.
fn refused_hash(order: &str) -> String {
    let settings = settings("A");
    let leaves = [("orderID", order), ("remoteID", "9A1"), ("amount", "1.00"), ("currency", "PLN")];
    let read = read_body(&settings, &inside(&leaves).post(&"0".repeat(64)));
    let reply = reply(&settings, &read, Outcome::Recorded);
    assert!(reply.body.contains(">NOTCONFIRMED<"), "{reply:?}");
    message::parse(reply.body.as_bytes()).unwrap().text("hash").to_owned()
}

/// Every place for an order id and the word NOTCONFIRMED in a settlement message; empty leaves add nothing to a hash.
#[test]
fn a_refusal_of_ours_cannot_become_a_settlement() {
    let word = "NOTCONFIRMED";
    for (order, leaves) in [
        ("HUB-1", [("orderID", "HUB-1"), ("amount", ""), ("currency", ""), ("transferStatus", word)]),
        ("HUB-1", [("x", "HUB-1"), ("amount", ""), ("currency", ""), ("transferStatus", word)]),
        ("HUB-1", [("amount", "HUB-1"), ("currency", ""), ("transferStatus", word), ("title", "")]),
        ("true", [("isRefund", "true"), ("amount", ""), ("currency", ""), ("transferStatus", word)]),
        ("SUCCESS", [("amount", ""), ("currency", ""), ("transferStatus", "SUCCESS"), ("transferStatusDetails", word)]),
    ] {
        check_refused(&format!("{leaves:?}"), &inside(&leaves).post(&refused_hash(order)));
    }
    let inside: &[_] = &[("amount", ""), ("currency", ""), ("transferStatus", word)];
    let rooted = Leaves { before: &[("x", "HUB-1")], inside, after: &[] };
    check_refused("a leaf under the root", &rooted.post(&refused_hash("HUB-1")));
}

#[test]
fn a_refusal_of_ours_cannot_switch_a_recurring_payment_off() {
    use base64::Engine;
    let xml = format!(
        "<recurringDeactivation><serviceID>903117</serviceID><recurringData><recurringAction>DEACTIVATE\
         </recurringAction><clientHash>NOTCONFIRMED</clientHash></recurringData><hash>{}</hash>\
         </recurringDeactivation>",
        refused_hash("DEACTIVATE"),
    );
    check_refused("", &form_body("recurring", &base64::engine::general_purpose::STANDARD.encode(xml)));
}

#[test]
fn a_return_cannot_become_a_settlement() {
    let returned = vectors()["return_url"][0]["query"].clone();
    let (order, hash) = (text(&returned, "OrderID"), text(&returned, "Hash"));
    let leaves = [("amount", ""), ("currency", ""), ("transferStatus", order)];
    check_refused("as a status", &inside(&leaves).post(hash));
    let settings = settings("A");
    let string = format!("903117|SUCCESS|{}", settings.text("shared_key"));
    let leaves = [("amount", ""), ("currency", ""), ("transferStatus", "SUCCESS")];
    check_refused("a status by name", &inside(&leaves).post(&sign::sha256_hex(string.as_bytes())));
}

/// The payer sees the hash, and who orders something may choose its description.
#[test]
fn a_start_form_cannot_become_a_settlement() {
    let start = |description: &str| {
        let given = [("ServiceID", "903117"), ("OrderID", "HUB-1"), ("Amount", "129.90"), ("Description", description)];
        let given: Vec<_> = given.iter().chain(&[("Currency", "PLN"), ("CustomerEmail", "a@b.test")]).collect();
        let given: Vec<_> = given.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        start::sign(&Key::of(&settings("A")), &given).unwrap().pop().unwrap().1
    };
    for (name, description, leaves) in [
        (
            "unknown leaves",
            "Case 7",
            &[
                ("orderID", "HUB-1"),
                ("amount", "129.90"),
                ("x", "Case 7"),
                ("currency", "PLN"),
                ("transferStatus", "a@b.test"),
            ][..],
        ),
        (
            "the description as status",
            "SUCCESS",
            &[
                ("orderID", "HUB-1"),
                ("amount", "129.90"),
                ("currency", ""),
                ("transferStatus", "SUCCESS"),
                ("x", "PLN"),
                ("y", "a@b.test"),
            ],
        ),
        (
            "the description as currency",
            "PLN",
            &[
                ("orderID", "HUB-1"),
                ("amount", "129.90"),
                ("currency", "PLN"),
                ("transferDate", "PLN"),
                ("transferStatus", "a@b.test"),
            ],
        ),
    ] {
        check_refused(name, &inside(leaves).post(&start(description)));
    }
}

const TRANSFER: &[(&str, &str)] = &[
    ("isRefund", "true"),
    ("orderID", "HUB-1"),
    ("remoteID", "9A1"),
    ("remoteOutID", "ZWTR_1"),
    ("amount", "29.90"),
    ("currency", "PLN"),
    ("transferStatus", "SUCCESS"),
    ("title", "Zwrot | sprawa 7"),
];

/// The transfer with one leaf written anew.
fn changed<'a>(name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    TRANSFER.iter().map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) }).collect()
}

fn with(place: usize, name: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut leaves = TRANSFER.to_vec();
    leaves.insert(place, (name, "y"));
    leaves
}

#[test]
fn a_settlement_has_its_shape_to_the_last_leaf() {
    let good = read_body(&settings("A"), &inside(TRANSFER).signed()).unwrap();
    assert_eq!(good.events[0].kind.word(), "refund");
    for (name, value) in [
        ("amount", ""),
        ("amount", "29,90"),
        ("amount", "-29.90"),
        ("currency", ""),
        ("currency", "XXX"),
        ("transferStatus", "DONE"),
        ("transferStatus", "SUCCESS "),
        ("orderID", "HUB-1|9A1"),
        ("remoteOutID", "ZWTR|1"),
    ] {
        check_refused(&format!("{name} {value}"), &inside(&changed(name, value)).signed());
    }
    for place in 0..TRANSFER.len() {
        check_refused(&format!("an unknown leaf at {place}"), &inside(&with(place, "x")).signed());
    }
    let read = read_body(&settings("A"), &inside(&with(TRANSFER.len(), "x")).signed());
    assert!(read.is_ok(), "a new leaf behind the documented ones: {read:?}");
    check_refused("a documented leaf out of its order", &inside(&with(TRANSFER.len(), "transferDate")).signed());
}

#[test]
fn nothing_unknown_stands_under_the_root() {
    let payment = [
        ("orderID", "HUB-1"),
        ("remoteID", "9A1"),
        ("amount", "29.90"),
        ("currency", "PLN"),
        ("paymentStatus", "SUCCESS"),
    ];
    for inside in [TRANSFER, &payment] {
        let (none, some): (&[_], &[_]) = (&[], &[("x", "y")]);
        assert!(read_body(&settings("A"), &Leaves { before: none, inside, after: none }.signed()).is_ok());
        check_refused("before", &Leaves { before: some, inside, after: none }.signed());
        check_refused("after", &Leaves { before: none, inside, after: some }.signed());
    }
}

#[test]
fn no_value_of_a_payment_that_is_read_holds_the_separator() {
    for name in ["amount", "currency", "gatewayID", "paymentDate", "paymentStatus", "paymentStatusDetails"] {
        let body = itn(&settings("A"), &[(name, "129.90|PLN")]);
        check_refused(name, &body);
    }
}

/// What is not authentic gets no signature over a text that somebody else chose freely.
#[test]
fn a_refused_settlement_is_not_answered_with_a_signature() {
    let settings = settings("A");
    for out in ["ZWTR_1", "129.90"] {
        let read = read_body(&settings, &inside(&changed("remoteOutID", out)).post(&"0".repeat(64)));
        assert!(matches!(read, Err(ReadError::Forged { why: "mismatch", .. })), "{read:?}");
        assert_eq!(reply(&settings, &read, Outcome::Recorded), Reply::status(400), "{out}");
    }
}

#[test]
fn a_refused_recurring_message_is_answered_with_a_plain_name_only() {
    use base64::Engine;
    let settings = settings("A");
    for (client, signed) in [("c2f1a0b9", true), ("129.90", false), ("a@b.test", false), ("", false)] {
        let xml = format!(
            "<recurringDeactivation><serviceID>903117</serviceID><recurringData><recurringAction>DEACTIVATE\
             </recurringAction><clientHash>{client}</clientHash></recurringData><hash>00</hash>\
             </recurringDeactivation>"
        );
        let body = form_body("recurring", &base64::engine::general_purpose::STANDARD.encode(xml));
        let reply = reply(&settings, &read_body(&settings, &body), Outcome::Recorded);
        assert_eq!(reply.status, 400, "{client}");
        assert_eq!(!reply.body.is_empty(), signed, "{client}");
    }
}
