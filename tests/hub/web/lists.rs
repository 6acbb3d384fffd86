//! LISTA PŁATNOŚCI, the case page and what guards them.

use std::collections::BTreeSet;

use grosz::store::Payer;

use super::{Visitor, csrf, inside, location, pay_link, portal};
use crate::harness::Engine;
use crate::stories::stage::Stage;

/// The invoice cell of a payment's row: its word and its text.
fn cell(page: &str, payment: &str) -> (String, String) {
    let row = page.split(&format!("<tr id=\"{payment}\"")).nth(1).unwrap_or_else(|| panic!("no row in {page}"));
    let row = row.split("</tr>").next().expect("its end");
    let word = row.split("data-cell=\"").nth(1).and_then(|r| r.split('"').next()).expect("a cell").to_owned();
    (word, inside(row, "data-cell=", "</td>"))
}

// R-5W-20…22, 30…34: the five cells with their words and actions, as the payer meets them.
#[tokio::test]
async fn the_five_cells_are_shown_with_their_actions() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let list = portal(&stage.payer);
    let started = stage.start(&stage.case("1/2026").await, "autopay").await;
    let cancelled = stage.pay("2/2026", "autopay", "cancel").await;
    let declined = stage.pay("3/2026", "autopay", "decline").await;
    let paid = stage.pay("4/2026", "autopay", "pay").await;
    let page = visitor.get(&list).await.expect(200).text();
    let pair = |word: &str, text: &str| (word.to_owned(), text.to_owned());
    assert_eq!(cell(&page, &started.id), pair("try_again", "Spróbuj ponownie"));
    assert_eq!(cell(&page, &cancelled.id), pair("renew_payment", "Ponów płatność"));
    assert_eq!(cell(&page, &declined.id), pair("try_again", "Spróbuj ponownie"));
    assert_eq!(cell(&page, &paid.id), pair("generating", "Generowanie faktury"));
    for label in ["Realizowana", "Zrealizowana", "Błąd"] {
        assert!(page.contains(&format!(">{label}</span>")), "{label}");
    }
    let before = visitor.get(&format!("{list}/status")).await.expect(200).json();
    let pdf = format!("{list}/payments/{}/invoice.pdf", paid.id);
    let early = visitor.get_with(&pdf, &[("accept-language", "pl-PL,pl;q=0.9")]).await.expect(404).text();
    assert!(early.contains("Faktury jeszcze tu nie ma"), "F86: {early}");

    stage.let_pass(120, 10).await;
    let page = visitor.get(&list).await.expect(200).text();
    assert_eq!(cell(&page, &paid.id), pair("download", "Pobierz fakturę"));
    let after = visitor.get(&format!("{list}/status")).await.expect(200).json();
    assert_ne!(before["version"], after["version"], "an open page notices");
    let file = visitor.get(&pdf).await.expect(200);
    assert!(file.body.starts_with(b"%PDF"));
    assert_eq!(file.header("content-type"), Some("application/pdf"));
    assert!(file.header("content-disposition").is_some_and(|d| d.starts_with("attachment; filename=\"")));
    assert_eq!(file.header("cache-control"), Some("no-store"));

    let token = csrf(&visitor.get(&list).await);
    let retry = format!("{list}/payments/{}/retry", cancelled.id);
    assert_eq!(location(&visitor.post(&retry, &[("csrf", &token)]).await), pay_link(&cancelled));
    assert_eq!(stage.attempts(&cancelled).await.len(), 2);
    visitor.post(&retry, &[]).await.expect(403);
}

