//! The demonstration in a real browser: what a newcomer sees in the first minutes. The hub runs whole, with its own
//! workers and twins, in real time.

use std::sync::Arc;

use grosz::app::App;
use grosz::clock::Clock;
use grosz::config::{Config, Hidden};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{TempDir, client};
use crate::webdriver::Browser;

/// A whole hub as `grosz` without arguments starts it, but in a directory and on a port of its own.
struct Whole {
    url: String,
    key: String,
    stop: watch::Sender<bool>,
    _dir: TempDir,
}

impl Whole {
    /// Makes something over the API.
    async fn make(&self, path: &str, body: Value) -> Value {
        let order = client().post(format!("{}{path}", self.url)).bearer_auth(&self.key);
        let order = order.header("content-type", "application/json").body(body.to_string());
        let answer = order.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_slice(&answer.bytes().await.expect("its bytes")).expect("JSON");
        assert_eq!(status, 201, "{path}: {body}");
        body
    }

    /// The ids of its accounts at gateways.
    async fn gateways(&self) -> Vec<String> {
        let answer = client().get(format!("{}/v1/provider-accounts", self.url)).bearer_auth(&self.key).send().await;
        let bytes = answer.expect("an answer").bytes().await.expect("its bytes");
        let list: Value = serde_json::from_slice(&bytes).expect("JSON");
        let ids =
            list["data"].as_array().expect("accounts").iter().map(|a| a["id"].as_str().expect("an id").to_owned());
        ids.collect()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

async fn whole_hub() -> Whole {
    let dir = TempDir::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let mail = dir.path().join("mail");
    std::fs::create_dir_all(&mail).expect("a directory for mails");
    let config = Config {
        database_url: Hidden(format!("sqlite:{}", dir.path().join("hub.db").display())),
        public_url: url.clone(),
        sandbox: true,
        allow_insecure_targets: true,
        smtp_url: Hidden(format!("file://{}", mail.display())),
        pdf_waits_s: vec![1],
        ..Config::default()
    };
    let app = Arc::new(App::open(config, Clock::System).await.expect("the hub opens"));
    let key = grosz::demo::seed(&app).await.expect("the demonstration").api_key;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(grosz::run::run(app, Some(listener), stopped));
    Whole { url, key, stop, _dir: dir }
}

/// Complaints that are none: a refused form is shown with status 422, which browsers log.
fn real(complaints: Vec<String>) -> Vec<String> {
    complaints.into_iter().filter(|c| !c.contains("status of 422")).collect()
}

// R-5W-10…19, 30, 31, 33, 40: the case, ZAPŁAĆ, invoice data, the gateway's page, the way back, the list, the PDF.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demonstration_is_paid_in_a_browser() {
    let Some(browser) = Browser::start().await else { return };
    let hub = whole_hub().await;
    browser.go(&format!("{}/demo", hub.url)).await;
    browser.picture("demo").await;
    browser.click(".demo-cases a.primary[lang=pl]").await;
    browser.wait_for("ANALIZA SPRAWY").await;
    browser.picture("case").await;
    browser.click("form button.primary").await;
    browser.wait_for("DANE DO FAKTURY").await;

    // Fresh data, first with a wrong number.
    browser.click("label:has(#new)").await;
    browser.click("label:has([value=company])").await;
    browser.fill("#tax_id", "123-456-32-19").await;
    browser.fill("#name", "Firma Nowa").await;
    browser.fill("#street", "Prosta 1").await;
    browser.fill("#postcode", "00-950").await;
    browser.fill("#city", "Warszawa").await;
    browser.click("form button.primary").await;
    browser.wait_for("Cyfra kontrolna").await;
    browser.picture("refused").await;
    browser.fill("#tax_id", "123-456-32-18").await;
    browser.click("form button.primary").await;

    // Gives up at the gateway, renews, pays.
    browser.click("[data-twin-action=cancel]").await;
    browser.wait_for("Płatność została anulowana").await;
    browser.picture("cancelled").await;
    browser.click("a.wide").await;
    browser.wait_for("ANALIZA SPRAWY").await;
    browser.click(".menu a:nth-child(1)").await;
    browser.wait_for("Błąd").await;
    browser.click(".cell-renew_payment button").await;
    browser.click("[data-twin-action=pay]").await;
    // Changes by itself: nobody reloads here.
    browser.wait_for("Płatność zrealizowana").await;
    browser.picture("paid").await;

    // Back on the case, and from there to the list.
    browser.click("a.wide").await;
    browser.wait_for("W PRZYGOTOWANIU").await;
    browser.picture("case-paid").await;
    browser.click("a.wide").await;
    browser.wait_for("Zrealizowana").await;
    browser.wait_for("Pobierz fakturę").await;
    browser.picture("list").await;
    let pdf = browser.script("return document.querySelector('.cell-download a').href").await;
    let answer = client().get(pdf.as_str().expect("an address")).send().await.expect("the PDF");
    assert_eq!(answer.status().as_u16(), 200);
    assert!(answer.bytes().await.expect("its bytes").starts_with(b"%PDF"));

    // The data were saved for the future; the letter with the invoice left.
    browser.click(".menu a:nth-child(2)").await;
    browser.wait_for("Firma Nowa").await;
    browser.go(&format!("{}/demo/mail", hub.url)).await;
    browser.wait_for("Faktura").await;
    assert_eq!(real(browser.complaints().await), Vec::<String>::new(), "the browser refused something");
}

// R-5W-14 at a gateway that is reached by a redirect: browsers check the policy of the page whose form led there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_to_a_gateway_is_not_stopped_by_our_own_policy() {
    let Some(browser) = Browser::start().await else { return };
    let hub = whole_hub().await;
    browser.go(&format!("{}/demo", hub.url)).await;
    browser.click(".demo-cases a.primary[lang=en]").await;
    browser.click("form button.primary").await;
    browser.wait_for("INVOICE DATA").await;
    browser.click("form button.primary").await;
    browser.click("[data-twin-action=pay]").await;
    browser.wait_for("Payment completed").await;
    assert_eq!(real(browser.complaints().await), Vec::<String>::new(), "the browser refused something");
}

