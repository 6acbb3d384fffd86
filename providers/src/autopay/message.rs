//! Autopay's messages: the hash, the XML that is read and the XML that is written.
//!
//! The hash is not an HMAC: it is a digest over values joined by `|`, the shared key last. Nothing in it separates
//! names from values, so two rules live here. [`Key::sign`] refuses the separator in every value of ours, and
//! [`parse`] reads so strictly that one text has one meaning.

use quick_xml::XmlVersion;
use quick_xml::escape::escape;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use crate::facts::Settings;
use crate::gateway::CallError;
use crate::sign;

/// Largest XML document that is read. Notifications have a few thousand characters; a status answer has at most 50
/// transactions.
pub(super) const MAX_BYTES: usize = 256 * 1024;

const MAX_DEPTH: usize = 16;
const MAX_NODES: usize = 4096;
const MAX_ATTRIBUTES: usize = 16;

/// The documented elements that hold elements (Autopay documentation, itn, rpan-rpdn, pre-transaction).
const CONTAINERS: &[&str] = &[
    "transactions",
    "transaction",
    "customerData",
    "verificationStatusReasons",
    "recurringData",
    "cardData",
    "blikData",
    "product",
    "params",
    "blikAMList",
    "blikAM",
    "transactionsConfirmations",
    "transactionConfirmed",
    "recurringConfirmations",
    "recurringConfirmed",
];

/// The shared key of a service and its hash function (Autopay documentation, hashing).
pub(super) struct Key<'a> {
    secret: &'a str,
    long: bool,
}

impl<'a> Key<'a> {
    /// The key of an account.
    pub(super) fn of(settings: &'a Settings) -> Self {
        Key { secret: settings.text("shared_key"), long: settings.text("hash") == "sha512" }
    }

    /// Hash of a message of ours.
    ///
    /// # Errors
    /// [`CallError::Invalid`] for a value that holds the separator or a control character. A hash over such a value
    /// can equal the hash of a forged notification, and the payer sees the hashes of start forms.
    pub(super) fn sign<'v>(
        &self,
        fields: impl IntoIterator<Item = (&'static str, &'v str)>,
    ) -> Result<String, CallError> {
        let mut values = Vec::new();
        for (field, value) in fields {
            if value.contains('|') {
                return Err(CallError::Invalid { field, why: "must not hold the separator |".into() });
            }
            if value.chars().any(char::is_control) {
                return Err(CallError::Invalid { field, why: "must not hold control characters".into() });
            }
            values.push(value);
        }
        Ok(self.digest(values))
    }

    /// Whether a query or a document carries the right hash over these values. The gateway writes small letters;
    /// white space round the hash is common.
    pub(super) fn fits<'v>(&self, hash: &str, values: impl IntoIterator<Item = &'v str>) -> bool {
        sign::same(hash.trim_ascii().as_bytes(), self.digest(values).as_bytes())
    }

    /// Verdict on the hash of a document.
    pub(super) fn check(&self, document: &Node) -> Seal {
        match document.once("hash") {
            Ok(None) => Seal::Missing,
            Ok(Some(hash)) if hash.value.trim_ascii().is_empty() => Seal::Missing,
            Ok(Some(hash)) if self.fits(&hash.value, document.signed_values()) => Seal::Right,
            _ => Seal::Wrong,
        }
    }

    /// Empty values leave no separator behind; the text `0` is a value.
    fn digest<'v>(&self, values: impl IntoIterator<Item = &'v str>) -> String {
        let mut text = String::new();
        for value in values.into_iter().filter(|v| !v.is_empty()) {
            text.push_str(value);
            text.push('|');
        }
        text.push_str(self.secret);
        if self.long { sign::sha512_hex(text.as_bytes()) } else { sign::sha256_hex(text.as_bytes()) }
    }
}

