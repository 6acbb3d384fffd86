//! The members of an event that mean something to us. An event is some kilobytes of a hundred and more members; a tree of
//! all of them costs more than the rest of reading it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Their names, wherever they stand; in the order in which they are sought.
const MEMBERS: [&str; 32] = [
    "account",
    "amount",
    "amount_received",
    "amount_refunded",
    "amount_total",
    "charge",
    "client_reference_id",
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

/// The tree of a body, without the members that nobody reads; NULL for what is no JSON. Of members that come twice the
/// last counts.
pub(super) fn tree(body: &[u8]) -> Value {
    let mut json = serde_json::Deserializer::from_slice(body);
    let tree = Picked.deserialize(&mut json);
    tree.and_then(|tree| json.end().map(|()| tree)).unwrap_or(Value::Null)
}

struct Picked;

/// A number that nobody takes for an amount: it stays in the tree as what it is, which is neither nothing nor a whole number.
type Fraction = f64;

impl<'de> DeserializeSeed<'de> for Picked {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Picked {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: Fraction) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut list = vec![];
        while let Some(one) = all.next_element_seed(Picked)? {
            list.push(one);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = all.next_key_seed(Name)? {
            match name {
                Some(name) => drop(members.insert(name.to_owned(), all.next_value_seed(Picked)?)),
                None => drop(all.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(members))
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
            "refunds":{"data":[{"id":"re_1","b":null}]},"id":null}},"id":"evt_2"} "#;
        let expect = serde_json::json!({"id": "evt_2", "livemode": false,
            "data": {"object": {"amount": 1050, "refunds": {"data": [{"id": "re_1"}]}, "id": null}}});
        assert_eq!(tree(body), expect);
        for broken in ["", "{", "{}x", "{\"a\":}", "{\"a\":1,}", "{1:2}", "\u{0}"] {
            assert_eq!(tree(broken.as_bytes()), Value::Null, "{broken}");
        }
    }
}
