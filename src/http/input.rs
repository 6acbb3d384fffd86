//! Reads what clients send: strict JSON with limits, strict queries. Every refusal names the field.

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::Web;
use super::auth::Caller;
use super::idempotency::Mark;
use crate::problem::{FieldError, Problem};

/// The JSON body of a PATCH. An empty body is an empty object.
pub struct Input<T>(pub T);

/// The JSON body of a POST, with what its idempotency needs.
pub struct Post<T> {
    /// The body.
    pub input: T,
    /// The idempotency key and the fingerprint of the parameters.
    pub mark: Mark,
}

/// The JSON body of a POST that is done in a slice with others: whether it was answered before is looked up there.
pub struct SlicedPost<T> {
    /// The body.
    pub input: T,
    /// The idempotency key and the fingerprint of the parameters.
    pub mark: Mark,
}

/// The parameters of a query. A name that is not known is refused: a misspelt filter would show everything.
pub struct Params<T>(pub T);

/// The body as it was read, kept beside the request so that the layer around the API can run the request again.
#[derive(Clone, Default)]
pub struct Stash(pub Arc<OnceLock<Bytes>>);

/// The raw body of an upload.
pub struct Raw {
    /// The bytes.
    pub body: Bytes,
    /// Media type, without parameters, in small letters.
    pub media_type: String,
}

impl<T: DeserializeOwned> FromRequest<Web> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, web: &Web) -> Result<Self, Problem> {
        let (_, bytes) = read_json(request, web).await?;
        Ok(Input(parse(&bytes)?))
    }
}

impl<T: DeserializeOwned + Send> FromRequest<Web> for Post<T> {
    type Rejection = Response;

    /// A request that was answered before gets its answer here, whatever became of the things it names since.
    async fn from_request(request: Request, web: &Web) -> Result<Self, Response> {
        let read = async {
            let (mut parts, bytes) = read_json(request, web).await?;
            let caller = Caller::from_request_parts(&mut parts, web).await?;
            let input = parse(&bytes)?;
            let mark = Mark::of(&caller, &parts, &bytes)?;
            let before = mark.answered(&web.app).await?;
            Ok::<_, Problem>((Post { input, mark }, before))
        };
        match read.await {
            Ok((post, None)) => Ok(post),
            Ok((_, Some(before))) => Err(before),
            Err(problem) => Err(problem.into_response()),
        }
    }
}

impl<T: DeserializeOwned + Send> FromRequest<Web> for SlicedPost<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, web: &Web) -> Result<Self, Problem> {
        let (mut parts, bytes) = read_json(request, web).await?;
        let caller = Caller::from_request_parts(&mut parts, web).await?;
        let mark = Mark::of(&caller, &parts, &bytes)?;
        Ok(SlicedPost { input: parse(&bytes)?, mark })
    }
}

impl FromRequest<Web> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, web: &Web) -> Result<Self, Problem> {
        let (parts, body) = read_bytes(request, web, web.app.config.attachment_limit_bytes).await?;
        Ok(Raw { body, media_type: media_type(&parts.headers) })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let read = form_urlencoded::parse(query.as_bytes());
        let deserializer = serde::de::value::MapDeserializer::new(read.map(|(n, v)| (n.into_owned(), Text(v.into()))));
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
        T::deserialize(tracked).map(Params).map_err(|e| {
            let path = track.path().to_string();
            let (field, why) = refusal(path.trim_start_matches('.'), &e.to_string());
            Problem::field(field.trim_start_matches('/'), why)
        })
    }
}

/// The text of a query parameter; numbers and flags are read out of it.
struct Text(String);

impl<'de> serde::de::IntoDeserializer<'de, serde::de::value::Error> for Text {
    type Deserializer = Text;
    fn into_deserializer(self) -> Text {
        self
    }
}

impl<'de> serde::Deserializer<'de> for Text {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_i64<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0.parse() {
            Ok(number) => visitor.visit_i64(number),
            Err(_) => Err(serde::de::Error::custom("must be a whole number")),
        }
    }

    fn deserialize_bool<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(serde::de::Error::custom("must be true or false")),
        }
    }

    fn deserialize_enum<V: serde::de::Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(serde::de::value::StringDeserializer::new(self.0))
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

