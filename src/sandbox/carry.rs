//! Carries the gateways' deliveries to the hub over HTTP, and spoils the way as the dial says.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use grosz_providers::Timestamp;
use grosz_providers::twin::TwinDelivery;
use jiff::SignedDuration;
use tokio::task::JoinSet;

use super::host::{Host, Kind, Stand};

/// A delivery that waits to be passed by another one waits no longer than this, in seconds.
const HELD_S: i64 = 10;
/// Copies of one delivery that are under way at the same time.
const COPIES_AT_ONCE: usize = 32;
/// Copies of one delivery at most.
const COPIES: u32 = 10_000;
/// So much of an answer is read.
const ANSWER_LIMIT: usize = 64 * 1024;

/// What is on its way from one gateway.
#[derive(Default)]
pub(super) struct Way {
    delayed: Vec<(Timestamp, TwinDelivery)>,
    /// Waits to be passed, since when.
    held: Option<(Timestamp, TwinDelivery)>,
}

impl Way {
    /// Takes new deliveries in and answers those that set out now, in this order.
    fn pass(&mut self, new: Vec<TwinDelivery>, stand: &Stand, now: Timestamp) -> Vec<TwinDelivery> {
        let late = SignedDuration::from_secs(i64::from(stand.dial.value("delay_s")));
        self.delayed.extend(new.into_iter().map(|d| (now.checked_add(late).unwrap_or(now), d)));
        let (ready, delayed) = std::mem::take(&mut self.delayed).into_iter().partition(|(at, _)| *at <= now);
        self.delayed = delayed;
        let ready: Vec<(Timestamp, TwinDelivery)> = ready;
        let mut setting_out = vec![];
        for (_, delivery) in ready {
            if self.held.is_none() && stand.dial.take("reorder") {
                self.held = Some((now, delivery));
                continue;
            }
            setting_out.push(delivery);
            setting_out.extend(self.held.take().map(|(_, held)| held));
        }
        if self.held.as_ref().is_some_and(|(since, _)| now.as_second() - since.as_second() >= HELD_S) {
            setting_out.extend(self.held.take().map(|(_, held)| held));
        }
        setting_out
    }
}

impl Host {
    /// Carries out every delivery whose time has come; answers how many calls were made.
    pub async fn carry(&self) -> usize {
        self.look_for_accounts().await;
        let mut calls = 0;
        for stand in &self.stands {
            calls += self.carry_from(stand).await;
        }
        calls
    }

    async fn carry_from(&self, stand: &Stand) -> usize {
        let Kind::Gateway { twin, way } = &stand.kind else { return 0 };
        // Held to the end, so that two carriers do not overtake each other.
        let mut way = way.lock().await;
        let now = self.now(stand);
        let names = twin.spends_by_delivery();
        let new = twin.due(now, &stand.dial.look(names));
        stand.dial.spend(names, u32::try_from(new.len()).unwrap_or(u32::MAX));
        let mut calls = 0;
        for delivery in way.pass(new, stand, now) {
            let id = delivery.id;
            let answer = if self.gets_lost(stand) {
                None
            } else {
                let copies = 1 + stand.dial.value("repeat").min(COPIES);
                calls += usize::try_from(copies).unwrap_or(1);
                self.carrier.post(spoiled(delivery, stand), copies).await
            };
            let answer = answer.filter(|_| !stand.dial.take("lose_answer"));
            twin.answered(id, answer, now);
        }
        calls
    }

    fn gets_lost(&self, stand: &Stand) -> bool {
        stand.dial.take("drop") || self.ids.below(100) < i64::from(stand.dial.value("drop_percent"))
    }
}

/// With one byte changed, when the dial says so.
fn spoiled(mut delivery: TwinDelivery, stand: &Stand) -> TwinDelivery {
    let middle = delivery.body.len() / 2;
    if stand.dial.take("tamper")
        && let Some(byte) = delivery.body.get_mut(middle)
    {
        *byte ^= 1;
    }
    delivery
}

/// A small client of its own: no redirects, no proxy, nothing repeated.
#[derive(Default)]
pub(super) struct Carrier(OnceLock<Option<reqwest::Client>>);

type Answer = Option<(u16, Vec<u8>)>;

impl Carrier {
    /// Sends all copies at the same time, and answers what came to the first.
    async fn post(&self, delivery: TwinDelivery, copies: u32) -> Answer {
        let client = self.0.get_or_init(client).clone()?;
        let delivery = Arc::new(delivery);
        let first = post(client.clone(), Arc::clone(&delivery));
        let mut others = JoinSet::new();
        let send_others = async {
            for _ in 1..copies {
                if others.len() >= COPIES_AT_ONCE {
                    others.join_next().await;
                }
                others.spawn(post(client.clone(), Arc::clone(&delivery)));
            }
            while others.join_next().await.is_some() {}
        };
        let (answer, ()) = tokio::join!(first, send_others);
        answer
    }
}

async fn post(client: reqwest::Client, delivery: Arc<TwinDelivery>) -> Answer {
    let mut request = client.post(&delivery.url).body(delivery.body.clone());
    for (name, value) in &delivery.headers {
        request = request.header(name, value);
    }
    let mut answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    let mut body = vec![];
    while let Some(chunk) = answer.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_LIMIT {
            return None;
        }
    }
    Some((status, body))
}

fn client() -> Option<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let built = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.with_root_certificates(roots).with_no_client_auth())
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build();
    built.inspect_err(|error| tracing::error!(error = %error, "The sandbox cannot deliver")).ok()
}
