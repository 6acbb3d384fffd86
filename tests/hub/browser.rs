//! The demonstration in a real browser: what a newcomer sees in the first minutes. The hub runs whole, with its own
//! workers and twins, in real time.

use std::sync::Arc;

use grosz::app::App;
use grosz::clock::Clock;
use grosz::config::{Config, Hidden};
use tokio::sync::watch;

use crate::harness::{TempDir, client};
use crate::webdriver::Browser;

/// A whole hub as `grosz` without arguments starts it, but in a directory and on a port of its own.
struct Whole {
    url: String,
    stop: watch::Sender<bool>,
    _dir: TempDir,
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
    grosz::demo::seed(&app).await.expect("the demonstration");
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(grosz::run::run(app, Some(listener), stopped));
    Whole { url, stop, _dir: dir }
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
