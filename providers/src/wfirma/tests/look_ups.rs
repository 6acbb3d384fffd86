//! Looking up documents and buyers' cards.

use super::*;

// F30
#[tokio::test]
async fn a_look_up_concludes_no_more_than_the_answer_bears() {
    let vectors = vectors();
    let vector = &vectors["invoice_find_by_external_id"];
    let settings = settings(json!({}));
    for (name, case) in vector.as_object().unwrap().iter().filter(|(name, _)| *name != "request") {
        let http = Script::json([case["response"].clone()]);
        let found = WFIRMA.find(&cx(&settings, &http), &order()).await;
        check_request(&http.asked(0), &vector["request"]);
        match (name.as_str(), found) {
            ("zero_results" | "zero_results_empty_array" | "zero_results_no_branch" | "proforma_shares_key", found) => {
                assert_eq!(found, Found::None, "{name}");
            }
            ("one_result" | "one_result_numeric_types", Found::One(document)) => {
                assert_eq!((document.id.as_str(), document.differences.len()), ("510277301", 0), "{name}");
                assert_eq!(document.number, "FV 12/11/2026");
            }
            ("filter_ignored", Found::Failed(failure)) => assert_eq!(failure.code, "FILTER IGNORED"),
            ("amount_differs", Found::Conflict(document)) => assert_eq!(document.total.minor(), 9998),
            ("two_results", Found::Many(documents)) => {
                let ids: Vec<_> = documents.iter().map(|d| d.id.as_str()).collect();
                assert_eq!(ids, ["510277301", "510277302"]);
            }
            (name, found) => panic!("{name} ended in {found:?}"),
        }
    }
}

#[tokio::test]
async fn a_look_up_that_fails_or_misses_members_concludes_nothing() {
    let settings = settings(json!({}));
    let no_total = json!({"id": "1", "type": "normal", "currency": "PLN", "id_external": order().external_key});
    let other_case = json!({"id": "1", "type": "normal", "currency": "PLN", "total": "99.99",
        "id_external": order().external_key.to_uppercase()});
    let row = |record: Value| json!({"invoices": {"0": {"invoice": record}}, "status": {"code": "OK"}}).to_string();
    for answer in [
        Ok(http(200, vectors()["fatal_on_find"]["response"].to_string())),
        Ok(http(200, "<html>")),
        Ok(http(200, row(no_total))),
        Ok(http(200, row(other_case))),
        Err(HttpError::NoAnswer("time-out".into())),
        Err(HttpError::NotSent("refused".into())),
    ] {
        let http = Script::new([answer]);
        match WFIRMA.find(&cx(&settings, &http), &order()).await {
            Found::Failed(failure) => assert_eq!(failure.class, FailureClass::Retryable, "{failure}"),
            found => panic!("{found:?}"),
        }
    }
}

#[tokio::test]
async fn after_an_earlier_send_a_document_without_key_is_found_by_date_and_remark() {
    let settings = settings(json!({}));
    let sent = InvoiceOrder { first_sent_on: Some("2026-11-21".parse().unwrap()), ..order() };
    let none = vectors()["invoice_find_by_external_id"]["zero_results"]["response"].take();
    let strangers = vectors()["invoice_find_by_external_id"]["filter_ignored"]["response"].take();
    let http = Script::json([none.clone(), strangers.clone()]);
    match WFIRMA.find(&cx(&settings, &http), &sent).await {
        Found::One(document) => {
            assert_eq!(document.id, "510277001", "the row with another key is another payment's");
            assert!(document.differences.iter().any(|d| d.contains("external id")), "{:?}", document.differences);
        }
        found => panic!("{found:?}"),
    }
    for (pointer, told) in [("total", "99.98"), ("description", "inne"), ("type", "proforma"), ("date", "2026-11-20")] {
        let mut other = strangers.clone();
        *other.pointer_mut(&format!("/invoices/0/invoice/{pointer}")).unwrap() = told.into();
        let http = Script::json([none.clone(), other]);
        assert_eq!(WFIRMA.find(&cx(&settings, &http), &sent).await, Found::None, "{pointer}");
    }
    // The key's own look-up was clean; this one may fail.
    let http = Script::new([Ok(self::http(200, none.to_string())), Err(HttpError::NoAnswer("reset".into()))]);
    assert_eq!(WFIRMA.find(&cx(&settings, &http), &sent).await, Found::None);
}