async fn read_json(request: Request, web: &Web) -> Result<(Parts, Bytes), Problem> {
    let (parts, body) = read_bytes(request, web, web.app.config.body_limit_bytes).await?;
    let kind = media_type(&parts.headers);
    let is_json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    if !is_json && !body.is_empty() {
        let detail = "send JSON with the header Content-Type: application/json";
        return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE).detail(detail));
    }
    Ok((parts, body))
}

/// The whole body; `most` is what the address takes, for the refusal.
async fn read_bytes(request: Request, web: &Web, most: usize) -> Result<(Parts, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity") {
        let detail = "compressed bodies are not taken: send the body as it is, without Content-Encoding";
        return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE).detail(detail));
    }
    let request = Request::from_parts(parts.clone(), body);
    let body = Bytes::from_request(request, web).await.map_err(|refused| match refused.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE)
            .detail(format!("the body is larger than this address takes, which is {most} bytes")),
        _ => Problem::of_status(StatusCode::BAD_REQUEST).detail("the body did not arrive whole"),
    })?;
    if let Some(Stash(kept)) = parts.extensions.get() {
        let _ = kept.set(body.clone());
    }
    Ok((parts, body))
}

fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Where a body may be left out, `null` is none too.
    let bytes = if matches!(bytes.trim_ascii(), b"" | b"null") { b"{}" } else { bytes };
    let (path, walked) = walk(bytes);
    walked.map_err(|e| match e.classify() {
        Category::Data => Problem::field(clip(&path), without_place(&e.to_string())),
        _ => unreadable(&e),
    })?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let parsed = T::deserialize(tracked).and_then(|value| reader.end().map(|()| value));
    parsed.map_err(|e| {
        if e.classify() != Category::Data {
            return unreadable(&e);
        }
        let (pointer, why) = refusal(&track.path().to_string(), &without_place(&e.to_string()));
        Problem::field(pointer, why)
    })
}

fn unreadable(e: &serde_json::Error) -> Problem {
    if e.to_string().starts_with("recursion limit exceeded") {
        let detail = "the body has more than 128 levels of objects and lists";
        return Problem::of_status(StatusCode::BAD_REQUEST).detail(detail);
    }
    Problem::not_json(format!("not JSON at line {}, column {}", e.line(), e.column()))
}

/// Looks for what serde would take without a word: a list in the place of an object, whose fields it takes from the list
/// in their order, and a name that is given twice where any name is taken. The pointer is that of the fault.
fn walk(bytes: &[u8]) -> (String, serde_json::Result<()>) {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut path = vec![];
    let walked = Walk { path: &mut path, place: Place::Whole }.deserialize(&mut reader).and_then(|()| reader.end());
    (path.iter().map(|part| format!("/{part}")).collect(), walked)
}

/// What holds a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Whole,
    List,
    Object,
}

/// Walks through a value. The path is that of the value; after an error it is left as it was.
struct Walk<'a> {
    path: &'a mut Vec<String>,
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        // No list of ours holds lists.
        if self.place != Place::Object {
            return Err(A::Error::custom("must be an object"));
        }
        for n in 0.. {
            self.path.push(n.to_string());
            let next = list.next_element_seed(Walk { path: &mut *self.path, place: Place::List })?;
            self.path.pop();
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = object.next_key::<String>()? {
            self.path.push(name.clone());
            if !names.insert(name) {
                return Err(A::Error::custom("is given twice"));
            }
            object.next_value_seed(Walk { path: &mut *self.path, place: Place::Object })?;
            self.path.pop();
        }
        Ok(())
    }
}

/// Reads a field that holds an object: there `walk` lets a list pass, because other fields hold lists.
///
/// # Errors
/// It is something else, or the object is refused.
pub fn object<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::<Object<T>>::deserialize(deserializer).map(|found| found.map(|Object(value)| value))
}

/// What is read from an object only.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object(PhantomData)).map(Object)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<PhantomData<T>> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object))
    }
}

/// serde_json's message without its " at line 1 column 2".
fn without_place(text: &str) -> String {
    text.rsplit_once(" at line ").map_or(text, |(message, _)| message).to_owned()
}

