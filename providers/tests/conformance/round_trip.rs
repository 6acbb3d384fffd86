//! A whole payment against the gateway's twin: start, the payer's page, the webhook, the status, the refund.

use std::sync::Mutex;

use async_trait::async_trait;
use grosz_providers::gateway::{
    AttemptRef, Checkout, Cx, Delivery, Event, EventKind, Outcome, Redirect, Reference, RefundOrder, RefundState,
    Standing, Verdict,
};
use grosz_providers::twin::{Faults, GatewayTwin, TwinAnswer, TwinDelivery, TwinRequest};
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{Currency, Money, Provider, Settings, Timestamp};
use jiff::ToSpan;
use url::Url;

use crate::fixture;

/// A hub's view of a twin: its API over [`Http`], its pages as a browser, its deliveries.
struct World {
    provider: &'static dyn Provider,
    settings: Settings,
    twin: Box<dyn GatewayTwin>,
    now: Mutex<Timestamp>,
    name: &'static str,
}

#[async_trait]
impl Http for World {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let headers = Headers::from_pairs(request.headers.iter().map(|(n, v)| (n, v.as_str())));
        match self.request(request.method, &request.url, headers, request.body) {
            TwinAnswer::Page { status, headers, body, .. } => {
                Ok(HttpResponse { status, headers: Headers::from_pairs(headers), body })
            }
            TwinAnswer::Cut | TwinAnswer::Hang => Err(HttpError::NoAnswer("the twin gave none".into())),
        }
    }
}

impl World {
    /// Every gateway that has a twin.
    fn all() -> Vec<World> {
        let with_twin = fixture::all().into_iter().filter_map(|(provider, fixture)| {
            let (twin, settings) = (provider.twin()?, fixture.settings(provider));
            twin.enroll(&settings, "https://hub.example.test/webhooks/1");
            let (now, name) = (Mutex::new(fixture.now()), provider.facts().name);
            Some(World { provider, settings, twin, now, name })
        });
        with_twin.collect()
    }

    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    fn wait(&self, minutes: i64) {
        let mut now = self.now.lock().unwrap();
        *now += minutes.minutes();
    }

