//! The payment link, the invoice data form and the way back.

use grosz::domain::payment::Status;
use grosz::flows::change_quote::change_quote;
use grosz::flows::start_checkout::{NewPayment, create_payment};
use grosz_providers::wire::{Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{Currency, Money};
use serde_json::json;

use super::{Visitor, csrf, inside, location, pay_link, portal, without_profiles};
use crate::harness::{Engine, Hub};
use crate::matter::matter;
use crate::on_both;
use crate::stories::stage::{Stage, line};

const GOOD: &[(&str, &str)] = &[
    ("profile", "new"),
    ("kind", "company"),
    ("name", "Firma Nowa"),
    ("tax_id", "123-456-32-18"),
    ("street", "Prosta 1"),
    ("postcode", "00-950"),
    ("city", "Warszawa"),
    ("country", "PL"),
    ("email", "nowa@client.example"),
];

/// The good form with other values, the page's token and, if wanted, the tick.
fn filled<'a>(token: &'a str, change: &[(&'a str, &'a str)], keep: bool) -> Vec<(&'a str, &'a str)> {
    let changed = |name: &str| change.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let mut fields: Vec<_> = GOOD.iter().map(|(n, v)| (*n, changed(n).unwrap_or(v))).collect();
    fields.push(("csrf", token));
    if keep {
        fields.push(("save", "yes"));
    }
    fields
}

// Programs that read mails look whether a link leads somewhere: nothing begins at the gateway.
on_both!(a_link_that_is_only_looked_at_begins_nothing, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.lone_payment(&hub).await;
    let looked = hub.raw("HEAD", &pay_link(&payment), &[], vec![]).await;
    assert_eq!((looked.status, looked.body.len()), (200, 0));
    assert_eq!(hub.raw("HEAD", &format!("/pay/{}", "0".repeat(32)), &[], vec![]).await.status, 404);
    let now = hub.tx().await.attempt(&payment.merchant_id, &attempt.id).await.unwrap().unwrap();
    assert_eq!((now.state.as_str(), now.redirect.is_none()), ("created", true));
});

async fn profiles(stage: &Stage) -> Vec<String> {
    let mut tx = stage.hub.tx().await;
    let all = tx.profiles(&stage.payer.merchant_id, &stage.payer.id).await.expect("profiles");
    all.into_iter().map(|p| p.body.name).collect()
}

