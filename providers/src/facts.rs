//! What a gateway or an invoicing API is, as data: name, countries, currencies, settings with secrets marked.
//!
//! Facts are data so that nothing in the hub, its configuration or its HTTP interface has to name a gateway.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// How the value of a setting is written and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type", content = "values")]
pub enum SettingKind {
    /// Text of at most 500 characters without control characters.
    Text,
    /// Like `Text`, never shown again, never logged; stored encrypted.
    Secret,
    /// An absolute `https` address (`http` where the hub allows insecure targets).
    Url,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number, not negative.
    Number,
}

/// One setting of an account.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Setting {
    /// Name in the `settings` object: `shared_key`.
    pub name: &'static str,
    /// How it is written.
    pub kind: SettingKind,
    /// Used when the setting is left out; `None` means it is required unless `optional`.
    pub default: Option<&'static str>,
    /// May be left out although it has no default.
    pub optional: bool,
    /// One sentence for the person who fills it in, with where to find the value.
    pub help: &'static str,
}

impl Setting {
    /// A required setting.
    pub const fn required(name: &'static str, kind: SettingKind, help: &'static str) -> Self {
        Setting { name, kind, default: None, optional: false, help }
    }

    /// A setting that may be left out and then has no value.
    pub const fn optional(name: &'static str, kind: SettingKind, help: &'static str) -> Self {
        Setting { name, kind, default: None, optional: true, help }
    }

    /// A setting with a value of its own when left out.
    pub const fn default(name: &'static str, kind: SettingKind, default: &'static str, help: &'static str) -> Self {
        Setting { name, kind, default: Some(default), optional: true, help }
    }
}

/// The checked settings of one account. `Debug` shows names only: values may be secrets.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Checks a JSON object against the facts, fills in defaults, refuses what is unknown.
    ///
    /// # Errors
    /// The first setting that is unknown, missing, or not of its kind, by name.
    pub fn check(facts: &[Setting], given: &serde_json::Map<String, Value>) -> Result<Settings, SettingsError> {
        for name in given.keys() {
            if !facts.iter().any(|s| s.name == name) {
                let known = facts.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
                return Err(SettingsError::new(name, format!("is not a setting here; known are: {known}")));
            }
        }
        let mut checked = BTreeMap::new();
        for setting in facts {
            let text = match given.get(setting.name) {
                None | Some(Value::Null) => match (setting.default, setting.optional) {
                    (Some(default), _) => default.to_owned(),
                    (None, true) => continue,
                    (None, false) => return Err(SettingsError::new(setting.name, "is required".into())),
                },
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(flag)) => flag.to_string(),
                Some(Value::Number(number)) => number.to_string(),
                Some(_) => return Err(SettingsError::new(setting.name, "must be text, a number or a flag".into())),
            };
            check_value(setting, &text)?;
            checked.insert(setting.name.to_owned(), text);
        }
        Ok(Settings(checked))
    }

    /// The value of a setting, or empty text when it was left out.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The value of a setting that may be left out.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// True only for a flag that is set.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// All values, secrets included: for sealing at rest only.
    pub fn expose(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Settings out of the sealed store; they were checked when they came in.
    pub fn from_sealed(values: BTreeMap<String, String>) -> Self {
        Settings(values)
    }

    /// What may be shown: secrets are replaced by `"***"`.
    pub fn shown(&self, facts: &[Setting]) -> BTreeMap<String, String> {
        let secret = |name: &str| facts.iter().any(|s| s.name == name && s.kind == SettingKind::Secret);
        self.0.iter().map(|(k, v)| (k.clone(), if secret(k) { "***".into() } else { v.clone() })).collect()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn check_value(setting: &Setting, text: &str) -> Result<(), SettingsError> {
    let bad = |why: &str| Err(SettingsError::new(setting.name, why.to_owned()));
    if text.chars().count() > 500 {
        return bad("must have at most 500 characters");
    }
    if text.chars().any(char::is_control) {
        return bad("must not hold control characters");
    }
    match setting.kind {
        SettingKind::Text | SettingKind::Secret if text.is_empty() && !setting.optional => bad("must not be empty"),
        SettingKind::Text | SettingKind::Secret => Ok(()),
        SettingKind::Url => match url::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "https" | "http") && url.host().is_some() => Ok(()),
            _ => bad("must be an absolute https address"),
        },
        SettingKind::Choice(words) if words.contains(&text) => Ok(()),
        SettingKind::Choice(words) => bad(&format!("must be one of: {}", words.join(", "))),
        SettingKind::Flag if text == "true" || text == "false" => Ok(()),
        SettingKind::Flag => bad("must be true or false"),
        SettingKind::Number if !text.is_empty() && text.len() <= 12 && text.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(())
        }
        SettingKind::Number => bad("must be a whole number of at most 12 digits"),
    }
}

