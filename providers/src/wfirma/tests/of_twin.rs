//! The twin takes what the real one takes.

use super::*;

fn ask(twin: &dyn InvoicerTwin, path: &str, body: &str) -> (u16, String) {
    let keys = [("accesskey", "canary-access"), ("secretkey", "canary-secret"), ("appkey", "canary-app")];
    let request = TwinRequest {
        method: "POST".into(),
        path: path.into(),
        query: "inputFormat=json&outputFormat=json&company_id=885001".into(),
        headers: Headers::from_pairs(keys),
        body: body.into(),
        root: "http://127.0.0.1/sandbox/wfirma".into(),
        now: "2026-11-21T20:00:00Z".parse().unwrap(),
        faults: Faults::default(),
    };
    match twin.serve(&request) {
        TwinAnswer::Page { status, body, .. } => (status, String::from_utf8_lossy(&body).into_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_twin_takes_every_shape_of_request_that_the_real_one_takes() {
    let twin = WFIRMA.twin().unwrap();
    twin.enroll(&settings(json!({})));
    let card = vectors()["contractor_add_ok"]["request"]["body"].to_string();
    assert!(ask(twin.as_ref(), "/contractors/add", &card).1.contains("\"48120077\""));
    let add = &vectors()["invoice_add_ok"]["request"]["body"];
    let invoice = &add["invoices"]["0"]["invoice"];
    for (at, shape) in vectors()["invoice_add_request_shapes_seen_to_work"].as_array().unwrap().iter().enumerate() {
        let body = shape["body"].as_str().unwrap().replace("\"invoice\":{}", &format!("\"invoice\":{invoice}"));
        let (_, answer) = ask(twin.as_ref(), "/invoices/add", &body);
        let number = format!("FV {}/11/2026", at + 1);
        assert!(answer.contains(&number) && answer.contains("\"netto\":\"81.29\""), "{answer}");
    }
    for (path, code) in [
        ("/invoices/add", "INPUT ERROR"),
        ("/invoices/fly", "ACTION NOT FOUND"),
        ("/dragons/find", "CONTROLLER NOT FOUND"),
        ("/invoices/get/1", "NOT FOUND"),
    ] {
        let body = if code == "INPUT ERROR" { "{" } else { "{}" };
        assert!(ask(twin.as_ref(), path, body).1.contains(code), "{path}");
    }
    for count in ["9223372036854775807", "-1.5", "x", "0.000000000001"] {
        let body = add.to_string().replace("2.0000", count);
        assert!(ask(twin.as_ref(), "/invoices/add", &body).1.contains("\"OK\""), "{count}");
    }
}

#[test]
fn the_twin_understands_every_shape_of_conditions_and_ignores_strange_ones() {
    let twin = WFIRMA.twin().unwrap();
    twin.enroll(&settings(json!({})));
    ask(twin.as_ref(), "/contractors/add", &vectors()["contractor_add_ok"]["request"]["body"].to_string());
    let add = vectors()["invoice_add_ok"]["request"]["body"].to_string();
    for key in ["phub-inv-01JD9K7M3Q-v1", "phub-inv-02", "phub-inv-03"] {
        ask(twin.as_ref(), "/invoices/add", &add.replace("phub-inv-01JD9K7M3Q-v1", key));
    }
    let ours = json!({"condition": {"field": "Invoice.id_external", "operator": "eq", "value": "phub-inv-02"}});
    let short = json!({"condition": {"field": "id_external", "operator": "eq", "value": "phub-inv-02"}});
    let since = json!({"condition": {"field": "Invoice.date", "operator": "ge", "value": "2026-11-22"}});
    let strange = json!({"condition": {"field": "Invoice.external", "operator": "eq", "value": "phub-inv-02"}});
    for (conditions, total) in [
        (json!({"0": ours}), "1"),
        (ours.clone(), "1"),
        (json!([ours]), "1"),
        (json!({"and": [short]}), "1"),
        (json!({"0": ours, "1": since}), "0"),
        (json!({"0": strange}), "3"),
    ] {
        let body = json!({"api": {"invoices": {"parameters": {"limit": 2, "conditions": conditions}}}});
        let answer: Value = serde_json::from_str(&ask(twin.as_ref(), "/invoices/find", &body.to_string()).1).unwrap();
        assert_eq!(answer["invoices"]["parameters"]["total"], total, "{conditions}");
        assert_eq!(answer["invoices"].get("2"), None, "no more than the limit");
    }
}

// F69
#[test]
fn the_panel_shows_names_as_text() {
    let twin = WFIRMA.twin().unwrap();
    twin.enroll(&settings(json!({})));
    let mut card = vectors()["contractor_add_ok"]["request"]["body"].clone();
    card["contractors"]["0"]["contractor"]["name"] = "<script>alert(1)</script>".into();
    ask(twin.as_ref(), "/contractors/add", &card.to_string());
    ask(twin.as_ref(), "/invoices/add", &vectors()["invoice_add_ok"]["request"]["body"].to_string());
    let (status, page) = ask(twin.as_ref(), "/panel", "");
    assert_eq!(status, 200);
    assert!(page.contains("FV 1/11/2026") && page.contains("99.99 PLN") && !page.contains("<script>"));
    let (_, pdf) = ask(twin.as_ref(), "/panel/510277301.pdf", "");
    assert!(pdf.starts_with("%PDF-") && pdf.contains("Razem: 99.99 PLN"));
    assert_eq!(ask(twin.as_ref(), "/panel/7.pdf", "").0, 404);
}