// R-5W-55: by status, by period, both ends included.
#[tokio::test]
async fn the_list_is_filtered_and_paged() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let list = portal(&stage.payer);
    let first = stage.pay("1/2026", "autopay", "cancel").await;
    stage.hub.advance(2 * 86_400);
    let second = stage.start(&stage.case("2/2026").await, "autopay").await;
    let rows = async |query: &str| {
        let page = visitor.get(&format!("{list}{query}")).await.expect(200).text();
        [&first.id, &second.id].map(|id| page.contains(&format!("<tr id=\"{id}\"")))
    };
    assert_eq!(rows("").await, [true, true]);
    assert_eq!(rows("?status=error").await, [true, false]);
    assert_eq!(rows("?status=started").await, [false, true]);
    assert_eq!(rows("?status=completed").await, [false, false]);
    assert_eq!(rows("?from=2026-11-21&to=2026-11-21").await, [true, false]);
    assert_eq!(rows("?from=2026-11-22").await, [false, true]);
    assert_eq!(rows("?to=2026-11-20").await, [false, false]);
    assert_eq!(rows("?status=nonsense&from=never").await, [true, true]);

    for n in 3..=23 {
        stage.start(&stage.case(&format!("{n}/2026")).await, "autopay").await;
    }
    let page = visitor.get(&list).await.expect(200).text();
    assert_eq!(page.matches("<tr id=\"pay_").count(), 20);
    let next = page.split("rel=\"next\"").next().and_then(|p| p.rsplit("href=\"").next()).expect("a link");
    let next = next.split('"').next().expect("its end").to_owned();
    let page = visitor.get(&next).await.expect(200).text();
    assert_eq!(page.matches("<tr id=\"pay_").count(), 3);
    assert!(page.contains(&first.id) && !page.contains("rel=\"next\""), "{page}");
}

/// A stranger: another payer of the same merchant.
async fn stranger(stage: &Stage) -> Payer {
    let app = &stage.hub.app;
    let payer =
        Payer { id: app.ids.make("pyr"), portal_token: app.ids.token(), name: "Obcy".into(), ..stage.payer.clone() };
    let mut tx = stage.hub.tx().await;
    tx.add_payer(&payer).await.expect("a payer");
    tx.commit().await.expect("a commit");
    payer
}

// R-5W-53, F65: another payer's things look exactly like things that do not exist.
#[tokio::test]
async fn what_is_another_payers_is_not_there() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let paid = stage.pay("1/2026", "autopay", "pay").await;
    stage.let_pass(120, 10).await;
    let case = paid.case_id.clone().expect("a case");
    let strange = portal(&stranger(&stage).await);
    let nowhere = visitor.get("/no/such/page").await.expect(404).text();
    assert!(nowhere.contains("There is nothing here"));
    let problem = visitor.get("/v1/no/such/thing").await.expect(404).json();
    assert_eq!(problem["code"], "not_found", "programs are told in their own way");
    for path in [
        format!("{strange}/payments/{}/invoice.pdf", paid.id),
        format!("{strange}/payments/{}/attachment", paid.id),
        format!("{strange}/cases/{case}"),
        format!("{strange}/profiles/{}", paid.profile_id.clone().expect("a profile")),
        format!("/pay/{}", "0".repeat(32)),
        "/pay/x".into(),
        format!("/pay/{}%27--", &paid.token[..29]),
        "/return/att_none".into(),
        format!("/portal/{}", "0".repeat(32)),
        format!("{}/payments/pay_none/invoice.pdf", portal(&stage.payer)),
    ] {
        assert_eq!(visitor.get(&path).await.expect(404).text(), nowhere, "{path}");
    }
    let own = csrf(&visitor.get(&format!("{strange}/profiles/new")).await.expect(200));
    let retry = format!("{strange}/payments/{}/retry", paid.id);
    visitor.post(&retry, &[("csrf", &own)]).await.expect(404);
}

// F86: a script that asks 500 times a minute is slowed down; others are not.
#[tokio::test]
async fn downloads_are_limited_for_each_payer() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let paid = stage.pay("1/2026", "autopay", "pay").await;
    stage.let_pass(120, 10).await;
    let pdf = format!("{}/payments/{}/invoice.pdf", portal(&stage.payer), paid.id);
    for _ in 0..30 {
        visitor.get(&pdf).await.expect(200);
    }
    let slow = visitor.get(&pdf).await.expect(429);
    assert_eq!(slow.header("retry-after"), Some("60"));
    visitor.get(&format!("{}/payments/pay_none/invoice.pdf", portal(&stranger(&stage).await))).await.expect(404);
    stage.hub.advance(60);
    visitor.get(&pdf).await.expect(200);
}

