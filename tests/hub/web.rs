//! The payers' pages over HTTP, as a browser without scripts asks for them.

mod lists;
mod paying;
mod settings;

use grosz::store::{Payer, Payment};

use crate::harness::{Answer, Hub};
use crate::stories::stage::form_of;

/// A browser that keeps nothing but what a test hands it.
pub struct Visitor<'a>(pub &'a Hub);

impl Visitor<'_> {
    /// A page.
    pub async fn get(&self, path: &str) -> Answer {
        self.0.raw("GET", path, &[], vec![]).await
    }

    /// A page, as a browser with these headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        self.0.raw("GET", path, &headers, vec![]).await
    }

    /// A form, as a browser sends the form of our own page.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let ours = [("origin", self.0.url.as_str()), ("sec-fetch-site", "same-origin")];
        self.post_with(path, fields, &ours).await
    }

    /// A form with these headers.
    pub async fn post_with(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
        all.extend(headers.iter().map(|(n, v)| (*n, (*v).to_owned())));
        self.0.raw("POST", path, &all, form_of(fields.iter().copied())).await
    }
}

/// The token in the forms of a page.
#[track_caller]
pub fn csrf(page: &Answer) -> String {
    let text = page.text();
    let after = text.split("name=\"csrf\" value=\"").nth(1).unwrap_or_else(|| panic!("no form here: {text}"));
    after.split('"').next().expect("its end").to_owned()
}

/// Where an answer leads.
#[track_caller]
pub fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, 303, "{}", answer.text());
    answer.header("location").expect("where to").to_owned()
}

/// The text of the first element whose start tag holds `mark`, without tags.
#[track_caller]
pub fn inside(page: &str, mark: &str, end: &str) -> String {
    let after = page.split(mark).nth(1).unwrap_or_else(|| panic!("no {mark} in {page}"));
    let part = after.split_once('>').expect("a tag").1.split(end).next().expect("its end");
    let mut text = String::new();
    let mut in_tag = false;
    for c in part.chars() {
        match c {
            '<' => in_tag = true,
            '>' => in_tag = false,
            c if !in_tag => text.push(c),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn pay_link(payment: &Payment) -> String {
    format!("/pay/{}", payment.token)
}

pub fn portal(payer: &Payer) -> String {
    format!("/portal/{}", payer.portal_token)
}

/// Takes the payer's invoice data away, as of somebody who comes for the first time.
pub async fn without_profiles(hub: &Hub, payer: &Payer) {
    let mut tx = hub.tx().await;
    for profile in tx.profiles(&payer.merchant_id, &payer.id).await.expect("profiles") {
        tx.delete_profile(&profile, 1).await.expect("deleted");
    }
    tx.commit().await.expect("a commit");
}
