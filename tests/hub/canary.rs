//! Secrets and personal data are planted, the hub is driven through good and bad days with logs at their loudest, and
//! nothing of them is found where it must not be (F72, I10).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{TempDir, client};

/// Never to be found in a log, an answer, a metric, the process list, or readable in the database.
const SECRETS: [&str; 5] = ["CANARYshared", "CANARYaccess", "CANARYsecret", "CANARYapp", "CANARYsmtp"];
/// May be found in answers to its owner and in the database, never in a log or a metric.
const PERSONAL: [&str; 4] = ["canary.person@example.com", "Canary Person", "Canary Street", "7171717174"];

struct Hub {
    url: String,
    key: String,
    seen: Vec<String>,
}

impl Hub {
    async fn call(&mut self, method: &str, path: &str, body: Value) -> Value {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = client().request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        let request = match &body {
            Value::Null => request,
            body => request.header("content-type", "application/json").body(body.to_string()),
        };
        let answer = request.send().await.expect("an answer");
        let text = answer.text().await.expect("text");
        self.seen.push(text.clone());
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }
}

fn grosz(dir: &TempDir, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grosz"));
    command
        .env_clear()
        .env("GROSZ_DATABASE_URL", format!("sqlite:{}", dir.path().join("hub.db").display()))
        .env("GROSZ_LISTEN", format!("127.0.0.1:{port}"))
        .env("GROSZ_PUBLIC_URL", format!("http://127.0.0.1:{port}"))
        .env("GROSZ_ALLOW_INSECURE_TARGETS", "true")
        .env("GROSZ_SMTP_URL", "smtp://user:CANARYsmtp@127.0.0.1:1?tls=none")
        .env("GROSZ_FALLBACK_EMAIL", "operator@hub.example")
        .env("GROSZ_LOG", "trace")
        .stdin(Stdio::null());
    command
}