#[tokio::test]
async fn a_buyers_card_is_looked_up_by_number_and_taken_when_the_name_agrees() {
    let (settings, vectors) = (settings(json!({})), vectors());
    let find = &vectors["contractor_find_by_nip"];
    let http = Script::json([find["response_one"].clone()]);
    assert_eq!(WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), None).await.unwrap(), "48120077");
    check_request(&http.asked(0), &find["request"]);

    let added = vectors["contractor_add_ok"]["response"].clone();
    let http = Script::json([find["response_none"].clone(), added.clone()]);
    assert_eq!(WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), None).await.unwrap(), "48120077");
    let sent: Value = serde_json::from_slice(&http.asked(1).body).unwrap();
    let (sent, wanted) = (&sent["contractors"]["0"]["contractor"], &vectors["contractor_add_ok"]["request"]["body"]);
    for (name, value) in wanted["contractors"]["0"]["contractor"].as_object().unwrap() {
        // Only a short name that we do not have is another one.
        assert!(name == "altname" || sent[name] == *value, "{name}");
    }
    assert!(http.asked(1).once);

    // The same number under another name is another card; the same name at another address is brought up to date.
    let mut other = find["response_one"].clone();
    other["contractors"]["0"]["contractor"]["name"] = "Ktoś Inny".into();
    let http = Script::json([other, added.clone()]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), None).await.unwrap();
    assert_eq!(http.paths(), ["/contractors/find", "/contractors/add"]);
    let mut moved = find["response_one"].clone();
    moved["contractors"]["0"]["contractor"]["street"] = "Dawna 1".into();
    moved["contractors"]["0"]["contractor"]["nip"] = "123-456-32-18".into();
    let http = Script::json([moved, added]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), None).await.unwrap();
    assert_eq!(http.paths(), ["/contractors/find", "/contractors/edit/48120077"]);
}

#[tokio::test]
async fn a_known_card_is_read_and_a_deleted_one_replaced() {
    let (settings, vectors) = (settings(json!({})), vectors());
    let one = vectors["contractor_find_by_nip"]["response_one"].clone();
    let http = Script::json([one.clone()]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), Some("48120077")).await.unwrap();
    assert_eq!(http.paths(), ["/contractors/get/48120077"]);
    let http = Script::json([vectors["not_found"]["response"].clone(), one]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), Some("48120001")).await.unwrap();
    assert_eq!(http.paths(), ["/contractors/get/48120001", "/contractors/find"]);
}

#[tokio::test]
async fn a_private_person_is_added_without_a_number() {
    let settings = settings(json!({}));
    let mut order = order();
    order.buyer = Buyer { is_company: false, tax_id_kind: TaxIdKind::None, tax_id: String::new(), ..order.buyer };
    let http = Script::json([vectors()["contractor_add_ok"]["response"].take()]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order, None).await.unwrap();
    let sent: Value = serde_json::from_slice(&http.asked(0).body).unwrap();
    let card = &sent["contractors"]["0"]["contractor"];
    assert_eq!((&card["tax_id_type"], &card["nip"]), (&json!("none"), &json!("")));
    // Adding a card twice harms nobody: no outcome of it is unknown.
    let http = Script::new([Err(HttpError::NoAnswer("reset".into()))]);
    let failure = WFIRMA.upsert_buyer(&cx(&settings, &http), &order, None).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Retryable);
}