/// serde's path and message as a pointer and the end of a sentence.
fn refusal(path: &str, message: &str) -> (String, String) {
    let base: String = match path {
        "." | "?" | "" => String::new(),
        path => path
            .replace(['.', '['], "/")
            .replace(']', "")
            .split('/')
            .fold(String::new(), |all, part| if part.is_empty() { all } else { format!("{all}/{part}") }),
    };
    let quoted = |text: &str| text.split('`').nth(1).unwrap_or_default().to_owned();
    if message.starts_with("unknown field") {
        let field = quoted(message);
        // The path ends at the field itself, or at what holds it.
        let pointer = if base.ends_with(&format!("/{field}")) { base } else { format!("{base}/{field}") };
        let known = message.split_once(", expected ").map_or("none", |(_, known)| known);
        let known = known.trim_start_matches("one of ").replace('`', "").replace("there are no fields", "none");
        return (clip(&pointer), format!("is not a field here; known are: {known}"));
    }
    if message.starts_with("missing field") {
        return (format!("{base}/{}", quoted(message)), "is required".into());
    }
    if message.starts_with("duplicate field") {
        return (format!("{base}/{}", quoted(message)), "is given twice".into());
    }
    if message.starts_with("unknown variant") {
        let known = message.split_once(", expected ").map_or("", |(_, known)| known);
        return (clip(&base), format!("must be one of: {}", known.trim_start_matches("one of ").replace('`', "")));
    }
    let why = match message.rsplit_once(", expected ") {
        Some((given, "i64")) if is_beyond_whole_numbers(given) => format!("must be at most {}", i64::MAX),
        Some((_, wanted)) => format!("must be {}", plain_kind(wanted)),
        None => message.to_owned(),
    };
    (clip(&base), why)
}

/// serde_json's words for a number that is whole but too large for us; one beyond its own it shows as `1e20`.
fn is_beyond_whole_numbers(given: &str) -> bool {
    given.starts_with("invalid value: integer")
        || given.starts_with("invalid type: floating point") && given.contains('e') && !given.contains(['-', '.'])
}

/// Names of fields come from outside: they are repeated shortened.
fn clip(pointer: &str) -> String {
    pointer.chars().filter(|c| !c.is_control()).take(120).collect()
}

fn plain_kind(wanted: &str) -> String {
    match wanted {
        "i64" | "u64" | "u32" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "a borrowed string" => "text".into(),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        w if w.starts_with("struct ") => "an object".into(),
        other => other.replace('`', ""),
    }
}

/// Collects the fields that are wrong, so that a client hears of all of them at once.
#[derive(Default)]
pub struct Fields(Vec<FieldError>);

impl Fields {
    /// Notes a wrong field.
    pub fn refuse(&mut self, pointer: &str, why: impl Into<String>) {
        self.0.push(FieldError { pointer: pointer.to_owned(), detail: why.into() });
    }

    /// One line of text, trimmed: 1 to `most` characters, none of them a control character.
    pub fn line(&mut self, pointer: &str, text: &str, most: usize) -> String {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > most {
            self.refuse(pointer, format!("must have 1 to {most} characters"));
        } else if text.chars().any(is_unprintable) {
            self.refuse(pointer, "must be one line without control characters");
        }
        text.to_owned()
    }

    /// Like [`Fields::line`], for words people write freely: card numbers have no place there (F75).
    pub fn free_text(&mut self, pointer: &str, text: &str, most: usize) -> String {
        if holds_card_number(text) {
            self.refuse(pointer, "must not hold a card number");
        }
        self.line(pointer, text, most)
    }

    /// An e-mail address.
    pub fn email(&mut self, pointer: &str, text: &str) -> String {
        let text = text.trim();
        if crate::mail::check_address(text).is_err() {
            self.refuse(pointer, "must be an e-mail address such as name@example.com");
        }
        text.to_owned()
    }

    /// The e-mail address of a payer or a buyer, which others are given too.
    pub fn public_email(&mut self, pointer: &str, text: &str) -> String {
        let text = text.trim();
        if crate::mail::check_public_address(text).is_err() {
            self.refuse(pointer, "must be an e-mail address with a dot in its domain, such as name@example.com");
        }
        text.to_owned()
    }

