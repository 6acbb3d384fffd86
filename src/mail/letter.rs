//! A letter and its form on the wire.

use std::time::SystemTime;

use grosz_providers::sign;
use jiff::Timestamp;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment as MimeAttachment, Body, Message, MultiPart, SinglePart};

use super::MailError;

/// One letter to one person.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    /// `something@host`, without angle brackets. The same for every try: a second copy is recognised by it.
    pub message_id: String,
    /// The date in the letter; the same for every try.
    pub date: Timestamp,
    /// The sender.
    pub from: Mailbox,
    /// The recipient.
    pub to: Mailbox,
    /// The subject in any alphabet.
    pub subject: String,
    /// The text for readers without HTML.
    pub text: String,
    /// The same as HTML.
    pub html: Option<String>,
    /// The language of the text, such as `pl`.
    pub language: String,
    /// Files that come with it.
    pub attachments: Vec<Attachment>,
}

/// A name and an address.
#[derive(Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The name in any alphabet, if known.
    pub name: Option<String>,
    /// The address; see [`check_address`].
    pub address: String,
}

/// A file in a letter.
#[derive(Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The name that the reader sees.
    pub file_name: String,
    /// The type, such as `application/pdf`.
    pub content_type: String,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Letter {
    /// The letter as a message. The same letter gives the same bytes.
    pub(super) fn compose(&self) -> Result<Message, MailError> {
        let refused = |what: &str| MailError::Refused(format!("the letter has no valid {what}"));
        if !is_message_id(&self.message_id) {
            return Err(refused("message id"));
        }
        if self.language.is_empty() || !self.language.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(refused("language"));
        }
        let builder = Message::builder()
            .message_id(Some(format!("<{}>", self.message_id)))
            .date(SystemTime::from(self.date))
            .from(self.from.parse().map_err(|_| refused("sender"))?)
            .to(self.to.parse().map_err(|_| refused("recipient"))?)
            .subject(one_line(&self.subject))
            .raw_header(raw("Content-Language", &self.language))
            // RFC 3834: keeps absence notices from answering a machine.
            .raw_header(raw("Auto-Submitted", "auto-generated"));
        let composed = match (self.content(), self.files()?) {
            (Content::Plain(text), files) if files.is_empty() => builder.singlepart(text),
            (Content::Both(both), files) if files.is_empty() => builder.multipart(both),
            (content, files) => builder.multipart(self.with_files(content, files)),
        };
        composed.map_err(|_| refused("form"))
    }

    fn content(&self) -> Content {
        let plain = SinglePart::plain(self.text.clone());
        match &self.html {
            None => Content::Plain(plain),
            Some(html) => Content::Both(
                MultiPart::alternative()
                    .boundary(self.boundary("alternative"))
                    .singlepart(plain)
                    .singlepart(SinglePart::html(html.clone())),
            ),
        }
    }

    fn files(&self) -> Result<Vec<SinglePart>, MailError> {
        let part = |file: &Attachment| {
            let content_type = ContentType::parse(&file.content_type)
                .map_err(|_| MailError::Refused("an attachment has no valid type".into()))?;
            let name = one_line(&file.file_name).replace(['"', '\\', '/'], "_");
            // Always base64: a file that happens to be ASCII would have its line ends rewritten on the way.
            let body = Body::new_with_encoding(file.bytes.clone(), ContentTransferEncoding::Base64)
                .map_err(|_| MailError::Refused("an attachment could not be encoded".into()))?;
            Ok(MimeAttachment::new(name).body(body, content_type))
        };
        self.attachments.iter().map(part).collect()
    }

    fn with_files(&self, content: Content, files: Vec<SinglePart>) -> MultiPart {
        let mixed = MultiPart::mixed().boundary(self.boundary("mixed"));
        let with_content = match content {
            Content::Plain(text) => mixed.singlepart(text),
            Content::Both(both) => mixed.multipart(both),
        };
        files.into_iter().fold(with_content, MultiPart::singlepart)
    }

    /// Derived and not drawn, so that every try is byte for byte the same letter. `=_` occurs in no encoded content.
    fn boundary(&self, part: &str) -> String {
        let digest = sign::sha256(&[part.as_bytes(), self.message_id.as_bytes()]);
        format!("=_{}", hex::encode(digest.get(..16).unwrap_or_default()))
    }

    /// A name that sorts by date and is the same for every try.
    pub(super) fn file_name(&self) -> String {
        let id: String = self.message_id.chars().map(|c| if is_plain(c) { c } else { '_' }).take(150).collect();
        format!("{}-{id}.eml", self.date.strftime("%Y%m%dT%H%M%SZ"))
    }
}

enum Content {
    Plain(SinglePart),
    Both(MultiPart),
}

impl Mailbox {
    /// Reads `name <address>`, or an address alone.
    pub fn read(text: &str) -> Mailbox {
        match text.split_once('<') {
            Some((name, address)) => {
                let name = Some(name.trim().to_owned()).filter(|n| !n.is_empty());
                let address = address.trim();
                Mailbox { name, address: address.strip_suffix('>').unwrap_or(address).trim().to_owned() }
            }
            None => Mailbox { name: None, address: text.trim().to_owned() },
        }
    }

    /// Checks that a letter can bear it.
    ///
    /// # Errors
    /// The address is none.
    pub fn check(&self) -> Result<(), BadAddress> {
        self.parse().map(drop)
    }

    fn parse(&self) -> Result<lettre::message::Mailbox, BadAddress> {
        let name = self.name.as_deref().map(one_line).filter(|name| !name.is_empty());
        Ok(lettre::message::Mailbox::new(name, parse_address(&self.address)?))
    }
}

/// Checks an e-mail address: an ASCII name, `@` and a host, at most 254 characters.
///
/// # Errors
/// It is none.
pub fn check_address(text: &str) -> Result<(), BadAddress> {
    parse_address(text).map(|_| ())
}

/// Checks the address of a payer or a buyer, which gateways and invoicing services are given too: they refuse a host
/// without a dot, such as `localhost`, which our own people's mail server may well know.
///
/// # Errors
/// It is none, or its host is no name of the Internet.
pub fn check_public_address(text: &str) -> Result<(), BadAddress> {
    let address = parse_address(text)?;
    let host = address.domain();
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.contains('.') && host.split('.').all(is_label) { Ok(()) } else { Err(BadAddress) }
}

/// The host's ASCII form is taken, because many servers know no other.
fn parse_address(text: &str) -> Result<lettre::Address, BadAddress> {
    let (user, host) = text.rsplit_once('@').ok_or(BadAddress)?;
    // Quoted names may hold blanks and what else breaks headers; nobody has one. A bar parts the fields that Autopay signs.
    if text.len() > 254 || !user.bytes().all(|b| b.is_ascii_graphic() && !b"\"()<>[],:;\\@|".contains(&b)) {
        return Err(BadAddress);
    }
    let host = if host.starts_with('[') { host.to_owned() } else { ascii_host(host)? };
    lettre::Address::new(user, host).map_err(|_| BadAddress)
}

fn ascii_host(host: &str) -> Result<String, BadAddress> {
    match url::Host::parse(host).map_err(|_| BadAddress)? {
        url::Host::Domain(name) => Ok(name),
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => Err(BadAddress),
    }
}

/// The text is no e-mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not an e-mail address")]
pub struct BadAddress;

/// A line break in a header would begin the next header.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn is_message_id(id: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.chars().all(is_plain);
    id.len() <= 200 && id.split_once('@').is_some_and(|(left, right)| is_part(left) && is_part(right))
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+')
}

fn raw(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}