/// What [`Key::check`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    /// The hash is there and right.
    Right,
    /// The hash is there and wrong.
    Wrong,
    /// There is no hash.
    Missing,
}

/// One element. A leaf has a value; an element with children has none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// The decoded text exactly as sent; of a `param` the attribute `value`.
    pub(super) value: String,
    pub(super) children: Vec<Node>,
}

impl Node {
    /// The only child of that name.
    ///
    /// # Errors
    /// There is more than one.
    pub(super) fn once(&self, name: &str) -> Result<Option<&Node>, Repeated> {
        let mut found = self.children.iter().filter(|c| c.name == name);
        match (found.next(), found.next()) {
            (first, None) => Ok(first),
            _ => Err(Repeated),
        }
    }

    /// Value of the first child of that name, or empty text.
    pub(super) fn text(&self, name: &str) -> &str {
        self.children.iter().find(|c| c.name == name).map_or("", |c| c.value.as_str())
    }

    /// Values of all leaves in document order, without the document's own hash.
    pub(super) fn signed_values(&self) -> Vec<&str> {
        self.values_without("hash")
    }

    /// Values of all leaves in document order, without the children of this name.
    pub(super) fn values_without(&self, name: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for child in self.children.iter().filter(|c| c.name != name) {
            child.collect(&mut values);
        }
        values
    }

    fn collect<'n>(&'n self, values: &mut Vec<&'n str>) {
        if self.children.is_empty() && !self.value.is_empty() {
            values.push(&self.value);
        }
        for child in &self.children {
            child.collect(values);
        }
    }
}

/// A child that may come once came twice: which of them is meant cannot be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeated;

/// Reads a document. Refuses what the gateway never sends and what has been used against XML readers: a document
/// type, processing instructions, entities beyond the five of XML, another encoding, namespaces, text beside
/// elements, anything too deep, too wide or too long.
///
/// # Errors
/// A few words that say what was wrong; nothing of the document is in them.
pub(super) fn parse(bytes: &[u8]) -> Result<Node, &'static str> {
    if bytes.len() > MAX_BYTES {
        return Err("the document is too long");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "the document is not UTF-8")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.chars().all(allowed) {
        return Err("the document holds a character that XML forbids");
    }
    let mut reader = Reader::from_str(text);
    reader.config_mut().enable_all_checks(true);
    let mut tree = Tree::default();
    let mut first = true;
    loop {
        match reader.read_event().map_err(|_| "the document is not XML")? {
            Event::Decl(declaration) if first => check_declaration(&declaration)?,
            Event::Start(tag) => tree.open(&tag)?,
            Event::Empty(tag) => {
                tree.open(&tag)?;
                tree.close()?;
            }
            Event::End(_) => tree.close()?,
            Event::Text(text) => tree.text(&text.xml10_content())?,
            Event::CData(text) => tree.text(&text.xml10_content())?,
            Event::GeneralRef(name) => tree.text(&resolve(&name)?)?,
            Event::Comment(_) => {}
            Event::Decl(_) | Event::PI(_) => return Err("the document holds a processing instruction"),
            Event::DocType(_) => return Err("the document holds a document type"),
            Event::Eof => return tree.finish(),
        }
        first = false;
    }
}

/// Characters of XML 1.0.
fn allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