    /// One of the product's languages.
    pub fn language(&mut self, pointer: &str, text: &str) -> String {
        if !LANGUAGES.contains(&text) {
            self.refuse(pointer, format!("must be one of: {}", LANGUAGES.join(", ")));
        }
        text.to_owned()
    }

    /// An amount that can be asked of a payer.
    pub fn money(&mut self, minor: i64, currency: &str) -> Option<grosz_providers::Money> {
        let currency = match currency.parse() {
            Ok(currency) => currency,
            Err(_) => {
                self.refuse("/currency", "must be a supported ISO 4217 code in three capital letters, such as PLN");
                return None;
            }
        };
        match grosz_providers::Money::new(minor, currency).payable() {
            Ok(money) => Some(money),
            Err(grosz_providers::MoneyError::NotPositive) => {
                self.refuse("/amount", "must be above zero, in minor units");
                None
            }
            Err(_) => {
                let most = grosz_providers::money::MAX_MINOR;
                self.refuse("/amount", format!("must be at most {most} minor units"));
                None
            }
        }
    }

    /// The refusals.
    pub fn into_refusals(self) -> Vec<FieldError> {
        self.0
    }

    /// Answers the refusals, if there are any.
    ///
    /// # Errors
    /// The fields that were refused.
    pub fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::invalid(self.0)) }
    }
}

/// Languages of pages and mails.
pub const LANGUAGES: [&str; 6] = ["en", "pl", "uk", "cs", "ru", "is"];

/// Control characters, and marks that turn the direction of the text around them (F74).
pub fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// True when 13 to 19 digits, perhaps grouped by single blanks or hyphens, pass the check digit of cards (Luhn).
pub fn holds_card_number(text: &str) -> bool {
    let mut digits: Vec<u32> = vec![];
    let mut gap = false;
    // The end of the text ends a run of digits too.
    for c in text.chars().chain(std::iter::once('\0')) {
        match c.to_digit(10) {
            Some(digit) => {
                digits.push(digit);
                gap = false;
            }
            None if matches!(c, ' ' | '-' | '\u{a0}') && !gap && !digits.is_empty() => gap = true,
            None => {
                if run_holds_card(&digits) {
                    return true;
                }
                digits.clear();
                gap = false;
            }
        }
    }
    false
}

/// The whole run is judged, not its parts: inside a longer number some 16 digits pass by chance.
fn run_holds_card(digits: &[u32]) -> bool {
    if !(13..=19).contains(&digits.len()) || digits.iter().all(|d| *d == 0) {
        return false;
    }
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(n, d)| match (n % 2, d * 2) {
            (0, _) => *d,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    // F75
    #[test]
    fn card_numbers_are_seen_in_any_grouping() {
        for card in [
            "4242424242424242",
            "karta 4242 4242 4242 4242, 12/30",
            "4000-0000-0000-0002",
            "378282246310005",
            "nr:5555555555554444.",
        ] {
            assert!(holds_card_number(card), "{card}");
        }
        for plain in
            ["2/TR/2026", "4242424242424241", "sprawa 1234567890123", "", "0000000000000000", "42 42", "12345678901"]
        {
            assert!(!holds_card_number(plain), "{plain}");
        }
    }

    #[track_caller]
    fn check_refusal(path: &str, message: &str, pointer: &str, why: &str) {
        assert_eq!(refusal(path, message), (pointer.to_owned(), why.to_owned()));
    }

    #[test]
    fn refusals_name_the_field_in_plain_words() {
        check_refusal(".", "missing field `name`", "/name", "is required");
        check_refusal("lines[0]", "missing field `vat`", "/lines/0/vat", "is required");
        check_refusal(
            "colour",
            "unknown field `colour`, expected one of `name`, `email`",
            "/colour",
            "is not a field here; known are: name, email",
        );
        check_refusal("amount", "invalid type: string \"12\", expected i64", "/amount", "must be a whole number");
        check_refusal("kind", "unknown variant `x`, expected `a` or `b`", "/kind", "must be one of: a or b");
    }
}