    fn cx(&self) -> Cx<'_> {
        Cx { settings: &self.settings, http: self, now: self.now(), live: false }
    }

    fn request(&self, method: &str, url: &str, headers: Headers, body: Vec<u8>) -> TwinAnswer {
        let url = Url::parse(url).unwrap();
        self.twin.serve(&TwinRequest {
            method: method.into(),
            path: url.path().into(),
            query: url.query().unwrap_or_default().into(),
            headers,
            body,
            root: url.origin().ascii_serialization(),
            now: self.now(),
            faults: Faults::default(),
        })
    }

    /// A request as the payer's browser makes it, redirects followed as long as they stay here. Answers the last
    /// address and page; at a foreign address the page is empty.
    fn browse(&self, mut url: Url, form: Option<Vec<(String, String)>>) -> (Url, String) {
        let home = url.origin();
        let mut form = form;
        for _ in 0..8 {
            if url.origin() != home {
                return (url, String::new());
            }
            let (method, body) = match form.take() {
                Some(pairs) => {
                    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
                    ("POST", body.into_bytes())
                }
                None => ("GET", vec![]),
            };
            let kind = Headers::from_pairs([("content-type", "application/x-www-form-urlencoded")]);
            let TwinAnswer::Page { status, headers, body, .. } = self.request(method, url.as_str(), kind, body) else {
                panic!("{}: no page at {url}", self.name)
            };
            match Headers::from_pairs(headers).first("location") {
                Some(to) if (300..400).contains(&status) => url = url.join(to).unwrap(),
                _ => {
                    let page = String::from_utf8(body).unwrap();
                    assert_eq!(status, 200, "{}: {url}: {page}", self.name);
                    return (url, page);
                }
            }
        }
        panic!("{}: redirected in a circle", self.name)
    }

    /// Starts a checkout and opens the gateway's page. Answers it with the gateway's name for the checkout, as a hub
    /// would have stored it.
    async fn open(&self, checkout: &Checkout) -> ((Url, String), Option<String>) {
        match self.provider.start(&self.cx(), checkout).await.unwrap_or_else(|e| panic!("{}: {e}", self.name)) {
            Redirect::Url { url, gateway_ref, .. } => (self.browse(Url::parse(&url).unwrap(), None), gateway_ref),
            Redirect::Form { action, fields } => (self.browse(Url::parse(&action).unwrap(), Some(fields)), None),
        }
    }

    /// Presses a button of the gateway's page; answers where the payer ends.
    fn press(&self, (at, page): &(Url, String), action: &str) -> Url {
        let button = page.find(&format!("data-twin-action=\"{action}\""));
        let button = button.unwrap_or_else(|| panic!("{}: no {action} on the page: {page}", self.name));
        let begin = page[..button].rfind("<form").expect("a form round the button");
        let end = button + page[button..].find("</form>").expect("the form's end");
        let form = &page[begin..end];
        let (tag, inside) = form.split_once('>').unwrap();
        assert_eq!(attribute(tag, "method").unwrap().to_ascii_lowercase(), "post");
        let to = at.join(&attribute(tag, "action").unwrap_or_default()).unwrap();
        let inputs = inside.split("<input").skip(1).map(|i| i.split('>').next().unwrap());
        let pairs = inputs.map(|i| (attribute(i, "name").unwrap(), attribute(i, "value").unwrap_or_default()));
        self.browse(to, Some(pairs.collect())).0
    }

    fn read(&self, delivery: &TwinDelivery) -> (Vec<Event>, String) {
        let headers = Headers::from_pairs(delivery.headers.iter().map(|(n, v)| (n, v.as_str())));
        let (query, now) = (Url::parse(&delivery.url).unwrap().query().unwrap_or_default().to_owned(), self.now());
        let call = Delivery { headers: &headers, query: &query, body: &delivery.body, received_at: Some(now) };
        let reading = self.provider.read(&self.settings, &call).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        (reading.events, reading.echo)
    }

    /// What is due, read and rightly answered.
    fn take(&self) -> Vec<Event> {
        let mut all = Vec::new();
        for delivery in self.twin.due(self.now(), &Faults::default()) {
            let (events, echo) = self.read(&delivery);
            let outcomes = vec![Outcome::Recorded; events.len()];
            let reply = self.provider.reply(&self.settings, &Verdict::Committed { echo: &echo, outcomes: &outcomes });
            self.twin.answered(delivery.id, Some((reply.status, reply.body.into_bytes())), self.now());
            all.extend(events);
        }
        all
    }

    fn checkout(&self, reference: &str) -> Checkout {
        let facts = self.provider.facts();
        let currency: Currency = facts.currencies.first().unwrap().parse().unwrap();
        Checkout {
            reference: reference.into(),
            amount: Money::new(12990.clamp(facts.limits.0, facts.limits.1), currency),
            description: "Sprawa 7 — opłata".into(),
            email: "payer@example.test".into(),
            name: Some("Anna Nowak".into()),
            language: "pl".into(),
            ip: Some("203.0.113.7".into()),
            return_url: "https://hub.example.test/return/1?lang=pl".into(),
            cancel_url: "https://hub.example.test/return/1?cancel=1".into(),
            webhook_url: "https://hub.example.test/webhooks/1".into(),
            expires_at: self.now() + 24.hours(),
        }
    }

    fn attempt(&self, checkout: &Checkout, gateway_ref: Option<String>) -> AttemptRef {
        AttemptRef {
            reference: checkout.reference.clone(),
            gateway_ref,
            amount: checkout.amount,
            created_at: self.now(),
            expires_at: checkout.expires_at,
        }
    }
}

/// The value of an attribute in a tag, with the few escapes of HTML undone.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let value = rest.split('"').next()?;
    Some(
        value
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}

fn paid(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|e| e.kind == EventKind::Paid).collect()
}

#[tokio::test]
async fn a_payment_goes_all_the_way() {
    for world in World::all() {
        let name = world.name;
        let checkout = world.checkout("conformance-1");
        // A hub that lost the answer starts again; that must not make two things to pay.
        world.open(&checkout).await;
        let (page, checkout_ref) = world.open(&checkout).await;
        let end = world.press(&page, "pay");
        assert!(end.as_str().starts_with("https://hub.example.test/return/1"), "{name}: the payer ends at {end}");
        let query: Vec<_> = end.query_pairs().into_owned().collect();
        assert_ne!(world.provider.check_return(&world.settings, &query), Some(false), "{name}: {end}");

        let events = deliver_with_a_lost_answer(&world);
        let [event] = paid(&events)[..] else { panic!("{name}: not one payment: {events:#?}") };
        let ours = match &event.reference {
            Reference::Ours(reference) => *reference == checkout.reference,
            Reference::Gateway(reference) => Some(reference) == checkout_ref.as_ref(),
        };
        assert!(ours, "{name}: {event:?}");
        assert_eq!(event.amount, Some(checkout.amount), "{name}");
        let payment = event.gateway_ref.clone().unwrap_or_else(|| panic!("{name}: the payment has no name"));

        if world.provider.facts().can.poll {
            let attempt = world.attempt(&checkout, checkout_ref.clone());
            let report = world.provider.status(&world.cx(), &attempt).await.unwrap();
            assert_eq!(report.standing, Standing::Paid, "{name}");
            let [polled] = paid(&report.events)[..] else { panic!("{name}: {report:#?}") };
            assert_eq!((polled.amount, &polled.gateway_ref), (event.amount, &event.gateway_ref), "{name}");
        }
        if world.provider.facts().can.refund {
            refund(&world, &checkout, payment).await;
        }
    }
}