// R-5W-02, R-5W-07, R-5W-19: the quote, ZAPŁAĆ while an account is on, and the status after the payment.
#[tokio::test]
async fn a_case_is_paid_from_its_page() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let case = stage.case("7/2026").await;
    let address = format!("{}/cases/{}", portal(&stage.payer), case.id);
    let page = visitor.get(&address).await.expect(200);
    let text = page.text();
    for shown in ["ANALIZA SPRAWY", "ZAPŁAĆ", "Analiza umowy", "123,00", "Ekspert 1"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let token = csrf(&page);
    let pay = format!("{address}/pay");
    let autopay = stage.account("autopay").id.clone();
    let first = location(&visitor.post(&pay, &[("csrf", &token), ("way", &autopay)]).await);
    let second = location(&visitor.post(&pay, &[("csrf", &token), ("way", &autopay)]).await);
    assert_eq!(first, second, "a second click finds the same payment (R-5W-16)");
    assert!(first.starts_with("/pay/") && first.ends_with("/buyer"), "{first}");
    let page = visitor.get(&first).await.expect(200).text();
    assert!(page.contains("Firma Klienta"), "saved data can be chosen (R-5W-12): {page}");
    visitor.post(&pay, &[]).await.expect(403);

    // Another way to pay: the same payment, a second attempt.
    let stripe = stage.account("stripe").id.clone();
    assert_eq!(location(&visitor.post(&pay, &[("csrf", &token), ("way", &stripe)]).await), first);
    let mut tx = stage.hub.tx().await;
    let running = tx.started_payment_of_case(&case.merchant_id, &case.id).await.expect("a look").expect("a payment");
    drop(tx);
    assert_eq!(running.provider_account_id, stripe);
    let gateway = stage.open(&running).await;
    stage.press(&gateway, "pay").await.expect(303);
    stage.carry().await;
    let text = visitor.get(&address).await.expect(200).text();
    assert!(text.contains("W PRZYGOTOWANIU") && !text.contains("ZAPŁAĆ"), "{text}");
    assert_eq!(location(&visitor.post(&pay, &[("csrf", &token)]).await), address, "a paid case is not paid again");

    // Off: the button is absent, and the call refused.
    let other = stage.case("8/2026").await;
    let mut tx = stage.hub.tx().await;
    for mut account in tx.provider_accounts(&stage.hub.merchant.id).await.expect("accounts") {
        account.enabled = false;
        tx.update_provider_account(&account).await.expect("switched off");
    }
    tx.commit().await.expect("a commit");
    let address = format!("{}/cases/{}", portal(&stage.payer), other.id);
    let text = visitor.get(&address).await.expect(200).text();
    assert!(!text.contains("ZAPŁAĆ") && text.contains("wyłączone"), "{text}");
    visitor.post(&format!("{address}/pay"), &[("csrf", &token)]).await.expect(409);
}

// R-5W-02: two accounts at one gateway are one way to pay; the one at which the payment runs keeps it.
#[tokio::test]
async fn each_gateway_is_offered_once() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let first = stage.account("stripe").id.clone();
    let second = grosz::store::ProviderAccount { id: "acc_second".into(), ..stage.account("stripe").clone() };
    let mut tx = stage.hub.tx().await;
    tx.add_provider_account(&second).await.expect("an account");
    tx.commit().await.expect("a commit");
    let case = stage.case("7/2026").await;
    let address = format!("{}/cases/{}", portal(&stage.payer), case.id);
    let offered = |page: String| {
        let ways = page.split("name=\"way\" value=\"").skip(1);
        ways.map(|way| way.split('"').next().unwrap_or_default().to_owned()).collect::<BTreeSet<_>>()
    };
    let page = visitor.get(&address).await.expect(200);
    let autopay = stage.account("autopay").id.clone();
    assert_eq!(offered(page.text()), [autopay.clone(), first].into());
    let started = visitor.post(&format!("{address}/pay"), &[("csrf", &csrf(&page)), ("way", &second.id)]).await;
    assert!(location(&started).starts_with("/pay/"));
    assert_eq!(offered(visitor.get(&address).await.expect(200).text()), [autopay, second.id].into());
}