// F69: what people typed does not run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_markup_does_not_run() {
    let Some(browser) = Browser::start().await else { return };
    let hub = whole_hub().await;
    browser.go(&format!("{}/demo", hub.url)).await;
    browser.click(".demo-cases a.primary[lang=pl]").await;
    browser.click("form button.primary").await;
    browser.click("label:has(#new)").await;
    browser.fill("#name", "<img src=x onerror=\"document.title='ran'\">").await;
    browser.fill("#street", "\"><script>document.title='ran'</script>").await;
    browser.click("form button.primary").await;
    let shown = browser.wait_for("Wypełnij to pole").await;
    assert!(shown.contains("DANE DO FAKTURY"));
    let typed = browser.script("return document.querySelector('#street').value").await;
    assert_eq!(typed.as_str(), Some("\"><script>document.title='ran'</script>"));
    assert_ne!(browser.script("return document.title").await.as_str(), Some("ran"));
    assert_eq!(browser.script("return document.querySelectorAll('img, main script').length").await.as_i64(), Some(0));
}

/// What breaks within a number or sticks out: each number with a decimal sign, the word before the total, what the page
/// and its cards are too narrow for.
const BROKEN: &str = r"
const broken = [];
const texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
const lines = range => new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => Math.round(r.bottom))).size;
while (texts.nextNode()) {
  const text = texts.currentNode, range = document.createRange();
  const pieces = [...text.data.matchAll(/\d[\d\u00a0.,]*[.,]\d+(\u00a0[A-Z]{3})?/g)];
  if (text.parentElement.matches('.total span')) pieces.push(text.data.match(/.+/));
  for (const piece of pieces) {
    range.setStart(text, piece.index);
    range.setEnd(text, piece.index + piece[0].length);
    if (lines(range) > 1) broken.push(piece[0]);
  }
}
for (const box of [document.documentElement, ...document.querySelectorAll('.card, .total, table')]) {
  const over = box.scrollWidth - box.clientWidth;
  if (over > 0) broken.push(`${box.tagName} ${box.className}: ${over} pixels too wide`);
}
return broken.join('; ')";

