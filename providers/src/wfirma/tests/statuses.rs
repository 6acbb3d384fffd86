//! Statuses and errors: each of them means what its vector says.

use super::*;

/// Every vector is read here; a new one must be given its place.
#[tokio::test]
async fn every_status_means_what_its_vector_says_at_every_http_status() {
    for (name, vector) in vectors().as_object().unwrap() {
        let calls: &[Call] = match name.as_str() {
            "fatal_on_find" | "execution_time_limit_on_find" => &[Call::Read],
            "fatal_on_add" | "execution_time_limit_on_add" | "unknown_code_on_add" | "html_502_on_add" => {
                &[Call::Write]
            }
            "invoice_add_validation_error" | "invoice_add_input_error" | "invoice_add_input_error_with_message" => {
                &[Call::Write]
            }
            "invoice_add_ksef_authorisation" => &[Call::Write],
            "auth"
            | "auth_lock"
            | "access_denied"
            | "denied_scope"
            | "company_id_required"
            | "action_not_found"
            | "controller_not_found_xml"
            | "not_found"
            | "not_found_sentence"
            | "out_of_service"
            | "snapshot_lock"
            | "requests_limit" => &[Call::Read, Call::Write],
            // These have tests of their own.
            "note"
            | "base_url"
            | "request_headers"
            | "contractor_find_by_nip"
            | "contractor_add_ok"
            | "invoice_add_ok"
            | "invoice_add_ok_xml"
            | "invoice_add_request_shapes_seen_to_work"
            | "ok_without_record_on_add"
            | "invoice_find_by_external_id"
            | "invoice_get_ksef_pending"
            | "invoice_get_ksef_done"
            | "invoice_get_no_ksef"
            | "invoice_download" => continue,
            // Calls that are not made here; their answers are envelopes all the same.
            "invoice_send_ok" | "payment_add_ok" => {
                assert_eq!(Envelope::read(vector["response"].to_string().as_bytes()).unwrap().code, "OK");
                continue;
            }
            "invoice_correction_add" | "oss_invoice_fragment" | "webhook_add" => continue,
            other => panic!("{other} has no test"),
        };
        let body = vector["response"].as_str().map_or_else(|| vector["response"].to_string(), str::to_owned);
        let statuses: &[u16] = if name == "html_502_on_add" { &[502] } else { &[200, 400, 403, 404, 422, 500, 503] };
        for (call, status) in calls.iter().flat_map(|call| statuses.iter().map(move |status| (*call, *status))) {
            let failure = status::accept(call, &http(status, body.as_str())).unwrap_err();
            assert_eq!(failure.class, class(vector["expect"]["cls"].as_str().unwrap()), "{name} {call:?} {status}");
            if let Some(pause) = vector["expect"]["not_before_s"].as_u64() {
                assert_eq!((failure.pause_s.map(u64::from), failure.account_wide), (Some(pause), true), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_validation_error_names_the_fields_of_the_order() {
    let vector = &vectors()["invoice_add_validation_error"];
    let failure = create(Ok(http(200, vector["response"].to_string()))).await.unwrap_err();
    let wanted: Vec<_> = vector["expect"]["field_errors"].as_array().unwrap().iter().map(|f| &f["path"]).collect();
    assert_eq!(wanted, ["date", "contractor.name", "contractor.zip", "invoicecontents.1.name"]);
    let pair = |path: &str, message: &str| (path.to_owned(), message.to_owned());
    assert_eq!(
        failure.fields,
        [
            pair("issue_date", "Data musi być w formacie RRRR-MM-DD"),
            pair("buyer.name", "Pole nie może być puste"),
            pair("buyer.postcode", "Pole nie może być puste"),
            pair("lines.1.name", "Treść nie może być pusta"),
        ]
    );
    assert_eq!(failure.message, "Wystąpiły błędy walidacji.");
}

#[test]
fn errors_may_be_false_null_a_list_or_xml() {
    let body = r#"{"invoices":{"0":{"invoice":{"errors":false,"contractor":{"errors":null},"vat_moss_details":
        {"vat_moss_detail":{"errors":[{"error":{"field":"type","message":"brak"}}]}}}}},"status":{"code":"ERROR"}}"#;
    let failure = status::accept(Call::Write, &http(200, body)).unwrap_err();
    assert_eq!(failure.fields, [("vat_moss_details.0.type".to_owned(), "brak".to_owned())]);
    let error = "<errors><error><field>name</field><message>pusta</message></error></errors>";
    let lines = format!("<invoicecontents><invoicecontent/><invoicecontent>{error}</invoicecontent></invoicecontents>");
    let body = format!("<api><invoices><invoice>{lines}</invoice></invoices><status><code>ERROR</code></status></api>");
    let failure = status::accept(Call::Write, &http(200, body)).unwrap_err();
    assert_eq!(failure.fields, [("lines.1.name".to_owned(), "pusta".to_owned())]);
}

#[tokio::test]
async fn a_missing_authorisation_in_ksef_is_for_the_owner_of_the_account() {
    let vector = vectors()["invoice_add_ksef_authorisation"]["response"].take();
    let failure = create(Ok(http(200, vector.to_string()))).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Config, "KSEF AUTHORISATION"));
    assert!(failure.account_wide);
}
