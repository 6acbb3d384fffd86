//! What becomes of a document: its number in KSeF, its PDF; and the account's self-test.

use super::*;

async fn ksef_of(vector: &str, more: Value) -> Ksef {
    let (settings, http) = (settings(more), Script::json([vectors()[vector]["response"].take()]));
    let document = WFIRMA.get(&cx(&settings, &http), "510277301", &order()).await.unwrap();
    assert_eq!(document.differences, Vec::<String>::new());
    document.ksef
}

#[tokio::test]
async fn the_ksef_number_decides_whether_the_document_is_ready() {
    assert_eq!(ksef_of("invoice_get_ksef_pending", json!({})).await, Ksef::Pending);
    assert_eq!(ksef_of("invoice_get_no_ksef", json!({})).await, Ksef::NotApplicable);
    assert_eq!(ksef_of("invoice_get_ksef_pending", json!({"ksef": "off"})).await, Ksef::NotApplicable);
    match ksef_of("invoice_get_ksef_done", json!({})).await {
        Ksef::Accepted { number } => assert!(crate::ksef::is_number(&number)),
        other => panic!("{other:?}"),
    }
}

async fn fetch(state: &str, download: Option<HttpResponse>) -> Result<Option<Vec<u8>>, InvoiceFailure> {
    let settings = settings(json!({}));
    let state = Ok(http(200, vectors()[state]["response"].to_string()));
    let http = Script::new([state].into_iter().chain(download.clone().map(Ok)));
    let document = compare::existing(&settings, &json!({}), "510277301", &order());
    let fetched = WFIRMA.fetch_pdf(&cx(&settings, &http), &document).await;
    if download.is_some() {
        check_request(&http.asked(1), &vectors()["invoice_download"]["request"]);
    }
    fetched
}

#[tokio::test]
async fn only_a_whole_pdf_is_a_document() {
    let vectors = vectors();
    let vector = &vectors["invoice_download"];
    assert_eq!(fetch("invoice_get_ksef_pending", None).await.unwrap(), None);
    let first = hex::decode(vector["ok"]["body_first_bytes_hex"].as_str().unwrap()).unwrap();
    let whole = [b"\n".as_slice(), &first, b"4 ... %%EOF\n"].concat();
    let got = fetch("invoice_get_ksef_done", Some(http(200, whole.clone()))).await.unwrap().unwrap();
    assert_eq!(got, whole[1..]);
    let error = vector["error_with_200"]["response"].to_string();
    let xml = vector["error_xml"]["response"].as_str().unwrap();
    let early = [b"%PDF-1.4 %%EOF".as_slice(), &[b' '; 2000]].concat();
    for (answer, wanted) in [
        (http(200, error), FailureClass::Absent),
        (http(200, xml), FailureClass::Retryable),
        (http(200, first), FailureClass::Retryable),
        (http(200, early), FailureClass::Retryable),
        (http(500, whole), FailureClass::Retryable),
        (http(200, r#"{"status":{"code":"OK"}}"#), FailureClass::Retryable),
    ] {
        let failure = fetch("invoice_get_no_ksef", Some(answer)).await.unwrap_err();
        assert_eq!(failure.class, wanted, "{failure}");
    }
}

#[tokio::test]
async fn the_self_test_wants_an_empty_look_up_and_the_right_vat_status() {
    let (settings, vectors) = (settings(json!({})), vectors());
    let empty = vectors["invoice_find_by_external_id"]["zero_results"]["response"].clone();
    let strangers = vectors["invoice_find_by_external_id"]["filter_ignored"]["response"].clone();
    let company =
        |payer: &str| json!({"companies": {"0": {"company": {"vat_payer": payer}}}, "status": {"code": "OK"}});
    let silent = json!({"status": {"code": "ACTION NOT FOUND"}});
    for (answers, code) in [
        (vec![empty.clone(), company("1")], None),
        (vec![empty.clone(), silent], None),
        (vec![empty, company("0")], Some("VAT PAYER")),
        (vec![strangers], Some("FILTER IGNORED")),
        (vec![vectors["auth"]["response"].clone()], Some("AUTH")),
    ] {
        let http = Script::json(answers);
        let failure = WFIRMA.self_test(&cx(&settings, &http)).await.err();
        assert_eq!(failure.as_ref().map(|f| f.code.as_str()), code);
        assert!(failure.is_none_or(|f| f.class == FailureClass::Config && f.account_wide));
    }
}
