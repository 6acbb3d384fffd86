//! XML and forms made to hurt (F45, F46). Each must be refused or understood, quickly, and none may fill the stack.

use std::time::{Duration, Instant};

use super::*;

#[track_caller]
fn check(name: &str, xml: &[u8], good: bool) {
    use base64::Engine;
    let settings = settings("A");
    let body = form_body("transactions", &base64::engine::general_purpose::STANDARD.encode(xml));
    let begun = Instant::now();
    let read = read_body(&settings, &body);
    assert!(begun.elapsed() < Duration::from_secs(2), "{name} took {:?}", begun.elapsed());
    assert_eq!(read.is_ok(), good, "{name}: {read:?}");
}

/// A genuine notification (vector I24) to build on.
fn genuine() -> String {
    let case = group("itn", 51).into_iter().find(|c| c["id"] == "I24").unwrap();
    text(&case, "xml").to_owned()
}

#[test]
fn entities_are_never_expanded() {
    let laughs: String = (1..10).fold("<!ENTITY l0 \"lol\">".to_owned(), |all, n| {
        let before = n - 1;
        all + &format!("<!ENTITY l{n} \"{}\">", format!("&l{before};").repeat(10))
    });
    let with = |doctype: &str, value: &str| {
        let body = genuine().replace("AUTHORIZED", value);
        body.replacen("<transactionList>", &format!("{doctype}<transactionList>"), 1)
    };
    check("billion laughs", with(&format!("<!DOCTYPE x [{laughs}]>"), "&l9;").as_bytes(), false);
    let long = "a".repeat(100_000);
    let blow_up = with(&format!("<!DOCTYPE x [<!ENTITY a \"{long}\">]>"), &"&a;".repeat(20_000));
    check("quadratic blow-up", blow_up.as_bytes(), false);
    let file = with("<!DOCTYPE x [<!ENTITY f SYSTEM \"file:///etc/passwd\">]>", "&f;");
    check("entity to a file", file.as_bytes(), false);
    let url = with("<!DOCTYPE x [<!ENTITY u SYSTEM \"http://192.0.2.1/\">]>", "&u;");
    check("entity to an address", url.as_bytes(), false);
    let parameter = with("<!DOCTYPE x [<!ENTITY % p SYSTEM \"http://192.0.2.1/\"> %p;]>", "AUTHORIZED");
    check("parameter entity", parameter.as_bytes(), false);
    check("a bare document type", with("<!DOCTYPE transactionList>", "AUTHORIZED").as_bytes(), false);
    check("an entity without a type", with("", "&nbsp;").as_bytes(), false);
    check("a character that XML forbids", with("", "&#1;").as_bytes(), false);
    check("a character reference", genuine().replace("AUTHORIZED", "&#65;UTHORIZE&#x44;").as_bytes(), true);
}

#[test]
fn size_depth_and_width_are_bounded() {
    let root = |inner: &str| genuine().replace("</transaction>", &format!("{inner}</transaction>"));
    let deep = "<a>".repeat(40_000) + &"</a>".repeat(36_000);
    check("depth", root(&deep).as_bytes(), false);
    check("depth without end", format!("<transactionList>{}", "<a>".repeat(80_000)).as_bytes(), false);
    let wide: String = (0..20_000).map(|n| format!(" a{n}=\"\"")).collect();
    check("attributes", root(&format!("<a{wide}/>")).as_bytes(), false);
    check("nodes", root(&"<a/>".repeat(50_000)).as_bytes(), false);
    check("text", root(&format!("<a>{}</a>", "x".repeat(400_000))).as_bytes(), false);
    let same: String = " a=\"1\"".repeat(3);
    check("an attribute twice", root(&format!("<a{same}/>")).as_bytes(), false);
    let settings = settings("A");
    for body in
        [vec![b'a'; 4 << 20], "transactions=".bytes().chain(vec![b'A'; 4 << 20]).collect(), b"&".repeat(1 << 20)]
    {
        assert!(matches!(read_body(&settings, &body), Err(ReadError::Malformed(_))));
    }
}

