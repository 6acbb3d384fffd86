//! What the README says, done as a newcomer does it: the program without arguments, then its ten lines of curl.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{TempDir, client};

struct Demo {
    child: Child,
    url: String,
    key: String,
    _dir: TempDir,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program in an empty directory; what it prints gives its address and key.
fn demo() -> Demo {
    let dir = TempDir::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    let mut child = Command::new(env!("CARGO_BIN_EXE_grosz"))
        .current_dir(dir.path())
        .env_clear()
        .env("GROSZ_LISTEN", format!("127.0.0.1:{port}"))
        .env("GROSZ_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut url = None;
    let out = BufReader::new(child.stdout.take().expect("its output"));
    for line in out.lines() {
        let line = line.expect("text");
        if let Some(at) = line.find("http://").filter(|_| line.contains("/demo")) {
            url = line[at..].split("/demo").next().map(str::to_owned);
        }
        if let Some(at) = line.find("sk_test_") {
            let key = line[at..].split_whitespace().next().unwrap_or_default().to_owned();
            return Demo { child, url: url.expect("the address comes first"), key, _dir: dir };
        }
    }
    panic!("the program printed no key");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ten_lines_of_curl_lead_to_a_paid_payment_and_its_invoice() {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("LEFT OUT: the README's lines of curl (curl is not installed)");
        return;
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let story = readme.split("<!-- curl story -->\n```sh\n").nth(1).expect("the block's mark");
    let story = story.split("\n```").next().expect("its end");
    let demo = demo();
    let told = Command::new("sh")
        .args(["-eu", "-c", story])
        .env("HUB", &demo.url)
        .env("KEY", &demo.key)
        .output()
        .expect("sh runs");
    let printed = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success(), "{printed}{}", String::from_utf8_lossy(&told.stderr));
    assert!(printed.contains("\"status\":\"completed\""), "{printed}");

    let payment = printed.split("pay_").nth(1).expect("its id").chars().take(26).collect::<String>();
    let pdf = format!("{}/v1/payments/pay_{payment}/invoice.pdf", demo.url);
    let patience = Instant::now();
    loop {
        let answer = client().get(&pdf).bearer_auth(&demo.key).send().await.expect("an answer");
        if answer.status().is_success() {
            assert!(answer.bytes().await.expect("the PDF").starts_with(b"%PDF-"));
            return;
        }
        assert!(patience.elapsed() < Duration::from_secs(30), "no invoice: {}", answer.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
