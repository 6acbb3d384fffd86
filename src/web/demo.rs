//! `/demo`: the first page of a newcomer, on a hub with simulated gateways only. English, like the API.

use std::path::{Path as FilePath, PathBuf};

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::console::developer_look;
use super::format;
use super::locale::Language;
use super::look::{Forms, Look, page};
use super::stop::{Path, Stop};
use crate::http::Web;
use crate::store::Page;

/// The merchant that seeding makes.
const MERCHANT: &str = "Demo";

/// Letters on the page, and the most of one that is read.
const LETTERS: usize = 50;
const LETTER_BYTES: u64 = 256 * 1024;

struct DemoCase {
    number: String,
    title: String,
    amount: String,
    address: String,
    label: &'static str,
    is_open: bool,
}

struct DemoPayer {
    name: String,
    language: &'static str,
    address: String,
    cases: Vec<DemoCase>,
}

#[derive(Template)]
#[template(path = "demo.html")]
struct DemoPage<'a> {
    look: &'a Look,
    payers: Vec<DemoPayer>,
    base: &'a str,
    has_mail: bool,
}

/// `GET /demo`
pub(crate) async fn home(State(web): State<Web>, uri: Uri) -> Result<Response, Stop> {
    let look = developer_look(&web, &uri);
    let mut tx = web.app.store.read().await?;
    let merchant = tx.merchants().await?.into_iter().find(|m| m.name == MERCHANT);
    let mut payers = vec![];
    if let Some(merchant) = merchant {
        for payer in tx.payers(&merchant.id, &Page { before: None, limit: 5 }).await? {
            let cases = tx.cases(&merchant.id, Some(&payer.id), &Page { before: None, limit: 10 }).await?;
            let portal = format!("/portal/{}", payer.portal_token);
            let t = Language::of_code(&payer.language).unwrap_or(Language::En).texts();
            let case = |c: crate::store::Case| DemoCase {
                label: if c.status == "analysis" { t.pay } else { t.case_preparation },
                amount: format::money(look.language, c.total),
                address: format!("{portal}/cases/{}", c.id),
                is_open: c.status == "analysis",
                number: c.number,
                title: c.title,
            };
            let cases = cases.into_iter().rev().map(case).collect();
            let language = Language::of_code(&payer.language).unwrap_or(Language::En).code();
            payers.insert(0, DemoPayer { name: payer.name, language, address: portal, cases });
        }
    }
    let base = &web.app.config.public_url;
    page(&web, StatusCode::OK, Forms::Here, &DemoPage { look: &look, payers, base, has_mail: folder(&web).is_some() })
}

#[derive(Template)]
#[template(path = "mails.html")]
struct MailsPage<'a> {
    look: &'a Look,
    /// Address, subject, recipient.
    letters: Vec<(String, String, String)>,
    has_mail: bool,
}

#[derive(Template)]
#[template(path = "mail.html")]
struct MailPage<'a> {
    look: &'a Look,
    subject: String,
    to: String,
    text: String,
}

/// `GET /demo/mail`
pub(crate) async fn mails(State(web): State<Web>, uri: Uri) -> Result<Response, Stop> {
    let look = developer_look(&web, &uri);
    let mut letters = vec![];
    for name in names(&web).await {
        let Some(letter) = read(&web, &name).await else { continue };
        letters.push((format!("/demo/mail/{name}"), letter.subject, letter.to));
    }
    page(&web, StatusCode::OK, Forms::Here, &MailsPage { look: &look, letters, has_mail: folder(&web).is_some() })
}

/// `GET /demo/mail/{name}`
pub(crate) async fn mail(State(web): State<Web>, Path(name): Path<String>, uri: Uri) -> Result<Response, Stop> {
    // Only a name that the list holds: nothing that is typed reaches the file system.
    if !names(&web).await.contains(&name) {
        return Err(Stop::NotFound);
    }
    let letter = read(&web, &name).await.ok_or(Stop::NotFound)?;
    let look = developer_look(&web, &uri);
    let Letter { subject, to, text } = letter;
    page(&web, StatusCode::OK, Forms::Here, &MailPage { look: &look, subject, to, text })
}

/// The folder of the file transport, if that is what carries mail.
fn folder(web: &Web) -> Option<PathBuf> {
    web.app.config.smtp_url.0.strip_prefix("file://").map(PathBuf::from)
}