fn check_declaration(declaration: &BytesDecl<'_>) -> Result<(), &'static str> {
    match declaration.encoding() {
        None => Ok(()),
        Some(Ok(name)) if name.eq_ignore_ascii_case("utf-8") => Ok(()),
        Some(_) => Err("the document declares another encoding than UTF-8"),
    }
}

fn resolve(name: &BytesRef<'_>) -> Result<String, &'static str> {
    let unknown = "the document holds an unknown entity";
    if name.is_char_ref() {
        return match name.resolve_char_ref() {
            Ok(Some(c)) if allowed(c) => Ok(c.to_string()),
            _ => Err(unknown),
        };
    }
    let text = match &**name {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => return Err(unknown),
    };
    Ok(text.to_owned())
}

/// The document while it is read.
#[derive(Default)]
struct Tree {
    open: Vec<Node>,
    root: Option<Node>,
    nodes: usize,
}

impl Tree {
    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), &'static str> {
        self.nodes += 1;
        if self.open.len() >= MAX_DEPTH || self.nodes > MAX_NODES {
            return Err("the document is too deep or too wide");
        }
        if self.root.is_some() {
            return Err("the document has two roots");
        }
        let name = tag.name().as_ref().to_owned();
        if name.contains(':') {
            return Err("the document uses namespaces");
        }
        let value = attribute_value(tag, name == "param")?;
        self.open.push(Node { name, value, children: vec![] });
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), &'static str> {
        match self.open.last_mut() {
            Some(node) if node.name != "param" => node.value.push_str(text),
            _ if blank(text) => {}
            _ => return Err("the document holds text where none belongs"),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), &'static str> {
        let mut node = self.open.pop().ok_or("the document is not XML")?;
        if !node.children.is_empty() && !blank(&node.value) {
            return Err("the document holds text beside elements");
        }
        // White space in a value is the value; in an element for elements it is how the document is written.
        if !node.children.is_empty() || (blank(&node.value) && CONTAINERS.contains(&node.name.as_str())) {
            node.value.clear();
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(node),
            None => self.root = Some(node),
        }
        Ok(())
    }

    fn finish(self) -> Result<Node, &'static str> {
        if self.open.is_empty() { self.root.ok_or("the document is empty") } else { Err("the document is cut") }
    }
}

/// Value of the attribute `value` where it is wanted. Other attributes carry nothing in this protocol and are not
/// signed; they are checked and left alone.
fn attribute_value(tag: &BytesStart<'_>, wanted: bool) -> Result<String, &'static str> {
    let mut value = String::new();
    for (n, attribute) in tag.attributes().enumerate() {
        if n >= MAX_ATTRIBUTES {
            return Err("the document has too many attributes");
        }
        let attribute = attribute.map_err(|_| "the document has a broken attribute")?;
        let text =
            attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| "the document holds an unknown entity")?;
        if !text.chars().all(allowed) {
            return Err("the document holds a character that XML forbids");
        }
        if wanted && attribute.key.as_ref() == "value" {
            value = text.into_owned();
        }
    }
    Ok(value)
}

fn blank(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_whitespace())
}

/// Writes a document and remembers its values, so that the hash is over what is written and in the same order.
pub(super) struct Writer {
    xml: String,
    values: Vec<String>,
    open: Vec<&'static str>,
}

impl Writer {
    /// Begins a document with this root.
    pub(super) fn new(root: &'static str) -> Self {
        let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        Writer { xml, values: vec![], open: vec![] }.open(root)
    }

    /// Opens an element.
    pub(super) fn open(mut self, name: &'static str) -> Self {
        self.xml.push_str(&format!("<{name}>"));
        self.open.push(name);
        self
    }

    /// Writes a leaf; nothing for an empty value.
    pub(super) fn leaf(mut self, name: &'static str, value: &str) -> Self {
        if !value.is_empty() {
            self.xml.push_str(&format!("<{name}>{}</{name}>", escape(value)));
            self.values.push(value.to_owned());
        }
        self
    }

    /// Closes the innermost element.
    pub(super) fn close(mut self) -> Self {
        if let Some(name) = self.open.pop() {
            self.xml.push_str(&format!("</{name}>"));
        }
        self
    }

    /// Adds the hash as the root's last child and closes the document.
    pub(super) fn sign(mut self, key: &Key<'_>) -> String {
        while self.open.len() > 1 {
            self = self.close();
        }
        let hash = key.digest(self.values.iter().map(String::as_str));
        self.xml.push_str(&format!("<hash>{hash}</hash>"));
        self.close().xml
    }
}