fn printed(mut command: Command) -> String {
    let output = command.stderr(Stdio::null()).output().expect("it runs");
    assert!(output.status.success(), "{command:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_secret_or_personal_leaks() {
    let dir = TempDir::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    // Set-up by the command line, as an operator does it.
    let mut add = grosz(&dir, port);
    add.args(["merchant", "add", "--name", "Kancelaria", "--fallback-email", "biuro@kancelaria.example"]);
    let merchant = printed(add);
    let mut add = grosz(&dir, port);
    add.args(["key", "add", "--merchant", &merchant]);
    let key = printed(add);
    let mut list = grosz(&dir, port);
    list.args(["key", "list", "--merchant", &merchant]);
    let listed = printed(list);
    assert!(listed.starts_with("key_") && listed.ends_with("valid") && !listed.contains(&key), "{listed}");

    let log = std::fs::File::create(dir.path().join("log")).expect("a log");
    let mut program = grosz(&dir, port).arg("serve").stderr(log).stdout(Stdio::null()).spawn().expect("it starts");
    let mut hub = Hub { url: format!("http://127.0.0.1:{port}"), key, seen: vec![] };
    let patience = Instant::now();
    while client().get(format!("{}/readyz", hub.url)).send().await.is_err() {
        assert!(patience.elapsed() < Duration::from_secs(30), "it does not come up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let command_line = std::fs::read(format!("/proc/{}/cmdline", program.id())).unwrap_or_default();
    drive(&mut hub).await;
    let metrics = client().get(format!("{}/metrics", hub.url)).send().await.expect("metrics").text().await;
    let metrics = metrics.expect("text");
    program.kill().expect("it is ours");
    program.wait().expect("it is gone");

    let log = std::fs::read_to_string(dir.path().join("log")).expect("the log");
    assert!(log.contains("Refused a webhook call"), "the log was loud enough to show anything: {log}");
    for canary in SECRETS.iter().chain(&PERSONAL) {
        assert!(!log.contains(canary), "{canary} is in the log");
        assert!(!metrics.contains(canary), "{canary} is in the metrics");
        assert!(!String::from_utf8_lossy(&command_line).contains(canary), "{canary} is in the process list");
    }
    assert!(!log.contains(&hub.key), "the API key is in the log");
    for canary in SECRETS {
        assert!(hub.seen.iter().all(|answer| !answer.contains(canary)), "{canary} is in an answer");
        for file in ["hub.db", "hub.db-wal"] {
            let bytes = std::fs::read(dir.path().join(file)).unwrap_or_default();
            assert!(!bytes.windows(canary.len()).any(|w| w == canary.as_bytes()), "{canary} lies readable in {file}");
        }
    }
}

/// Good days and bad: accounts, a payer, a case, a payment, forged and broken webhooks, refused input, an invoice that
/// cannot be issued because nobody answers.
async fn drive(hub: &mut Hub) {
    let settings = json!({"service_id": "903117", "shared_key": "CANARYshared", "gateway_url": "http://127.0.0.1:1"});
    let account = hub.call("POST", "/v1/provider-accounts", json!({"provider": "autopay", "settings": settings})).await;
    let id = account["id"].as_str().expect("an account").to_owned();
    let settings = json!({
        "access_key": "CANARYaccess", "secret_key": "CANARYsecret", "app_key": "CANARYapp", "company_id": "1",
        "base_url": "http://127.0.0.1:1",
    });
    hub.call("POST", "/v1/invoicing-accounts", json!({"invoicer": "wfirma", "settings": settings})).await;
    let wrong = json!({"service_id": "1", "shared_key": "CANARYshared", "hash": "CANARYshared"});
    hub.call("POST", "/v1/provider-accounts", json!({"provider": "autopay", "settings": wrong})).await;
    let expert = json!({"name": "Ekspert", "email": "canary.person@example.com", "language": "pl"});
    let expert = hub.call("POST", "/v1/experts", expert).await["id"].clone();
    let payer = json!({"name": "Canary Person", "email": "canary.person@example.com", "language": "pl"});
    let payer = hub.call("POST", "/v1/payers", payer).await["id"].clone();
    let profile = json!({
        "kind": "company", "name": "Canary Person", "tax_id": "7171717174", "street": "Canary Street 1", "postcode": "00-001",
        "city": "Warszawa", "country": "PL", "email": "canary.person@example.com", "default": true,
    });
    let path = format!("/v1/payers/{}/profiles", payer.as_str().expect("a payer"));
    hub.call("POST", &path, profile).await;
    let case = json!({
        "number": "1/2026", "title": "Umowa", "expert": expert, "payer": payer, "amount": 12_300, "currency": "PLN",
        "lines": [{"name": "Porada", "quantity": 1, "unit_price": 12_300, "vat": "23"}],
    });
    let case = hub.call("POST", "/v1/cases", case).await["id"].clone();
    let payment = hub.call("POST", "/v1/payments", json!({"case": case})).await;
    let link = payment["checkout_url"].as_str().expect("a payment").to_owned();
    let page = client().get(link).send().await.expect("the page").text().await.expect("text");
    hub.seen.push(page);
    for body in ["transactions=x", "transactions=CANARYshared", "", "\u{0}canary.person@example.com"] {
        let to = format!("{}/webhooks/autopay/{id}", hub.url);
        let form = client().post(to).header("content-type", "application/x-www-form-urlencoded").body(body);
        hub.seen.push(form.send().await.expect("an answer").text().await.expect("text"));
    }
    for path in ["/v1/provider-accounts", "/v1/invoicing-accounts", "/v1/deliveries", "/v1/alerts", "/v1/events"] {
        hub.call("GET", path, Value::Null).await;
    }
    let timeline = format!("/v1/payments/{}/timeline", payment["id"].as_str().expect("an id"));
    hub.call("GET", &timeline, Value::Null).await;
}