#[test]
fn the_parser_itself_refuses_depth_and_width_of_any_size() {
    assert!(message::parse(("<a>".repeat(16) + &"</a>".repeat(16)).as_bytes()).is_ok());
    assert!(message::parse(("<a>".repeat(17) + &"</a>".repeat(17)).as_bytes()).is_err());
    for hostile in ["<a>".repeat(100_000), format!("<a{}/>", " b=\"\"".repeat(100_000)), "&".repeat(100_000)] {
        let begun = Instant::now();
        assert!(message::parse(hostile.as_bytes()).is_err());
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

// F14, F15
#[test]
fn one_text_has_one_meaning() {
    let good = genuine();
    check("as it is", good.as_bytes(), true);
    check("byte order mark", format!("\u{feff}{good}").as_bytes(), true);
    check("comment", good.replace("<transactions>", "<!-- x --><transactions>").as_bytes(), true);
    check("comment inside a value", good.replace("SUCCESS", "SUC<!-- x -->CESS").as_bytes(), true);
    check("no declaration", good.split_once("?>").unwrap().1.as_bytes(), true);
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    check("UTF-16", &[&[0xff, 0xfe][..], &utf16].concat(), false);
    check("another encoding declared", good.replace("UTF-8", "ISO-8859-2").as_bytes(), false);
    check("not UTF-8", &good.replace("AUTHORIZED", "AUTHORIZ\u{1}").into_bytes(), false);
    check("broken UTF-8", &[good.as_bytes(), &[0xc3]].concat(), false);
    check("NUL", good.replace("AUTHORIZED", "AUTHORIZED\0").as_bytes(), false);
    check("two roots", format!("{good}{}", good.split_once("?>").unwrap().1).as_bytes(), false);
    check("text after the root", format!("{good}x").as_bytes(), false);
    check("text beside elements", good.replace("<transactions>", "x<transactions>").as_bytes(), false);
    check("processing instruction", good.replace("<transactions>", "<?php x ?><transactions>").as_bytes(), false);
    check("cut", good.split_once("</transactionList>").unwrap().0.as_bytes(), false);
    check("empty", b"", false);
    let include = "<xi:include xmlns:xi=\"http://www.w3.org/2001/XInclude\" href=\"file:///etc/passwd\"/>";
    check("XInclude", good.replace("</transaction>", &format!("{include}</transaction>")).as_bytes(), false);
    let style = good.replacen("?>", "?><?xml-stylesheet href=\"x\"?>", 1);
    check("style sheet", style.as_bytes(), false);
}

/// Each of these has a right hash over its leaves; only the shape betrays it.
#[test]
fn values_cannot_change_places() {
    let good = genuine();
    let swap = |from: &str, to: &str| good.replace(from, to);
    for (name, xml) in [
        ("status and details swapped", {
            let swapped = swap("paymentStatusDetails>", "x>").replace("paymentStatus>", "paymentStatusDetails>");
            swapped.replace("x>", "paymentStatus>")
        }),
        ("remoteID not second", swap("remoteID>", "otherID>")),
        ("nodes wrapped", swap("<amount>", "<x><amount>").replace("</amount>", "</amount></x>")),
        ("empty list", "<transactionList><serviceID>903117</serviceID><transactions/></transactionList>".into()),
    ] {
        check(name, xml.as_bytes(), false);
    }
    check("a node nobody documents between them", swap("gatewayID>", "newID>").as_bytes(), true);
    check("a node before the service id", sealed(&swap("<serviceID>", "<x>y</x><serviceID>")).as_bytes(), false);
    check("an id of another order first", sealed(&swap("<orderID>", "<x>y</x><orderID>")).as_bytes(), false);
    check("the same, as it should be", sealed(&good).as_bytes(), true);
    // A return's hash (the payer sees it) is the hash of any document with these two values.
    use base64::Engine;
    let returned = vectors()["return_url"][0]["query"].clone();
    let xml = format!(
        "<recurringDeactivation><serviceID>903117</serviceID><recurringData><clientHash>{}</clientHash>\
         </recurringData><hash>{}</hash></recurringDeactivation>",
        text(&returned, "OrderID"),
        text(&returned, "Hash"),
    );
    let body = form_body("recurring", &base64::engine::general_purpose::STANDARD.encode(xml));
    assert!(matches!(read_body(&settings("A"), &body), Err(ReadError::Forged { why: "shape", .. })));
}

/// The document with the hash that fits its leaves.
fn sealed(xml: &str) -> String {
    let root = message::parse(xml.as_bytes()).unwrap();
    let string = root.signed_values().join("|") + "|" + settings("A").text("shared_key");
    xml.replace(root.text("hash"), &crate::sign::sha256_hex(string.as_bytes()))
}

#[test]
fn a_form_with_two_messages_is_refused() {
    let settings = settings("A");
    let body = itn(&settings, &[]);
    assert!(read_body(&settings, &body).is_ok());
    for twice in [[&body[..], b"&", &body].concat(), [&body[..], b"&recurring=AAAA"].concat()] {
        assert!(matches!(read_body(&settings, &twice), Err(ReadError::Malformed(_))));
    }
    assert!(read_body(&settings, &[&body[..], b"&other=1"].concat()).is_ok());
}

proptest::proptest! {
    #[test]
    fn no_body_makes_a_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let _ = read_body(&settings("A"), &body);
        let _ = message::parse(&body);
    }

    /// A genuine document with a piece of it put elsewhere: refused, or the event that it always was.
    #[test]
    fn no_rearrangement_makes_another_event(from in 0_usize..900, length in 1_usize..60, to in 0_usize..900) {
        let good = genuine();
        let (from, to) = (from.min(good.len()), to.min(good.len()));
        let piece = good[from..(from + length).min(good.len())].to_owned();
        let mut changed = good.clone();
        changed.insert_str(to, &piece);
        let original = read_body(&settings("A"), &post(&good)).unwrap().events;
        if let Ok(reading) = read_body(&settings("A"), &post(&changed)) {
            proptest::prop_assert_eq!(reading.events, original);
        }
    }

    #[test]
    fn a_description_has_only_what_is_allowed(text in "\\PC{0,120}", language in "(pl|uk|ru|de|)") {
        let out = super::super::latin::description(&text, &language);
        proptest::prop_assert!(out.len() <= 79);
        proptest::prop_assert!(out.chars().all(|c| c.is_ascii_alphanumeric() || ".:-, ".contains(c)), "{}", out);
    }
}
