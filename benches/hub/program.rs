//! The hub as a child process, with a merchant, a key, accounts and a payer made by its own command line and API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Options;
use crate::child::{Child, SlowFlush, Start, cpu_us, free_port, resident_kib};
use crate::load::call;
use crate::signing::{AMOUNT_MINOR, AUTOPAY, STRIPE_SECRET};

/// The program under test, built with the bench's own profile (that of releases).
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_grosz");

/// What is the same for every process of one hub.
#[derive(Clone)]
pub struct Hub {
    /// Its database.
    pub database: String,
    /// A key of its API.
    pub key: String,
    /// The merchant of everything.
    pub merchant: String,
    /// Account of Stripe and of Autopay.
    pub accounts: [String; 2],
    /// The payer of what is seeded.
    pub payer: String,
    program: String,
    env: Vec<(String, String)>,
    room: PathBuf,
    slow: Option<SlowFlush>,
}

/// One process of it.
pub struct Process {
    /// The process.
    pub child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// From its start until it was ready.
    pub started_in: Duration,
}

impl Hub {
    /// Sets a hub up on an empty database.
    pub async fn set_up(database: String, room: &Path, slow: Option<&SlowFlush>, options: &Options) -> Hub {
        let set = |name: &str, value: &str| (format!("GROSZ_{name}"), value.to_owned());
        let mut env = vec![
            set("DATABASE_URL", &database),
            set("ALLOW_INSECURE_TARGETS", "true"),
            set("LOG", "warn"),
            // Nobody is asked about payments while we measure: the first question comes after a day.
            set("POLL_WAITS_S", "86400"),
            set("DB_CONNECTIONS", "16"),
            set("TELL_WAITS_S", "0,1,1,1,1,1,1,1,1,1"),
            set("MAIL_INVOICES", "false"),
        ];
        if options.with_invoices {
            env.push(set("HOLD", "true"));
        }
        env.extend(options.settings.iter().filter_map(|s| s.split_once('=')).map(|(name, value)| set(name, value)));
        let mut hub = Hub {
            database,
            key: String::new(),
            merchant: String::new(),
            accounts: Default::default(),
            payer: String::new(),
            program: options.program.clone(),
            env,
            room: room.to_owned(),
            slow: slow.cloned(),
        };
        hub.merchant = hub.cli(&["merchant", "add", "--name", "Bench"]);
        let merchant = hub.merchant.clone();
        hub.key = hub.cli(&["key", "add", "--merchant", &merchant]);
        let secret = format!("webhook_secret={STRIPE_SECRET}");
        // Nobody listens on the discard port: no call of the hub leaves the machine.
        let stripe = ["--set", "secret_key=sk_test_bench", "--set", &secret, "--set", "base_url=http://127.0.0.1:9"];
        let (service, key) = (format!("service_id={}", AUTOPAY.0), format!("shared_key={}", AUTOPAY.1));
        let autopay =
            ["--currency", "PLN", "--set", &service, "--set", &key, "--set", "gateway_url=http://127.0.0.1:9"];
        for (n, (kind, settings)) in [("stripe", &stripe[..]), ("autopay", &autopay[..])].into_iter().enumerate() {
            let add = [&["provider", "add", "--merchant", &merchant, kind], settings].concat();
            hub.accounts[n] = hub.cli(&add);
        }
        if options.with_invoices {
            let settings = ["access_key=a", "secret_key=b", "app_key=c", "company_id=1", "base_url=http://127.0.0.1:9"];
            let sets: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
            hub.cli(&[&["invoicing", "add", "--merchant", &merchant, "wfirma"], &sets[..]].concat());
        }
        let process = hub.start(&[]).await;
        let payer = json!({"name": "Jan Kowalski", "email": "jan@firma.example", "language": "pl"});
        hub.payer = id_of(&hub.post(&process, "/v1/payers", &payer).await);
        if options.with_invoices {
            let profile = json!({"kind": "company", "name": "Firma Testowa", "tax_id": "5260001246", "street": "Prosta 1",
                "postcode": "00-950", "city": "Warszawa", "country": "PL", "default": true});
            hub.post(&process, &format!("/v1/payers/{}/profiles", hub.payer), &profile).await;
        }
        hub
    }

    /// Runs a command; answers the first line it prints.
    fn cli(&self, arguments: &[&str]) -> String {
        let envs = self.env.iter().map(|(name, value)| (name, value));
        let done =
            Command::new(&self.program).args(arguments).env_clear().envs(envs).output().expect("the program runs");
        assert!(done.status.success(), "grosz {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).lines().next().unwrap_or_default().to_owned()
    }

    /// Starts `grosz serve` with more settings, and waits until it is ready.
    pub async fn start(&self, more: &[(&str, &str)]) -> Process {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut env = self.env.clone();
        env.push(("GROSZ_LISTEN".into(), address.to_string()));
        env.push(("GROSZ_PUBLIC_URL".into(), format!("http://{address}")));
        env.extend(more.iter().map(|(name, value)| (format!("GROSZ_{name}"), (*value).to_owned())));
        let began = Instant::now();
        let child = Child::start(Start {
            command: &[self.program.clone(), "serve".into()],
            env: &env,
            slow: self.slow.as_ref(),
            log: self.room.join("hub.log"),
            signal: "KILL",
        });
        let listens = !more.contains(&("ROLE", "worker"));
        while listens && !matches!(call(address, "GET", "/readyz", &[], b"").await, Ok((200, _))) {
            assert!(child.lives(), "the hub did not start:\n{}", child.last_words());
            assert!(began.elapsed() < Duration::from_secs(60), "the hub is not ready:\n{}", child.last_words());
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Process { child, address, started_in: began.elapsed() }
    }

    /// A call of the API that must succeed.
    pub async fn post(&self, process: &Process, path: &str, body: &Value) -> Value {
        let bearer = format!("Bearer {}", self.key);
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let answer = call(process.address, "POST", path, &headers, body.to_string().as_bytes()).await;
        let (status, body) = answer.expect("the hub answers");
        let text = String::from_utf8_lossy(&body);
        assert!((200..300).contains(&status), "{path}: {status} {text}");
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }

    /// A payment that waits for its money, as the API makes it; answers its id.
    pub async fn payment(&self, process: &Process, account: &str) -> String {
        id_of(&self.post(process, "/v1/payments", &self.order(account)).await)
    }

    /// What is asked for to make one.
    pub fn order(&self, account: &str) -> Value {
        json!({"amount": AMOUNT_MINOR, "currency": "PLN", "description": "Konsultacja prawna",
            "payer": self.payer, "provider_account": account, "return_url": "http://shop.example/thanks"})
    }
}

fn id_of(object: &Value) -> String {
    object["id"].as_str().expect("an id").to_owned()
}

/// Counters of a hub (or a reference) and its database at one instant.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Processor time of the program, microseconds.
    pub program_us: u64,
    /// Processor time of all PostgreSQL processes, microseconds.
    pub database_us: u64,
    /// Resident memory of the program, KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// Now.
    pub fn of(program: u32, database: Option<u32>) -> Usage {
        Usage {
            program_us: cpu_us(program, false),
            database_us: database.map_or(0, |pid| cpu_us(pid, true)),
            resident_kib: resident_kib(program),
        }
    }
}
