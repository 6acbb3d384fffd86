//! The few calls of the WebDriver protocol that the browser stories need, to a headless Chromium through chromedriver.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{TempDir, client};

const CHROMIUM: &str = "/usr/bin/chromium";
const CHROMEDRIVER: &str = "/usr/bin/chromedriver";

/// How long the driver waits for anything on a page to appear.
const PATIENCE_MS: u32 = 30_000;

/// A browser of its own, with an empty profile.
pub struct Browser {
    client: reqwest::Client,
    session: String,
    driver: Child,
    // Closed, it would end the driver at its next word.
    _words: BufReader<ChildStdout>,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser is in its group, and would live on without it.
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Browser {
    /// Starts one, or says why not: said aloud, and a failure when it is required.
    pub async fn start() -> Option<Browser> {
        let missing = [CHROMIUM, CHROMEDRIVER].into_iter().find(|p| !std::path::Path::new(p).exists());
        if let Some(missing) = missing {
            let required = std::env::var("GROSZ_TEST_REQUIRE").unwrap_or_default();
            let is_required = required.split(',').any(|word| word.trim() == "browser");
            assert!(!is_required, "GROSZ_TEST_REQUIRE names browser, and {missing} is not installed");
            eprintln!("LEFT OUT: tests in a browser ({missing} is missing; install chromium and chromium-driver)");
            return None;
        }
        let profile = TempDir::new();
        let port = free_port();
        let mut driver = Command::new(CHROMEDRIVER)
            .arg(format!("--port={port}"))
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut words = BufReader::new(driver.stdout.take().expect("its words"));
        let mut line = String::new();
        while !line.contains("started successfully") {
            line.clear();
            assert_ne!(words.read_line(&mut line).expect("a line"), 0, "chromedriver ended");
        }
        let session = format!("http://127.0.0.1:{port}");
        let mut browser = Browser { client: client(), session, driver, _words: words, _profile: profile };
        let mut arguments: Vec<String> = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--lang=pl",
            // Loopback alone: whatever a page names elsewhere is not looked for.
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--user-data-dir={}", browser._profile.path().display()));
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"implicit": PATIENCE_MS},
        }}});
        let session = browser.call("POST", "/session", Some(capabilities)).await;
        let id = session["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("{}/session/{id}", browser.session);
        Some(browser)
    }

    async fn try_call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Value> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, format!("{}{path}", self.session));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.expect("chromedriver answers");
        let is_fine = answer.status().is_success();
        let bytes = answer.bytes().await.expect("a whole answer");
        let mut value: Value = serde_json::from_slice(&bytes).expect("JSON");
        if is_fine { Ok(value["value"].take()) } else { Err(value["value"].take()) }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.try_call(method, path, body).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Opens an address.
    pub async fn go(&self, url: &str) {
        self.call("POST", "/url", Some(json!({"url": url}))).await;
    }

    /// Shows pages as a screen of this size does.
    pub async fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        let order = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": size});
        self.call("POST", "/goog/cdp/execute", Some(order)).await;
    }

    /// Where the browser is.
    pub async fn url(&self) -> String {
        self.call("GET", "/url", None).await.as_str().expect("an address").to_owned()
    }

    /// What a script answers.
    pub async fn script(&self, code: &str) -> Value {
        self.call("POST", "/execute/sync", Some(json!({"script": code, "args": []}))).await
    }

    /// The text that a reader sees.
    async fn text(&self) -> String {
        self.script("return document.body ? document.body.innerText : ''").await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page holds this text, over reloads and on to other pages. Answers all of the page's text.
    pub async fn wait_for(&self, text: &str) -> String {
        self.find("xpath", &format!("//main[contains(normalize-space(.), \"{text}\")]")).await;
        self.text().await
    }

    /// Waits for an element.
    pub async fn find(&self, way: &str, what: &str) -> String {
        let found = self.try_call("POST", "/element", Some(json!({"using": way, "value": what}))).await;
        let id = found.ok().and_then(|v| v.as_object()?.values().next()?.as_str().map(str::to_owned));
        match id {
            Some(id) => id,
            None => panic!("{what} did not appear at {}: {}", self.url().await, self.text().await),
        }
    }

    /// Clicks like a hand: the element must be visible and on top.
    pub async fn click(&self, css: &str) {
        let id = self.find("css selector", css).await;
        self.call("POST", &format!("/element/{id}/click"), Some(json!({}))).await;
    }

    /// Types into an empty field.
    pub async fn fill(&self, css: &str, text: &str) {
        let id = self.find("css selector", css).await;
        self.call("POST", &format!("/element/{id}/clear"), Some(json!({}))).await;
        self.call("POST", &format!("/element/{id}/value"), Some(json!({"text": text}))).await;
    }

    /// What the browser complained about: refused scripts, styles and forms among it.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", Some(json!({"type": "browser"}))).await;
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|e| e["message"].as_str().map(str::to_owned)).collect()
    }

    /// Keeps a picture of the whole page when GROSZ_TEST_PICTURES names a directory.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("GROSZ_TEST_PICTURES") else { return };
        let order =
            json!({"cmd": "Page.captureScreenshot", "params": {"format": "png", "captureBeyondViewport": true}});
        let answer = self.call("POST", "/goog/cdp/execute", Some(order)).await;
        let data = answer["data"].as_str().expect("a picture");
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).expect("base64");
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), bytes).expect("a file");
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
