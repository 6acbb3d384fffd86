//! Opens alerts and writes the notices that go with them. A person hears of each matter once.

mod words;

use grosz_providers::Timestamp;

pub use self::words::NotIssued;
use self::words::Words;
use super::FlowError;
use crate::app::App;
use crate::store::{Alert, Endpoint, Expert, JobKind, Notice, Payment, Tx};

/// A matter to be raised.
#[derive(Debug, Clone)]
pub struct Raise {
    /// Stable code.
    pub code: &'static str,
    /// One open alert per key.
    pub key: String,
    /// Owner.
    pub merchant_id: String,
    /// About which payment.
    pub payment: Option<Payment>,
    /// Why, in plain words.
    pub reason: String,
    /// The same for the detail in a letter to somebody who reads Polish; the plain words where nobody has said it in Polish.
    pub reason_in_polish: Option<String>,
    /// Fields to correct: path and words.
    pub fields: Vec<(String, String)>,
    /// Of `invoice.exhausted`: the cause, which decides what to do.
    pub not_issued: Option<NotIssued>,
    /// An address that takes no letters: whoever has it would not hear.
    pub deaf: Option<String>,
}

impl Raise {
    /// A matter about a payment.
    pub fn about_payment(code: &'static str, key: String, payment: &Payment, reason: String) -> Self {
        Raise { payment: Some(payment.clone()), ..Raise::about_account(code, key, &payment.merchant_id, reason) }
    }

    /// A matter about an account or the hub itself.
    pub fn about_account(code: &'static str, key: String, merchant: &str, reason: String) -> Self {
        let merchant_id = merchant.to_owned();
        Raise {
            code,
            key,
            merchant_id,
            payment: None,
            reason,
            reason_in_polish: None,
            fields: vec![],
            not_issued: None,
            deaf: None,
        }
    }

    /// A client app's endpoint that was disabled.
    pub fn about_endpoint(endpoint: &Endpoint, why: &str) -> Self {
        let reason = format!("the webhook endpoint {} was disabled: it {why}", endpoint.id);
        let key = format!("endpoint.disabled:{}", endpoint.id);
        Raise::about_account("endpoint.disabled", key, &endpoint.merchant_id, reason)
    }

    /// Messages that a client app's endpoint did not take with their last try.
    pub fn about_messages(endpoint: &Endpoint, answer: &str) -> Self {
        let id = &endpoint.id;
        let reason =
            format!("a message to the webhook endpoint {id} is not tried again; the last try came to: {answer}");
        Raise::about_account("message.exhausted", format!("message.exhausted:{id}"), &endpoint.merchant_id, reason)
    }

    /// With its reason in Polish.
    #[must_use]
    pub fn in_polish(mut self, reason: String) -> Self {
        self.reason_in_polish = Some(reason);
        self
    }

    /// With the fields to correct.
    #[must_use]
    pub fn with_fields(mut self, fields: &[(String, String)]) -> Self {
        self.fields = fields.to_vec();
        self
    }

    /// Of an invoice that was not issued, for this cause.
    #[must_use]
    pub fn because(mut self, cause: NotIssued) -> Self {
        self.not_issued = Some(cause);
        self
    }

    /// Not told to this address, which takes no letters.
    #[must_use]
    pub fn not_to(mut self, address: &str) -> Self {
        self.deaf = Some(address.to_owned());
        self
    }
}

/// A letter of its own for a matter.
pub struct OwnLetter {
    /// Its first line in a language, for a case's number; stays unchanged.
    pub first_line: fn(&str, &str) -> String,
    /// One letter per key, for ever: lets a new generation of the same matter be told again.
    pub key: String,
}

/// Alerts whose reason says nothing that their words do not say.
const SAID: [&str; 4] = ["payment.late_success", "payment.failure_after_success", "payment.stuck", "invoice.ksef"];

/// Opens an alert and writes one notice to whoever should look. Nothing when the same matter is open.
///
/// # Errors
/// The database.
pub async fn raise(app: &App, tx: &mut Tx, matter: Raise) -> Result<(), FlowError> {
    raise_with(app, tx, matter, None).await
}