/// Takes what is due, loses the first answer, and sees that it comes again until it is rightly answered.
fn deliver_with_a_lost_answer(world: &World) -> Vec<Event> {
    let name = world.name;
    let first = world.twin.due(world.now(), &Faults::default());
    assert!(!first.is_empty(), "{name}: nothing was reported");
    assert!(world.twin.due(world.now(), &Faults::default()).is_empty(), "{name}: handed out twice");
    let events: Vec<_> = first.iter().flat_map(|d| world.read(d).0).collect();
    for (n, delivery) in first.iter().enumerate() {
        let answer = if n % 2 == 0 { Some((500, b"internal error".to_vec())) } else { None };
        world.twin.answered(delivery.id, answer, world.now());
    }
    let mut again = Vec::new();
    for _ in 0..120 {
        world.wait(1);
        again.extend(world.take());
    }
    let keys = |events: &[Event]| paid(events).iter().map(|e| e.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&again), keys(&events), "{name}: the repeat after a lost answer");
    world.wait(3 * 24 * 60);
    assert!(world.take().is_empty(), "{name}: repeated although it was rightly answered");
    events
}

async fn refund(world: &World, checkout: &Checkout, payment: String) {
    let name = world.name;
    let order = RefundOrder {
        id: "ref_conformance_1".into(),
        reference: checkout.reference.clone(),
        gateway_ref: payment,
        amount: Money::new(checkout.amount.minor() / 3, checkout.amount.currency()),
        paid: checkout.amount,
        refund_ref: None,
    };
    let first = world.provider.refund(&world.cx(), &order).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    let second = world.provider.refund(&world.cx(), &order).await.unwrap_or_else(|e| panic!("{name}, again: {e}"));
    assert_eq!(first.gateway_ref, second.gateway_ref, "{name}: two refunds for one order");
    let order = RefundOrder { refund_ref: first.gateway_ref.clone(), ..order };
    let mut done = first.state == RefundState::Succeeded;
    for _ in 0..120 {
        let told = world.take();
        done |= told.iter().any(|e| {
            matches!(e.kind, EventKind::Refund { state: RefundState::Succeeded, .. }) && e.amount == Some(order.amount)
        });
        done |= match world.provider.refund_status(&world.cx(), &order).await {
            Ok(report) => report.state == RefundState::Succeeded,
            Err(grosz_providers::CallError::Unsupported) => false,
            Err(e) => panic!("{name}: {e}"),
        };
        if done {
            return;
        }
        world.wait(1);
    }
    panic!("{name}: the refund was never reported done");
}

#[tokio::test]
async fn a_refused_payment_is_never_paid() {
    for world in World::all() {
        for (action, reference) in [("decline", "conformance-2"), ("cancel", "conformance-3")] {
            let checkout = world.checkout(reference);
            let (page, checkout_ref) = world.open(&checkout).await;
            if !page.1.contains(&format!("data-twin-action=\"{action}\"")) {
                continue;
            }
            world.press(&page, action);
            let mut events = world.take();
            if world.provider.facts().can.poll {
                let attempt = world.attempt(&checkout, checkout_ref);
                let report = world.provider.status(&world.cx(), &attempt).await.unwrap();
                assert_ne!(report.standing, Standing::Paid, "{}: {action}", world.name);
                events.extend(report.events);
            }
            assert!(paid(&events).is_empty(), "{}: {action} gave {events:#?}", world.name);
        }
    }
}

#[tokio::test]
async fn paying_twice_is_two_payments() {
    for world in World::all() {
        let (page, _) = world.open(&world.checkout("conformance-4")).await;
        if !page.1.contains("data-twin-action=\"pay_twice\"") {
            continue;
        }
        world.press(&page, "pay_twice");
        let events = world.take();
        let [one, two] = paid(&events)[..] else { panic!("{}: {events:#?}", world.name) };
        assert_ne!(one.gateway_ref, two.gateway_ref, "{}", world.name);
        assert_ne!(one.key, two.key, "{}", world.name);
    }
}