/// Names of letters, the newest first.
async fn names(web: &Web) -> Vec<String> {
    let Some(folder) = folder(web) else { return vec![] };
    let Ok(mut entries) = tokio::fs::read_dir(folder).await else { return vec![] };
    let mut names = vec![];
    while let Ok(Some(entry)) = entries.next_entry().await {
        if let Ok(name) = entry.file_name().into_string()
            && FilePath::new(&name).extension().is_some_and(|e| e == "eml")
        {
            names.push(name);
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.truncate(LETTERS);
    names
}

/// A letter as people read it.
#[derive(Debug, PartialEq, Eq)]
struct Letter {
    subject: String,
    to: String,
    text: String,
}

async fn read(web: &Web, name: &str) -> Option<Letter> {
    use tokio::io::AsyncReadExt;
    let file = tokio::fs::File::open(folder(web)?.join(name)).await.ok()?;
    let mut bytes = vec![];
    file.take(LETTER_BYTES).read_to_end(&mut bytes).await.ok()?;
    Some(letter(&String::from_utf8_lossy(&bytes)))
}

/// Reads our own letters (see [`crate::mail`]): one plain part, alone or the first of several.
fn letter(raw: &str) -> Letter {
    let raw = raw.replace("\r\n", "\n");
    let (head, body) = raw.split_once("\n\n").unwrap_or((&raw, ""));
    let subject = encoded_words(&field(head, "subject"));
    let to = encoded_words(&field(head, "to"));
    let (head, body) = first_part(head, body);
    let text = match field(&head, "content-transfer-encoding").to_ascii_lowercase().as_str() {
        "base64" => base64_text(&body),
        "quoted-printable" => quoted_printable(&body),
        _ => body,
    };
    Letter { subject, to, text }
}

/// The first part that holds no parts.
fn first_part(head: &str, body: &str) -> (String, String) {
    let (mut head, mut body) = (head.to_owned(), body.to_owned());
    for _ in 0..5 {
        let kind = field(&head, "content-type");
        let Some((_, rest)) = kind.split_once("boundary=") else { break };
        let boundary = format!("--{}", rest.trim_start_matches('"').split(['"', ';']).next().unwrap_or_default());
        let Some(part) = body.split(boundary.as_str()).nth(1) else { break };
        let part = part.trim_start_matches('\n').to_owned();
        let (h, b) = part.split_once("\n\n").unwrap_or((&part, ""));
        (head, body) = (h.to_owned(), b.to_owned());
    }
    (head, body)
}

/// A header's text, unfolded.
fn field(head: &str, name: &str) -> String {
    let mut found = String::new();
    let mut inside = false;
    for line in head.lines() {
        if line.starts_with([' ', '\t']) {
            if inside {
                found.push(' ');
                found.push_str(line.trim());
            }
            continue;
        }
        inside = false;
        if let Some((n, value)) = line.split_once(':')
            && found.is_empty()
            && n.eq_ignore_ascii_case(name)
        {
            inside = true;
            found = value.trim().to_owned();
        }
    }
    found
}

/// RFC 2047 words as text.
fn encoded_words(text: &str) -> String {
    let mut out = String::new();
    let mut was_encoded = false;
    for word in text.split(' ') {
        let inner = word.strip_prefix("=?utf-8?b?").or_else(|| word.strip_prefix("=?UTF-8?B?"));
        let decoded = inner.and_then(|w| w.strip_suffix("?=")).map(base64_text);
        // Blanks between two encoded words belong to neither.
        let between_encoded = was_encoded && decoded.is_some();
        if !out.is_empty() && !between_encoded {
            out.push(' ');
        }
        was_encoded = decoded.is_some();
        out.push_str(decoded.as_deref().unwrap_or(word));
    }
    out
}

fn base64_text(text: &str) -> String {
    use base64::Engine;
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(dense).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn quoted_printable(text: &str) -> String {
    let joined = text.replace("=\n", "");
    let mut bytes = vec![];
    let mut rest = joined.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'=', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 2047 and RFC 2045 by hand.
    #[test]
    fn letters_are_read_as_people_read_them() {
        let raw = "Subject: =?utf-8?b?V3lzdMSFcGnFgg==?= =?utf-8?b?IGLFgsSFZA==?=\r\nTo: a@b.pl\r\n\
                   Content-Type: multipart/mixed;\r\n boundary=\"x\"\r\n\r\n--x\r\nContent-Type: text/plain; charset=utf-8\r\n\
                   Content-Transfer-Encoding: quoted-printable\r\n\r\nWyst=C4=85pi=C5=82 =\r\nb=C5=82=C4=85d\r\n--x--\r\n";
        let letter = letter(raw);
        assert_eq!((letter.subject.as_str(), letter.to.as_str()), ("Wystąpił błąd", "a@b.pl"));
        assert_eq!(letter.text.trim(), "Wystąpił błąd");
    }

    #[test]
    fn any_bytes_are_a_letter() {
        for raw in ["", "\n\n", "=", "Subject:", "Content-Type: x; boundary=\n\n--", "a: =?utf-8?b?*?=\n\n=C"] {
            let _ = letter(raw);
        }
    }
}