/// Like [`raise`], with a letter of its own.
///
/// # Errors
/// The database.
pub async fn raise_with(app: &App, tx: &mut Tx, matter: Raise, letter: Option<OwnLetter>) -> Result<(), FlowError> {
    let (addressee, case_number) =
        addressee(app, tx, &matter.merchant_id, matter.payment.as_ref(), matter.deaf.as_deref()).await?;
    let alert = Alert {
        merchant_id: matter.merchant_id.clone(),
        id: app.ids.make("alr"),
        code: matter.code.to_owned(),
        dedupe_key: matter.key.clone(),
        payment_id: matter.payment.as_ref().map(|p| p.id.clone()),
        case_id: matter.payment.as_ref().and_then(|p| p.case_id.clone()),
        expert_id: addressee.expert.clone(),
        reason: matter.reason.clone(),
        fields: matter.fields.clone(),
        next_step: Words::of("en").cause(matter.code, matter.not_issued).next.to_owned(),
        opened_at: app.now(),
        resolved_at: None,
    };
    if !tx.open_alert(&alert).await? {
        return Ok(());
    }
    tracing::error!(alert.id = %alert.id, code = matter.code, payment.id = alert.payment_id, "Opened alert {}", alert.code);
    let Some(recipient) = addressee.email else { return Ok(()) };
    let language = &addressee.language;
    let (first_line, key) = match letter {
        Some(own) => ((own.first_line)(language, &case_number), own.key),
        None => (subject_of(language, matter.code, &case_number), format!("alert:{}", alert.id)),
    };
    let in_polish = matter.reason_in_polish.filter(|_| language == "pl");
    let detail = in_polish.unwrap_or_else(|| alert.reason.clone());
    let notice = Notice {
        merchant_id: matter.merchant_id,
        id: app.ids.make("ntc"),
        kind: matter.code.to_owned(),
        dedupe_key: key,
        alert_id: Some(alert.id.clone()),
        payment_id: alert.payment_id.clone(),
        recipient,
        language: language.clone(),
        subject: first_line.lines().next().unwrap_or_default().to_owned(),
        body: body(app, language, &first_line, matter.not_issued, &detail, &alert),
        message_id: message_id(app),
        state: "queued".into(),
        detail: None,
        created_at: app.now(),
        sent_at: None,
    };
    queue_notice(app, tx, &notice).await
}

/// Writes a notice and the job that sends it; nothing when its key was used before.
///
/// # Errors
/// The database.
pub async fn queue_notice(app: &App, tx: &mut Tx, notice: &Notice) -> Result<(), FlowError> {
    if tx.add_notice(notice).await? {
        let (job, now) = (app.ids.make("job"), app.now());
        tx.enqueue(&notice.merchant_id, &job, JobKind::SendNotice, &notice.id, now, now).await?;
    }
    Ok(())
}

/// A Message-ID that stays the same however often the notice is sent (F39).
pub fn message_id(app: &App) -> String {
    let host = url::Url::parse(&app.config.public_url).ok().and_then(|u| u.host_str().map(str::to_owned));
    format!("{}@{}", app.ids.make("ntc").replace('_', "."), host.unwrap_or_else(|| "localhost".into()))
}

/// The address of whoever hears of a matter now.
///
/// # Errors
/// The database.
pub(super) async fn reader_of(
    app: &App,
    tx: &mut Tx,
    merchant_id: &str,
    payment: Option<&Payment>,
) -> Result<Option<String>, FlowError> {
    Ok(addressee(app, tx, merchant_id, payment, None).await?.0.email)
}

/// Who hears of a matter.
struct Addressee {
    expert: Option<String>,
    email: Option<String>,
    language: String,
}

