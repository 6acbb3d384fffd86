//! Issuing: what is sent, and what an answer to it, or none, is worth.

use super::*;

#[tokio::test]
async fn create_sends_the_documented_request_and_reads_the_documented_answer() {
    let vector = &vectors()["invoice_add_ok"];
    let (settings, http) = (settings(json!({})), Script::json([vector["response"].clone()]));
    let document = WFIRMA.create(&cx(&settings, &http), "48120077", &order()).await.unwrap();
    check_request(&http.asked(0), &vector["request"]);
    assert!(http.asked(0).once, "a create is never repeated by the client");
    assert_eq!((document.id.as_str(), document.number.as_str()), ("510277301", "FV 12/11/2026"));
    assert_eq!((document.total, document.differences), (order().total, vec![]));
    assert_eq!(document.ksef, Ksef::Pending);
}

#[tokio::test]
async fn an_answer_in_xml_is_understood() {
    let vector = &vectors()["invoice_add_ok_xml"];
    let document = create(Ok(http(200, vector["response"].as_str().unwrap()))).await.unwrap();
    assert_eq!((document.number.as_str(), document.differences), ("FV 12/11/2026", vec![]));
}

// R-5W-50
#[tokio::test]
async fn what_was_issued_is_compared_with_what_was_asked() {
    for (pointer, told, difference) in [
        ("total", "99.98", "the total is 99.98 instead of 99.99"),
        ("currency", "EUR", "the currency is \"EUR\" instead of \"PLN\""),
        ("type", "proforma", "the document's type is \"proforma\" instead of \"normal\""),
        ("id_external", "phub-inv-01jd9k7m3q-v1", "the external id is"),
        ("paymentstate", "unpaid", "the payment state is \"unpaid\" instead of \"paid\""),
        ("date", "2026-11-20", "the issue date"),
        ("contractor/id", "48120078", "another buyer's card"),
        ("contractor_detail/nip", "1111111111", "the buyer's tax number is another one"),
        ("contractor_detail/name", "Ktoś Inny", "the buyer's name is another one"),
        ("contractor_detail/street", "Inna 1", "the buyer's address is another one"),
        ("contractor_detail/zip", "00-001", "the buyer's address is another one"),
        ("contractor_detail/city", "Kraków", "the buyer's address is another one"),
        ("contractor_detail/country", "CZ", "the buyer's address is another one"),
        ("invoicecontents/1/invoicecontent/vat", "8", "VAT of line 2 is \"8\" instead of \"23\""),
    ] {
        let mut answer = vectors()["invoice_add_ok"]["response"].take();
        *answer.pointer_mut(&format!("/invoices/0/invoice/{pointer}")).unwrap() = told.into();
        let document = create(Ok(http(200, answer.to_string()))).await.unwrap();
        assert!(document.differences.iter().any(|d| d.contains(difference)), "{pointer}: {:?}", document.differences);
    }
}

#[tokio::test]
async fn an_answer_without_the_whole_record_is_read_again() {
    let (settings, whole) = (settings(json!({})), vectors()["invoice_add_ok"]["response"].take());
    let thin = json!({"invoices": {"0": {"invoice": {"id": 510277301}}}, "status": {"code": "OK"}});
    let http = Script::json([thin.clone(), whole]);
    let document = WFIRMA.create(&cx(&settings, &http), "48120077", &order()).await.unwrap();
    assert_eq!((document.number.as_str(), document.differences.len()), ("FV 12/11/2026", 0));
    assert_eq!(http.paths(), ["/invoices/add", "/invoices/get/510277301"]);

    let failed = Script::new([Ok(self::http(200, thin.to_string())), Err(HttpError::NoAnswer("time-out".into()))]);
    let document = WFIRMA.create(&cx(&settings, &failed), "48120077", &order()).await.unwrap();
    assert_eq!(document.differences, ["wFirma does not name the total", "wFirma did not keep our key"]);
}

// F27, F29: the rows of `failure_classification` that concern wFirma and any API.
#[tokio::test]
async fn a_create_is_unknown_unless_it_surely_did_not_happen() {
    let not_sent = create(Err(HttpError::NotSent("refused".into()))).await.unwrap_err();
    assert_eq!(not_sent.class, FailureClass::Retryable);
    let cut = create(Err(HttpError::NoAnswer("reset".into()))).await.unwrap_err();
    assert_eq!(cut.class, FailureClass::Unknown);
    let ok_without = vectors()["ok_without_record_on_add"]["response"].to_string();
    let zero_id = r#"{"invoices":{"0":{"invoice":{"id":"0"}}},"status":{"code":"OK"}}"#;
    for (status, body) in
        [(200, ok_without.as_str()), (200, zero_id), (200, ""), (200, "{\"inv"), (500, ""), (302, ""), (404, "nginx")]
    {
        let failure = create(Ok(http(status, body))).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Unknown, "{status} {body}");
    }
    let missing_parent = create(Ok(http(200, r#"{"status":{"code":"NOT FOUND"}}"#))).await.unwrap_err();
    assert_eq!(missing_parent.class, FailureClass::Data);
}

// F37
#[tokio::test]
async fn a_full_queue_is_waited_for_as_long_as_it_says() {
    let answer =
        |header: &str| HttpResponse { headers: Headers::from_pairs([("Retry-After", header)]), ..http(429, "") };
    for (header, pause) in [("120", 120), ("Wed, 21 Oct 2026 07:28:00 GMT", 900), ("-1", 900), ("999999", 86_400)] {
        let failure = create(Ok(answer(header))).await.unwrap_err();
        let got = (failure.class, failure.pause_s, failure.account_wide);
        assert_eq!(got, (FailureClass::Retryable, Some(pause), true), "{header}");
    }
}

// F72
#[tokio::test]
async fn no_failure_holds_a_key() {
    for answer in [
        Ok(http(200, vectors()["auth"]["response"].to_string())),
        Ok(http(500, "")),
        Err(HttpError::NoAnswer("reset".into())),
    ] {
        let failure = create(answer).await.unwrap_err();
        assert!(!format!("{failure:?} {failure}").contains("canary"));
    }
}