// F69: what people typed is text everywhere, and no page lets a foreign script in.
#[tokio::test]
async fn typed_markup_is_text_and_every_page_has_its_guards() {
    const CANARY: &str = "<script>alert('canary')</script>\"'><img src=x onerror=alert(1)>";
    let stage = Stage::set_with(Engine::Sqlite, |c| c.sandbox = true).await;
    let visitor = Visitor(&stage.hub);
    let mut case = stage.case("9/2026").await;
    case.title = CANARY.into();
    case.lines[0].name = CANARY.into();
    let app = &stage.hub.app;
    let mut tx = stage.hub.tx().await;
    tx.update_case(&case).await.expect("a title");
    let mut expert = stage.experts[0].clone();
    expert.name = CANARY.into();
    tx.update_expert(&expert).await.expect("a name");
    let mut merchant = stage.hub.merchant.clone();
    merchant.name = CANARY.into();
    tx.update_merchant(&merchant).await.expect("a name");
    let mut profile = tx.profiles(&merchant.id, &stage.payer.id).await.expect("profiles").remove(0);
    profile.body.name = CANARY.into();
    profile.body.street = CANARY.into();
    tx.update_profile(&profile).await.expect("a name");
    tx.commit().await.expect("a commit");
    let payment = stage.start(&case, "autopay").await;
    let attempt = stage.attempts(&payment).await.remove(0);
    let cookie = {
        let opened = visitor.get(&pay_link(&payment)).await;
        opened.header("set-cookie").and_then(|c| c.split(';').next()).expect("a mark").to_owned()
    };
    let list = portal(&stage.payer);
    let mut shown = 0;
    for path in [
        pay_link(&payment),
        format!("{}/buyer", pay_link(&payment)),
        format!("/return/{}", attempt.id),
        list.clone(),
        format!("{list}?status=%22%3E%3Cscript%3E&from=%3Cb%3E&lang=%3Cb%3E"),
        format!("{list}/cases/{}", case.id),
        format!("{list}/profiles"),
        format!("{list}/profiles/new"),
        format!("{list}/profiles/{}", profile.id),
        "/console".into(),
        "/console/alerts".into(),
        "/console/payments/pay_1".into(),
        "/console/payments/%3Cscript%3E".into(),
        "/demo".into(),
        "/demo/mail".into(),
        "/demo/mail/..%2F..%2Fetc%2Fpasswd".into(),
        "/nowhere".into(),
    ] {
        let page = visitor.get_with(&path, &[("cookie", &cookie)]).await;
        let text = page.text();
        assert!(!text.contains("<script>") && !text.contains("<img") && !text.contains("onerror=alert(1)>"), "{path}");
        shown += usize::from(text.contains("canary"));
        let policy = page.header("content-security-policy").unwrap_or_else(|| panic!("{path} has no policy"));
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(page.header("referrer-policy"), Some("same-origin"), "{path}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(page.header("cache-control"), Some("no-store"), "{path}");
        assert!(!text.contains(" style=") && !text.contains(" onclick"), "{path} needs no inline style or script");
    }
    assert!(shown >= 8, "the canary was on {shown} pages");
    assert!(app.config.sandbox);
}

#[tokio::test]
async fn assets_are_named_by_their_content_and_kept() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let page = visitor.get(&portal(&stage.payer)).await.expect(200).text();
    for (mark, kind) in [("href=\"/assets/", "text/css"), ("src=\"/assets/", "text/javascript")] {
        let name = page.split(mark).nth(1).and_then(|r| r.split('"').next()).expect("an asset");
        let asset = visitor.get(&format!("/assets/{name}")).await.expect(200);
        assert!(asset.header("content-type").is_some_and(|t| t.starts_with(kind)));
        assert!(asset.header("cache-control").is_some_and(|c| c.contains("immutable")));
    }
    visitor.get("/assets/pages.css").await.expect(404);
}

// R-HUB-12: the list in each language, with each status and each cell, as readers see it.
#[tokio::test]
async fn the_list_reads_well_in_every_language() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    for (number, action) in [("1/2026", "cancel"), ("2/2026", "decline"), ("3/2026", "pay")] {
        stage.pay(number, "autopay", action).await;
    }
    stage.start(&stage.case("4/2026").await, "autopay").await;
    for language in ["pl", "uk", "cs", "ru", "is", "en"] {
        let address = format!("{}?lang={language}", portal(&stage.payer));
        let page = visitor.get(&address).await.expect(200).text();
        assert!(page.contains(&format!("<html lang=\"{language}\">")));
        insta::assert_snapshot!(format!("list_{language}"), readable(&page));
    }
}

/// A page's text, a line an element, without what changes from run to run.
fn readable(page: &str) -> String {
    let body = page.split("<main").nth(1).and_then(|m| m.split("</main>").next()).expect("a main part");
    let text: String =
        body.split('<').filter_map(|part| part.split_once('>').map(|(_, t)| format!("{}\n", t.trim()))).collect();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines.join("\n").replace('\u{a0}', "·")
}