/// The case's expert as it is now (R-5W-46), else the merchant's fallback address, else the hub's; beside it, how the matter
/// is called: the case's number, else the payment's id.
async fn addressee(
    app: &App,
    tx: &mut Tx,
    merchant_id: &str,
    payment: Option<&Payment>,
    deaf: Option<&str>,
) -> Result<(Addressee, String), FlowError> {
    let hears = |address: &String| !address.is_empty() && deaf != Some(address);
    let merchant = tx.merchant(merchant_id).await?;
    let case = match payment.and_then(|p| p.case_id.as_deref()) {
        Some(case) => tx.case(merchant_id, case).await?,
        None => None,
    };
    let number = case.as_ref().map(|c| c.number.clone()).or(payment.map(|p| p.id.clone())).unwrap_or_default();
    let expert: Option<Expert> = match case.and_then(|c| c.expert_id) {
        Some(id) => tx.expert(merchant_id, &id).await?,
        None => None,
    };
    let fallback = merchant.as_ref().and_then(|m| m.fallback_email.clone()).filter(hears);
    let hubs = Some(app.config.fallback_email.clone()).filter(hears);
    let language = merchant.map_or("en".into(), |m| m.language);
    Ok(match expert.filter(|e| hears(&e.email)) {
        Some(e) => (Addressee { expert: Some(e.id), email: Some(e.email), language: e.language }, number),
        None => (Addressee { expert: None, email: fallback.or(hubs), language }, number),
    })
}

/// The literal sentence of R-5W-44, which stands first and unchanged for every reader (R-5W-52), and in a second line what
/// it says in the reader's language.
pub fn invoice_failed_line(language: &str, case_number: &str) -> String {
    let literal = format!("Wystąpił błąd podczas wystawiania faktury dla klienta do sprawy nr {case_number}");
    let meaning = match language {
        "pl" => return literal,
        "uk" => format!("Сталася помилка під час виставлення рахунку клієнту у справі № {case_number}"),
        "cs" => format!("Při vystavování faktury pro klienta k případu č. {case_number} došlo k chybě"),
        "ru" => format!("Произошла ошибка при выставлении счёта клиенту по делу № {case_number}"),
        "is" => format!("Villa kom upp við útgáfu reiknings fyrir viðskiptavin í máli nr. {case_number}"),
        _ => format!("An error occurred while issuing the invoice for the client in case no. {case_number}"),
    };
    format!("{literal}\n{meaning}")
}

fn subject_of(language: &str, code: &str, case_number: &str) -> String {
    let words = Words::of(language);
    let subject = format!("{}: {}", words.attention, words.title(code));
    if case_number.is_empty() { subject } else { format!("{subject}, {case_number}") }
}

/// What is the matter and what to do in the reader's language, below it the detail as the API shows it.
fn body(
    app: &App,
    language: &str,
    first_line: &str,
    not_issued: Option<NotIssued>,
    detail: &str,
    alert: &Alert,
) -> String {
    let words = Words::of(language);
    let cause = words.cause(&alert.code, not_issued);
    let mut text = format!("{first_line}\n\n{}\n", cause.meaning);
    if !alert.fields.is_empty() {
        text.push_str(&format!("\n{}:\n", words.to_correct));
        for (field, why) in &alert.fields {
            text.push_str(&format!("- {field}: {why}\n"));
        }
    }
    text.push_str(&format!("\n{}: {}\n", words.next, cause.next));
    if !SAID.contains(&alert.code.as_str()) {
        text.push_str(&format!("\n{}: {}\n", words.details, detail));
    }
    let link = match &alert.payment_id {
        Some(payment) => format!("{}/console/payments/{payment}", app.config.public_url),
        None => format!("{}/console/alerts", app.config.public_url),
    };
    text.push_str(&format!("\n{}: {link}\n", words.see));
    text
}

/// The time of an alert for a letter's Date header.
pub fn date_of(notice: &Notice) -> Timestamp {
    crate::clock::at(notice.created_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-5W-44, R-5W-52
    #[test]
    fn the_sentence_stands_first_in_every_language() {
        for language in ["pl", "en", "uk", "cs", "ru", "is", "xx"] {
            let line = invoice_failed_line(language, "7/2026");
            let (first, meaning) = line.split_once('\n').map_or((line.as_str(), None), |(a, b)| (a, Some(b)));
            assert_eq!(first, "Wystąpił błąd podczas wystawiania faktury dla klienta do sprawy nr 7/2026");
            assert_eq!(meaning.is_some_and(|m| m.contains("7/2026")), language != "pl");
        }
    }
}