/// A setting that was refused, with the reason as the end of a sentence that begins with its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {why}")]
pub struct SettingsError {
    /// Which setting.
    pub name: String,
    /// What is wrong: `must be true or false`.
    pub why: String,
}

impl SettingsError {
    /// A refusal of `name`.
    pub fn new(name: &str, why: String) -> Self {
        SettingsError { name: name.chars().take(64).collect(), why }
    }
}

/// What a gateway can do beyond starting a checkout.
#[derive(Debug, Clone, Copy, Serialize, Default)]
pub struct Capabilities {
    /// Reports by webhook.
    pub push: bool,
    /// Answers a status query.
    pub poll: bool,
    /// Refunds in whole and in part.
    pub refund: bool,
    /// Can close an open checkout.
    pub cancel: bool,
    /// Can charge a saved instrument without the payer.
    pub saved_instrument: bool,
    /// News of a refund that we ordered carry our id; news without it are of one made at the gateway itself.
    pub names_refunds: bool,
    /// A refund that failed may be told of as done later.
    pub refunds_recover: bool,
    /// A checkout that was paid can be paid once more while its time lasts.
    pub pays_again: bool,
}

impl Capabilities {
    /// Nothing at all, to build on.
    pub const NONE: Capabilities = Capabilities {
        push: false,
        poll: false,
        refund: false,
        cancel: false,
        saved_instrument: false,
        names_refunds: false,
        refunds_recover: false,
        pays_again: false,
    };
}

/// Facts of a gateway.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ProviderFacts {
    /// Name in addresses and in the API: `autopay`.
    pub name: &'static str,
    /// Name for people: `Autopay`.
    pub title: &'static str,
    /// ISO 3166-1 alpha-2 codes of the markets it serves; empty means everywhere.
    pub countries: &'static [&'static str],
    /// ISO 4217 codes it takes.
    pub currencies: &'static [&'static str],
    /// Smallest and largest amount in minor units, where one limit holds for all currencies.
    pub limits: (i64, i64),
    /// True where an account takes one currency only, named by the hub's account.
    pub one_currency: bool,
    /// The setting whose value the gateway repeats in its messages to name the merchant's account.
    pub account_setting: Option<&'static str>,
    /// Settings of an account.
    pub settings: &'static [Setting],
    /// What it can do.
    pub can: Capabilities,
    /// How its payments are named on an invoice.
    pub method: crate::invoicer::PaymentMethod,
    /// How long a checkout can be paid, in seconds, when the merchant asks for nothing else.
    pub lifetime_s: i64,
}

/// Facts of an invoicing API.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct InvoicerFacts {
    /// Name in the API: `wfirma`.
    pub name: &'static str,
    /// Name for people: `wFirma`.
    pub title: &'static str,
    /// Countries of the sellers it serves.
    pub countries: &'static [&'static str],
    /// Settings of an account.
    pub settings: &'static [Setting],
    /// IANA name of the zone in which the seller's days begin, such as `Europe/Warsaw`.
    pub zone: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FACTS: &[Setting] = &[
        Setting::required("service_id", SettingKind::Text, ""),
        Setting::required("shared_key", SettingKind::Secret, ""),
        Setting::default("hash", SettingKind::Choice(&["sha256", "sha512"]), "sha256", ""),
        Setting::optional("note", SettingKind::Text, ""),
    ];

    #[track_caller]
    fn check(given: Value, expect: Result<&str, &str>) {
        let got = Settings::check(FACTS, given.as_object().unwrap());
        match expect {
            Ok(hash) => assert_eq!(got.unwrap().text("hash"), hash),
            Err(text) => assert_eq!(got.unwrap_err().to_string(), text),
        }
    }

    #[test]
    fn each_refusal_names_the_setting() {
        check(json!({"service_id": 7, "shared_key": "k"}), Ok("sha256"));
        check(json!({"service_id": "7", "shared_key": "k", "hash": "sha512"}), Ok("sha512"));
        check(json!({"service_id": "7"}), Err("shared_key is required"));
        check(json!({"service_id": "7", "shared_key": "k", "hash": "md5"}), Err("hash must be one of: sha256, sha512"));
        check(json!({"service_id": "7", "shared_key": ""}), Err("shared_key must not be empty"));
        check(json!({"service_id": ["7"], "shared_key": "k"}), Err("service_id must be text, a number or a flag"));
        check(
            json!({"service_id": "7", "shared_key": "k", "nip": "1"}),
            Err("nip is not a setting here; known are: service_id, shared_key, hash, note"),
        );
    }

    // F72
    #[test]
    fn neither_debug_nor_what_is_shown_holds_a_secret() {
        let given = json!({"service_id": "7", "shared_key": "canary"});
        let settings = Settings::check(FACTS, given.as_object().unwrap()).unwrap();
        assert!(!format!("{settings:?}").contains("canary"));
        assert_eq!(settings.shown(FACTS)["shared_key"], "***");
    }
}