// R-5W-10, R-5W-13: a wrong NIP is refused at the form, beside its field; what was typed stays; nothing is started.
#[tokio::test]
async fn wrong_invoice_data_are_refused_beside_their_field() {
    let stage = Stage::set(Engine::Sqlite).await;
    without_profiles(&stage.hub, &stage.payer).await;
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let visitor = Visitor(&stage.hub);
    let page = visitor.get(&pay_link(&payment)).await.expect(200);
    let text = page.text();
    assert!(text.contains("PRZEJDŹ DO PŁATNOŚCI") && text.contains("DANE DO FAKTURY"), "{text}");
    assert!(text.contains(r#"name="save" value="yes" checked"#), "saving is ticked by default (R-5W-11)");

    let token = csrf(&page);
    let address = format!("{}/buyer", pay_link(&payment));
    let wrong = filled(&token, &[("tax_id", "123-456-32-19"), ("postcode", "950"), ("name", "A & B")], true);
    let refused = visitor.post(&address, &wrong).await.expect(422).text();
    assert!(inside(&refused, r#"id="tax_id-error""#, "</p>").contains("Cyfra kontrolna"), "{refused}");
    assert!(inside(&refused, r#"id="postcode-error""#, "</p>").contains("00-950"));
    assert!(refused.contains(r#"value="123-456-32-19""#) && refused.contains(r#"value="A &#38; B""#), "{refused}");
    assert!(!refused.contains("street-error"), "a right field has no error");
    let none: Vec<_> = vec![("csrf", token.as_str()), ("profile", "new")];
    let empty = visitor.post(&address, &none).await.expect(422).text();
    for field in ["name", "street", "postcode", "city", "country", "email"] {
        assert!(empty.contains(&format!("id=\"{field}-error\"")), "{field} is mandatory (R-5W-10)");
    }
    assert_eq!(stage.payment(&payment).await.buyer, None);
    assert!(stage.attempts(&payment).await[0].redirect.is_none(), "the gateway was not asked");
    assert!(profiles(&stage).await.is_empty());
}

// R-5W-11, R-5W-14: right data lead to the gateway and are there next time; unticked, they serve this payment alone.
#[tokio::test]
async fn invoice_data_are_saved_unless_unticked() {
    let stage = Stage::set(Engine::Sqlite).await;
    without_profiles(&stage.hub, &stage.payer).await;
    let visitor = Visitor(&stage.hub);
    for (number, keep, saved) in [("1/2026", false, 0), ("2/2026", true, 1), ("3/2026", true, 1)] {
        let payment = stage.start(&stage.case(number).await, "autopay").await;
        let address = format!("{}/buyer", pay_link(&payment));
        let token = csrf(&visitor.get(&address).await.expect(200));
        let answer = visitor.post(&address, &filled(&token, &[], keep)).await;
        assert_eq!(location(&answer), pay_link(&payment));
        let buyer = stage.payment(&payment).await.buyer.expect("a snapshot");
        assert_eq!((buyer.name.as_str(), buyer.tax_id.as_str()), ("Firma Nowa", "1234563218"));
        assert_eq!(profiles(&stage).await.len(), saved, "{number}");
    }
}

// R-5W-14: the page that leads to the gateway may lead there and nowhere else; its script is ours.
#[tokio::test]
async fn the_way_to_a_gateway_is_a_form_or_a_redirect() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let form = stage.start(&stage.case("1/2026").await, "autopay").await;
    let page = visitor.get(&pay_link(&form)).await.expect(200);
    let policy = page.header("content-security-policy").expect("a policy").to_owned();
    assert!(policy.contains(&format!("form-action 'self' {};", stage.twins)), "{policy}");
    let text = page.text();
    assert!(text.contains("data-submit-self") && text.contains("Przejdź teraz</button>"), "{text}");
    assert!(text.contains(r#"name="Hash""#), "{text}");

    let redirect = stage.start(&stage.case("2/2026").await, "stripe").await;
    let answer = visitor.get(&pay_link(&redirect)).await;
    assert!(location(&answer).starts_with(&stage.twins));
    let again = visitor.get(&pay_link(&redirect)).await;
    assert_eq!(location(&again), location(&answer), "two tabs find one link (R-5W-16)");
}

// R-5W-08, R-5W-15: each way in which a link leads nowhere says where the payment stands and what to do next.
#[tokio::test]
async fn a_link_that_leads_nowhere_says_why() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);

    let mut case = stage.case("1/2026").await;
    let changed = stage.start(&case, "autopay").await;
    let mut tx = stage.hub.tx().await;
    let total = Money::new(20_000, Currency::PLN);
    change_quote(&stage.hub.app, &mut tx, &mut case, total, line(total)).await.expect("a new quote");
    tx.commit().await.expect("a commit");
    let text = visitor.get(&pay_link(&changed)).await.expect(200).text();
    assert!(text.contains("Wycena się zmieniła"), "{text}");
    assert!(text.contains(&format!("{}/cases/{}", portal(&stage.payer), case.id)), "{text}");

    let paid = stage.pay("2/2026", "autopay", "pay").await;
    let text = visitor.get(&pay_link(&paid)).await.expect(200).text();
    assert!(text.contains("Płatność zrealizowana") && text.contains(&portal(&stage.payer)), "{text}");

    let busy = stage.start(&stage.case("3/2026").await, "autopay").await;
    let attempt = stage.attempts(&busy).await.remove(0);
    let mut tx = stage.hub.tx().await;
    let now = stage.hub.app.now();
    assert!(tx.claim_start(&busy.merchant_id, &attempt.id, now, now + 1).await.expect("a claim"));
    tx.commit().await.expect("a commit");
    let text = visitor.get(&pay_link(&busy)).await.expect(202).text();
    assert!(text.contains("Chwileczkę") && text.contains(r#"http-equiv="refresh""#), "{text}");

    let late = stage.start(&stage.case("4/2026").await, "autopay").await;
    stage.hub.advance(2 * 86_400);
    let page = visitor.get(&pay_link(&late)).await.expect(200);
    assert!(page.text().contains("Spróbuj ponownie</button>"), "{}", page.text());
    let retry = format!("{}/retry", pay_link(&late));
    let answer = visitor.post(&retry, &[("csrf", &csrf(&page))]).await;
    assert_eq!(location(&answer), pay_link(&late));
    assert_eq!(stage.attempts(&late).await.len(), 2);
    assert!(visitor.get(&pay_link(&late)).await.expect(200).text().contains("data-submit-self"));
}

// A gateway that does not answer: the page says that nothing was charged, and the link works afterwards.
#[tokio::test]
async fn a_gateway_that_fails_charges_nothing_and_can_be_tried_again() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let payment = stage.start(&stage.case("1/2026").await, "stripe").await;
    stage.dial(json!({"stripe": {"http_500": 1}})).await;
    let page = visitor.get(&pay_link(&payment)).await.expect(503).text();
    assert!(page.contains("Nie udało się rozpocząć płatności") && page.contains("Niczego nie pobrano"), "{page}");
    assert_eq!(stage.payment(&payment).await.status, Status::Started);
    location(&visitor.get(&pay_link(&payment)).await);
}

// A gateway that takes the call and says nothing is given up before the payer's own request is: he is told, and the
// payment can be tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_silent_is_given_up_in_time() {
    let times = |c: &mut grosz::config::Config| {
        (c.connect_s, c.call_s, c.once_call_s, c.request_s) = (1, 2, 2, 7);
    };
    let mut stage = Stage::set_with(Engine::Sqlite, times).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", silent.local_addr().expect("its address"));
    tokio::spawn(async move {
        let mut held = vec![];
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    stage.set_up_again("stripe", "base_url", &address).await;
    let payment = stage.start(&stage.case("1/2026").await, "stripe").await;
    let page = Visitor(&stage.hub).get(&pay_link(&payment)).await.expect(503).text();
    assert!(page.contains("Niczego nie pobrano"), "{page}");
    let again = stage.hub.post(&format!("/v1/payments/{}/retry", payment.id), json!({})).await;
    assert_eq!(again.status, 200, "{}", again.text());
}

// R-5W-18, F64: what the browser brings back sets nothing; a forged return shows nothing; the stored state is shown.
#[tokio::test]
async fn a_return_proves_nothing() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let page = stage.open(&payment).await;
    let attempt = stage.attempts(&payment).await.remove(0);
    let address = format!("/return/{}", attempt.id);

    let forged = format!("{address}?ServiceID=100001&OrderID={}&Hash=00&status=SUCCESS", attempt.reference);
    let neutral = visitor.get(&forged).await.expect(200).text();
    assert!(!neutral.contains("123,00") && !neutral.contains(&stage.payer.portal_token), "{neutral}");
    assert!(!neutral.contains("1/2026") && !neutral.contains("Kancelaria"), "{neutral}");
    let posted = visitor.post_with(&address, &[("status", "paid"), ("Hash", "00")], &[]).await;
    assert_eq!(location(&posted), format!("{address}?status=paid&Hash=00"));
    assert_eq!(stage.payment(&payment).await.status, Status::Started);

    // Without anything, the state alone: whose payment it is, is for the payer's browser.
    let bare = visitor.get(&address).await.expect(200).text();
    assert!(bare.contains("Potwierdzamy Twoją płatność") && bare.contains("data-poll"), "{bare}");
    assert!(!bare.contains(&stage.payer.portal_token) && !bare.contains(&payment.token), "{bare}");
    let opened = visitor.get(&pay_link(&payment)).await.expect(200);
    let cookie = opened.header("set-cookie").and_then(|c| c.split(';').next()).expect("a mark").to_owned();
    let known = visitor.get_with(&address, &[("cookie", &cookie)]).await.expect(200).text();
    assert!(known.contains("123,00") && known.contains(&stage.payer.portal_token), "{known}");

    // The gateway's own signed return shows the state too, and says paid only when the store does.
    let back = stage.press(&page, "pay").await;
    let signed = location(&back);
    let text = visitor.get(&signed).await.expect(200).text();
    assert!(text.contains("Potwierdzamy") && text.contains("123,00"), "{text}");
    let before = visitor.get(&format!("{address}/status")).await.expect(200).json();
    stage.carry().await;
    let after = visitor.get(&format!("{address}/status")).await.expect(200).json();
    assert_eq!((before["status"].as_str(), after["status"].as_str()), (Some("started"), Some("completed")));
    assert_ne!(before["version"], after["version"]);
    assert!(visitor.get(&signed).await.expect(200).text().contains("Płatność zrealizowana"));
}

// Who knows a return address alone, as gateways do, gets to the gateway and no further: not the payer's list, not the
// payment link, not the mark by which the payer is known.
#[tokio::test]
async fn trying_again_tells_a_stranger_nothing() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let open = stage.start(&stage.case("1/2026").await, "autopay").await;
    let linked = stage.start(&stage.case("2/2026").await, "stripe").await;
    let mut case = stage.case("3/2026").await;
    let changed = stage.start(&case, "autopay").await;
    let mut tx = stage.hub.tx().await;
    let total = Money::new(20_000, Currency::PLN);
    change_quote(&stage.hub.app, &mut tx, &mut case, total, line(total)).await.expect("a new quote");
    tx.commit().await.expect("a commit");
    let case = stage.case("4/2026").await;
    let other = stage.start(&case, "autopay").await;
    stage.press(&stage.open(&other).await, "decline").await.expect(303);
    stage.carry().await;
    let paid = stage.start(&case, "autopay").await;
    stage.press(&stage.open(&paid).await, "pay").await.expect(303);
    stage.carry().await;
    let broken = stage.start(&stage.case("5/2026").await, "stripe").await;

    let all = [&open, &linked, &changed, &other, &paid, &broken];
    for (payment, to_gateway) in [(&open, true), (&linked, true), (&changed, false), (&other, false), (&broken, false)]
    {
        if payment.id == broken.id {
            stage.dial(json!({"stripe": {"http_500": 1}})).await;
        }
        let address = format!("/return/{}", stage.attempts(payment).await[0].id);
        let page = visitor.get(&address).await.expect(200);
        let answer = visitor.post(&format!("{address}/retry"), &[("csrf", &csrf(&page))]).await;
        let text = answer.text();
        match answer.header("location") {
            Some(to) if to_gateway => assert!(to.starts_with(&stage.twins), "{to}"),
            Some(to) => assert_eq!((answer.status, to), (303, address.as_str())),
            None => assert!(to_gateway && text.contains("data-submit-self"), "{text}"),
        }
        assert_eq!(answer.header("set-cookie"), None);
        let said = format!("{:?}{text}{}", answer.headers, page.text());
        let secrets = all.iter().map(|p| p.token.as_str()).chain([stage.payer.portal_token.as_str()]);
        secrets.for_each(|secret| assert!(!said.contains(secret), "{said}"));
    }
    assert_eq!(stage.dialled("stripe", "http_500").await, 0, "the gateway was asked");
}

// R-5W-18: a payer who waits has the gateway asked, so that a lost notification does not keep him.
#[tokio::test]
async fn a_waiting_payer_has_the_gateway_asked() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let page = stage.open(&payment).await;
    stage.press(&page, "pay").await.expect(303);
    // The notification is never carried.
    let address = format!("/return/{}/status", stage.attempts(&payment).await[0].id);
    assert_eq!(stage.hub.run_jobs().await, 0, "the first question is a minute away");
    visitor.get(&address).await.expect(200);
    assert_ne!(stage.hub.run_jobs().await, 0);
    assert_eq!(stage.payment(&payment).await.status, Status::Completed);
}

// R-5W-17, F63: afterwards the payer goes back to the client app, whose address is checked when it is used.
#[tokio::test]
async fn the_payer_goes_back_to_the_client_app() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    for (number, stored, expect) in [
        ("1/2026", "https://app.example/done?x=1", Some("https://app.example/done?x=1&#38;payment=")),
        ("2/2026", "https://evil.example/", None),
        ("3/2026", "https://app.example:444/", None),
    ] {
        let order = NewPayment {
            case: Some(stage.case(number).await.id),
            provider_account: Some(stage.account("autopay").id.clone()),
            return_url: Some(stored.into()),
            ..NewPayment::default()
        };
        let mut merchant = stage.hub.merchant.clone();
        let mut tx = stage.hub.tx().await;
        let payment = create_payment(&stage.hub.app, &mut tx, &merchant, false, order).await.expect("a payment");
        // The origins are registered after the payment was started.
        merchant.return_origins = vec!["https://app.example".into()];
        tx.update_merchant(&merchant).await.expect("origins");
        tx.commit().await.expect("a commit");
        let page = stage.open(&payment).await;
        let back = location(&stage.press(&page, "pay").await);
        stage.carry().await;
        let text = visitor.get(&back).await.expect(200).text();
        match expect {
            Some(address) => assert!(text.contains(&format!("href=\"{address}{}\"", payment.id)), "{text}"),
            None => {
                assert!(!text.contains("evil") && !text.contains(":444") && !text.contains("data-go"), "{text}");
                let case = payment.case_id.as_deref().expect("a case");
                let own = format!("href=\"/portal/{}/cases/{case}\"", stage.payer.portal_token);
                assert!(text.contains(&own) && text.contains("Przejdź do sprawy"), "{text}");
            }
        }
    }
}

// R-5W-13: data that are in order, with which this seller can issue no invoice, are refused beside their field; so are such
// that were saved before.
#[tokio::test]
async fn a_buyer_who_cannot_be_invoiced_is_asked_again() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let address = format!("{}/buyer", pay_link(&payment));
    let token = csrf(&visitor.get(&address).await);
    let czech = [("country", "CZ"), ("postcode", "110 00"), ("tax_id", "45274649")];
    let before = stage.payment(&payment).await.buyer;
    let asked = visitor.post(&address, &filled(&token, &czech, true)).await.expect(422).text();
    assert!(asked.contains("nie może wystawić faktury") && asked.contains("CZ45274649"), "{asked}");
    assert_eq!(stage.payment(&payment).await.buyer, before);
    assert_eq!(profiles(&stage).await, ["Firma Klienta"], "nothing of it is saved");
    let good = [("country", "CZ"), ("postcode", "110 00"), ("tax_id", "CZ45274649")];
    location(&visitor.post(&address, &filled(&token, &good, true)).await);
}

// A form that is larger than any of ours, and a fault of the hub: pages, in the reader's language.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_told_by_a_page() {
    struct Broken;

    #[async_trait::async_trait]
    impl Http for Broken {
        async fn send(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            panic!("a value that nobody thought of")
        }
    }

    let stage = Stage::fitted(Engine::Sqlite, |app| app.http = std::sync::Arc::new(Broken)).await;
    let visitor = Visitor(&stage.hub);
    let payment = stage.start(&stage.case("1/2026").await, "stripe").await;
    let long = "x".repeat(70_000);
    let address = format!("{}/buyer?lang=pl", pay_link(&payment));
    let page = visitor.post(&address, &[("name", &long)]).await.expect(413);
    assert!(
        page.text().contains("niczego nie zmieniono") && page.text().contains("<html lang=\"pl\""),
        "{}",
        page.text()
    );
    // F26
    let page = visitor.get(&format!("{}?lang=pl", pay_link(&payment))).await.expect(500);
    assert!(page.text().contains("Coś poszło nie tak") && page.header("content-security-policy").is_some());
}

// The switch of languages keeps what the address says beside: a filter, a page of the list, a gateway's signature.
#[tokio::test]
async fn the_switch_of_languages_keeps_the_rest_of_the_address() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let list = portal(&stage.payer);
    let page = visitor.get(&format!("{list}?status=error&lang=cs&from=2026-11-01")).await.expect(200).text();
    assert!(page.contains(r#"href="?status=error&#38;from=2026-11-01&#38;lang=uk""#), "{page}");
    let page = visitor.get(&format!("{list}?lang=cs")).await.expect(200).text();
    assert!(page.contains(r#"href="?lang=uk""#), "{page}");
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let back = location(&stage.press(&stage.open(&payment).await, "pay").await);
    let page = visitor.get(&back).await.expect(200).text();
    let link = page.split("href=\"").find(|l| l.contains("lang=en\"")).and_then(|l| l.split('"').next());
    let other = link.expect("a switch").replace("&#38;", "&");
    let (address, _) = back.split_once('?').expect("a signature");
    let page = visitor.get(&format!("{address}{other}")).await.expect(200).text();
    assert!(page.contains("<html lang=\"en\"") && page.contains("123.00"), "{page}");
}

// F68: a form that another site sent changes nothing.
#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let address = format!("{}/buyer", pay_link(&payment));
    let token = csrf(&visitor.get(&address).await);
    let right = filled(&token, &[], true);
    let before = stage.payment(&payment).await.buyer;
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site"), ("origin", stage.hub.url.as_str())],
    ] {
        visitor.post_with(&address, &right, headers).await.expect(403);
    }
    let wrong = "0".repeat(32);
    visitor.post(&address, &filled(&wrong, &[], true)).await.expect(403);
    visitor.post(&address, GOOD).await.expect(403);
    assert_eq!(stage.payment(&payment).await.buyer, before);
    assert_eq!(profiles(&stage).await, ["Firma Klienta"]);
    // A browser that says nothing of where the form came from is believed for its token.
    location(&visitor.post_with(&address, &right, &[]).await);
}