// R-5W-19, R-5W-55: a sum is read at a glance, on a telephone too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_stays_on_one_line() {
    let Some(browser) = Browser::start().await else { return };
    let hub = whole_hub().await;
    let expert =
        hub.make("/v1/experts", json!({"name": "Anna Nowak", "email": "anna@e.example", "language": "pl"})).await;
    let payer = hub.make("/v1/payers", json!({"name": "Jan", "email": "jan@p.example", "language": "pl"})).await;
    let line = |name: &str, quantity: i64, unit: i64, vat: &str| json!({"name": name, "quantity": quantity, "unit_price": unit, "vat": vat});
    let mut pages = vec![payer["portal_url"].as_str().expect("his list").to_owned()];
    for (number, price) in [("B/1", 1_234_567), (&*"X".repeat(60), 123_456_789), ("B/3", 49_999_999_999)] {
        let lines = [line("Reprezentacja przed sądem okręgowym", 2, price, "23"), line("Opinia", 1, 120_000, "np")];
        let case = json!({"number": number, "title": "Umowa", "expert": expert["id"], "payer": payer["id"],
            "amount": 2 * price + 120_000, "currency": "PLN", "lines": lines});
        let case = hub.make("/v1/cases", case).await;
        pages.push(format!("{}/cases/{}", pages[0], case["id"].as_str().expect("an id")));
    }
    let order = json!({"payer": payer["id"], "amount": 99_999_999_999_i64, "currency": "PLN", "description": "Umowa",
        "provider_account": hub.gateways().await[0]});
    let payment = hub.make("/v1/payments", order).await;
    let link = client().get(payment["checkout_url"].as_str().expect("a link")).send().await.expect("its page");
    pages.push(format!("{}/buyer", link.url().as_str().trim_end_matches("/buyer")));
    for width in [320, 375, 801, 1280] {
        browser.resize(width, 900).await;
        for (n, page) in pages.iter().enumerate() {
            for language in ["pl", "uk", "cs", "ru", "is", "en"] {
                browser.go(&format!("{page}?lang={language}")).await;
                browser.picture(&format!("sums-{width}-{n}-{language}")).await;
                let broken = browser.script(BROKEN).await;
                assert_eq!(broken.as_str(), Some(""), "{page} in {language} at {width}");
            }
        }
        browser.go(&pages[0]).await;
        let share = "const what = document.querySelectorAll('.due-what')[1]; \
                     return what.offsetWidth * 2 > what.parentElement.offsetWidth";
        assert_eq!(browser.script(share).await.as_bool(), Some(true), "room for a long number at {width}");
    }
}

/// Texts of too little contrast (WCAG 2.1, 1.4.3: 4.5, for large ones 3), and texts outside every landmark.
const HARD_TO_READ: &str = r"
const found = [];
const channels = colour => colour.match(/[\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
const ground = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = channels(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const text = texts.currentNode.data.trim(), element = texts.currentNode.parentElement;
  if (!text || element.closest('script, style, noscript, .skip') || !element.checkVisibility()) continue;
  const style = getComputedStyle(element), size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  const [a, b] = [light(channels(style.color)), light(ground(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < (large ? 3 : 4.5)) found.push(`${text}: contrast ${contrast.toFixed(2)}`);
  if (!element.closest('header, nav, main, footer')) found.push(`${text}: outside every landmark`);
}
return found.join('; ')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_stands_out_and_in_a_landmark() {
    let Some(browser) = Browser::start().await else { return };
    let hub = whole_hub().await;
    let check = async |what: &str| {
        let found = browser.script(HARD_TO_READ).await;
        assert_eq!(found.as_str(), Some(""), "{what}");
    };
    browser.go(&format!("{}/demo", hub.url)).await;
    check("the demonstration").await;
    browser.click(".demo-cases a.primary[lang=en]").await;
    browser.wait_for("CASE ANALYSIS").await;
    check("the case").await;
    for gateway in hub.gateways().await {
        let payer = hub.make("/v1/payers", json!({"name": "Jan", "email": "jan@p.example", "language": "en"})).await;
        let order = json!({"payer": payer["id"], "amount": 12_300, "currency": "PLN", "description": "Advice",
            "provider_account": gateway});
        let payment = hub.make("/v1/payments", order).await;
        browser.go(payment["checkout_url"].as_str().expect("a link")).await;
        browser.find("css selector", "[data-twin-action=pay]").await;
        check("a gateway's page").await;
    }
}
