//! The members of an event that mean something to us. An event is some kilobytes of a hundred and more members; a tree of
//! all of them costs more than the rest of reading it, and so does one that copies what it holds.

use std::borrow::Cow;
use std::fmt;
use std::ops::Index;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Their names, wherever they stand; in the order in which they are sought.
const MEMBERS: [&str; 33] = [
    "account",
    "amount",
    "amount_received",
    "amount_refunded",
    "amount_total",
    "balance_transactions",
    "charge",
    "code",
    "created",
    "currency",
    "data",
    "decline_code",
    "due_by",
    "evidence_details",
    "failure_code",
    "failure_decline_code",
    "failure_reason",
    super::events::OURS,
    super::events::OUR_REFUND,
    "id",
    "is_charge_refundable",
    "last_payment_error",
    "livemode",
    "metadata",
    "mode",
    "object",
    "payment_intent",
    "payment_status",
    "reason",
    "refunds",
    "related_object",
    "status",
    "type",
];

/// JSON as far as it is read.
#[derive(Debug, PartialEq)]
pub(super) enum Tree<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A number that nobody takes for an amount or an instant, being a fraction or too large.
    Number,
    Text(Cow<'a, str>),
    List(Vec<Tree<'a>>),
    /// Of members that come twice the last counts.
    Members(Vec<(&'a str, Tree<'a>)>),
}

impl<'a> Tree<'a> {
    /// The tree of a body, without the members that nobody reads; NULL for what is no JSON.
    pub(super) fn of(body: &'a [u8]) -> Self {
        let mut json = serde_json::Deserializer::from_slice(body);
        let tree = Picked.deserialize(&mut json);
        tree.and_then(|tree| json.end().map(|()| tree)).unwrap_or(Tree::Null)
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if let Tree::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn as_i64(&self) -> Option<i64> {
        if let Tree::Int(int) = self { Some(*int) } else { None }
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        if let Tree::Bool(bool) = self { Some(*bool) } else { None }
    }

    pub(super) fn as_list(&self) -> &[Tree<'a>] {
        if let Tree::List(list) = self { list } else { &[] }
    }

    pub(super) fn is_null(&self) -> bool {
        *self == Tree::Null
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Tree::Members(_))
    }
}

/// NULL for what is not there, as for a [`Value`].
impl<'a> Index<&str> for Tree<'a> {
    type Output = Tree<'a>;

    fn index(&self, name: &str) -> &Tree<'a> {
        let Tree::Members(all) = self else { return &Tree::Null };
        all.iter().rfind(|(known, _)| *known == name).map_or(&Tree::Null, |(_, member)| member)
    }
}

impl<'a> From<&'a Value> for Tree<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Tree::Null,
            Value::Bool(bool) => Tree::Bool(*bool),
            Value::Number(number) => number.as_i64().map_or(Tree::Number, Tree::Int),
            Value::String(text) => Tree::Text(Cow::Borrowed(text)),
            Value::Array(list) => Tree::List(list.iter().map(Tree::from).collect()),
            Value::Object(members) => {
                Tree::Members(members.iter().map(|(name, value)| (&**name, value.into())).collect())
            }
        }
    }
}

struct Picked;

/// What [`Tree::Number`] stands for.
type Fraction = f64;

impl<'de> DeserializeSeed<'de> for Picked {
    type Value = Tree<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Tree<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Picked {
    type Value = Tree<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Tree<'de>, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Tree<'de>, E> {
        Ok(Tree::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Tree<'de>, E> {
        Ok(i64::try_from(value).map_or(Tree::Number, Tree::Int))
    }

    fn visit_f64<E: Error>(self, _: Fraction) -> Result<Tree<'de>, E> {
        Ok(Tree::Number)
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Tree<'de>, A::Error> {
        let mut list = vec![];
        while let Some(one) = all.next_element_seed(Picked)? {
            list.push(one);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Tree<'de>, A::Error> {
        let mut members = vec![];
        while let Some(name) = all.next_key_seed(Name)? {
            match name {
                Some(name) => members.push((name, all.next_value_seed(Picked)?)),
                None => drop(all.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Tree::Members(members))
    }
}

/// A member's name, if anybody reads it.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(MEMBERS.binary_search(&name).ok().map(|n| MEMBERS[n]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order() {
        assert!(MEMBERS.is_sorted());
    }

    #[test]
    fn what_nobody_reads_is_left_out() {
        let body =
            br#" {"id":"evt_1","livemode":false,"x":{"id":[1e999,{"a":"\u0000"}]},"data":{"object":{"amount":1050,
            "due_by":0.5,"id":null,"refunds":{"data":[{"id":"re_1","b":null}]}}},"id":"evt_2"} "#;
        let tree = Tree::of(body);
        assert_eq!((tree["id"].as_str(), tree["livemode"].as_bool()), (Some("evt_2"), Some(false)));
        let object = &tree["data"]["object"];
        let only =
            serde_json::json!({"amount": 1050, "refunds": {"data": [{"id": "re_1"}]}, "id": null, "due_by": 0.5});
        assert_eq!(*object, Tree::from(&only), "{tree:?}");
        assert!(object["id"].is_null() && object["due_by"].as_i64().is_none() && !object["due_by"].is_null());
        assert!(tree["x"].is_null() && tree["id"]["id"].is_null());
        for broken in ["", "{", "{}x", "{\"a\":}", "{\"a\":1,}", "{1:2}", "\u{0}"] {
            assert_eq!(Tree::of(broken.as_bytes()), Tree::Null, "{broken}");
        }
    }
}
