//! Opens alerts and writes the notices that go with them. A person hears of each matter once.

use grosz_providers::Timestamp;

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
    /// The same for a letter to somebody who reads Polish; the plain words where nobody has said it in Polish.
    pub reason_in_polish: Option<String>,
    /// Fields to correct: path and words.
    pub fields: Vec<(String, String)>,
}

impl Raise {
    /// A matter about a payment.
    pub fn about_payment(code: &'static str, key: String, payment: &Payment, reason: String) -> Self {
        let merchant_id = payment.merchant_id.clone();
        Raise { code, key, merchant_id, payment: Some(payment.clone()), reason, reason_in_polish: None, fields: vec![] }
    }

    /// A matter about an account or the hub itself.
    pub fn about_account(code: &'static str, key: String, merchant: &str, reason: String) -> Self {
        Raise {
            code,
            key,
            merchant_id: merchant.to_owned(),
            payment: None,
            reason,
            reason_in_polish: None,
            fields: vec![],
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
}

/// Says something in a language.
pub type InLanguage = Box<dyn Fn(&str) -> String + Send + Sync>;

/// A letter of its own for a matter.
pub struct OwnLetter {
    /// Its first line in a language, for a case's number; stays unchanged.
    pub first_line: fn(&str, &str) -> String,
    /// Why, in the reader's language.
    pub reason: InLanguage,
    /// One letter per key, for ever: lets a new generation of the same matter be told again.
    pub key: String,
}

/// What to do about an alert, by its code. `docs/operate.md` lists the codes.
pub fn next_step(code: &str) -> &'static str {
    match code {
        "invoice.exhausted" => "correct the named fields, then reissue the invoice",
        "invoice.unknown" => "look into the invoicing system for the invoice; attach it or reissue",
        "invoice.duplicate" => "cancel the superfluous document in the invoicing system",
        "invoice.conflict" | "invoice.issued_differs" => "compare the document with the payment, correct it there",
        "invoice.account" => "correct the invoicing account's credentials; waiting invoices go on by themselves",
        "invoice.unreachable" => "see whether the invoicing system is up; waiting invoices go on by themselves",
        "invoice.ksef" => "see the invoicing system for what the national system says about this invoice",
        "invoice.pdf_missing" => "fetch the document from the invoicing system and attach it",
        "invoice.to_correct" => "issue a correcting invoice in the invoicing system, then resolve the alert",
        "payment.amount_mismatch" => {
            "give the money back at the gateway, or agree with the payer; then resolve this alert: the payment can be tried again"
        }
        "payment.account_mismatch" => {
            "look at the delivery; ask the gateway what was really paid, and refund it or start a new payment"
        }
        "payment.double" => "confirm the prepared refund, or agree with the payer to keep the money",
        "payment.late_success" => "nothing is lost; tell the payer that the payment arrived after all",
        "payment.disputed" => "answer the dispute at the gateway before its date",
        "payment.dispute_lost" => {
            "do not refund this money once more; decide whether the invoice is to be corrected, then resolve the alert"
        }
        "payment.stuck" => "ask the gateway about this payment",
        "payment.failure_after_success" | "payment.unknown_status" => "look at the delivery and ask the gateway",
        "refund.failed" => "the money is still here; order the refund anew or pay it by transfer",
        "refund.conflict" => {
            "look at the gateway first: what was given back there, or taken by a dispute, must not be paid once more"
        }
        "refund.amount_mismatch" => "look at the delivery; ask the gateway what was really given back",
        "refund.unknown" => "ask the gateway whether this refund was made before ordering it again",
        "event.unknown_attempt" => "look at the delivery: was it started elsewhere with the same account?",
        "event.unreadable" => "look at the delivery; ask the gateway what it says, and look after the payment by hand",
        "provider.config" => "correct the provider account's settings",
        "provider.refused" => {
            "see what the gateway objects to: mend the account there or here, or start the payment anew; no payer of this \
             account may be able to pay meanwhile"
        }
        "endpoint.disabled" => "correct the endpoint and enable it; missed messages can be replayed",
        "message.exhausted" => {
            "see why the endpoint refuses messages, replay what it missed with POST /v1/webhook-endpoints/{id}/replay, \
             then resolve the alert"
        }
        "job.poison" => "see the log for what the worker died of; then POST /v1/jobs/{id}/retry has the work go on",
        "notice.undeliverable" => "correct the address; the matter itself is in the list of alerts",
        _ => "look at the details",
    }
}

/// The next step in the reader's language; English where nobody has put it into that language yet.
fn next_step_in(language: &str, code: &str) -> &'static str {
    if language != "pl" {
        return next_step(code);
    }
    match code {
        "invoice.exhausted" => "popraw wskazane pola, a potem wystaw fakturę ponownie",
        "invoice.unknown" => "sprawdź w systemie do faktur, czy faktura powstała; dołącz ją albo wystaw ponownie",
        "invoice.duplicate" => "anuluj zbędny dokument w systemie do faktur",
        "invoice.conflict" | "invoice.issued_differs" => {
            "porównaj dokument z płatnością i popraw go w systemie do faktur"
        }
        "invoice.account" => "popraw dane dostępu do systemu do faktur; czekające faktury ruszą same",
        "invoice.unreachable" => "sprawdź system do faktur; czekające faktury ruszą same",
        "invoice.ksef" => "sprawdź w systemie do faktur, co odpowiedział KSeF",
        "invoice.pdf_missing" => "pobierz dokument z systemu do faktur i dołącz go do sprawy",
        "invoice.to_correct" => "wystaw fakturę korygującą w systemie do faktur, a potem zamknij to zgłoszenie",
        "payment.amount_mismatch" => {
            "zwróć wpłatę u operatora płatności albo umów się z klientem; potem zamknij to zgłoszenie: można będzie zapłacić ponownie"
        }
        "payment.account_mismatch" => {
            "obejrzyj zgłoszenie; zapytaj operatora płatności, ile naprawdę wpłacono, i zwróć wpłatę albo zacznij nową"
        }
        "payment.double" => "potwierdź przygotowany zwrot albo umów się z klientem inaczej",
        "payment.late_success" => "nic nie zginęło; powiedz klientowi, że płatność jednak doszła",
        "payment.disputed" => "odpowiedz na reklamację u operatora płatności przed jej terminem",
        "payment.dispute_lost" => {
            "nie zwracaj tych pieniędzy drugi raz; zdecyduj, czy skorygować fakturę, a potem zamknij to zgłoszenie"
        }
        "payment.stuck" | "payment.failure_after_success" | "payment.unknown_status" => {
            "zapytaj operatora płatności o tę płatność"
        }
        "refund.failed" => "pieniądze są nadal tutaj; zleć zwrot ponownie albo oddaj je przelewem",
        "refund.conflict" => {
            "najpierw sprawdź u operatora płatności, co już zwrócono lub zabrała reklamacja; nie oddawaj tego drugi raz"
        }
        "refund.amount_mismatch" => "obejrzyj zgłoszenie; zapytaj operatora płatności, ile naprawdę zwrócono",
        "refund.unknown" => "przed ponownym zleceniem sprawdź u operatora płatności, czy zwrot został zrobiony",
        "provider.refused" => {
            "sprawdź, czego operator płatności nie przyjmuje: popraw konto u niego lub tutaj albo zacznij płatność od nowa; \
             do tego czasu być może nikt nie może zapłacić przez to konto"
        }
        "event.unreadable" => {
            "obejrzyj zgłoszenie; zapytaj operatora płatności, co ono znaczy, i sprawdź płatność ręcznie"
        }
        other => next_step(other),
    }
}

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
    let (addressee, case_number) = addressee(app, tx, &matter.merchant_id, matter.payment.as_ref()).await?;
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
        next_step: next_step(matter.code).to_owned(),
        opened_at: app.now(),
        resolved_at: None,
    };
    if !tx.open_alert(&alert).await? {
        return Ok(());
    }
    tracing::error!(alert.id = %alert.id, code = matter.code, payment.id = alert.payment_id, "Opened alert {}", alert.code);
    let Some(recipient) = addressee.email else { return Ok(()) };
    let language = &addressee.language;
    let (first_line, reason, key) = match letter {
        Some(own) => ((own.first_line)(language, &case_number), (own.reason)(language), own.key),
        None => {
            let line = subject_of(language, matter.code, &case_number);
            let in_polish = matter.reason_in_polish.filter(|_| language == "pl");
            (line, in_polish.unwrap_or_else(|| alert.reason.clone()), format!("alert:{}", alert.id))
        }
    };
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
        body: body(app, language, &first_line, &reason, &alert),
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

/// Who hears of a matter.
struct Addressee {
    expert: Option<String>,
    email: Option<String>,
    language: String,
}

/// The case's expert as it is now (R-5W-46), else the merchant's fallback address, else the hub's.
async fn addressee(
    app: &App,
    tx: &mut Tx,
    merchant_id: &str,
    payment: Option<&Payment>,
) -> Result<(Addressee, String), FlowError> {
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
    let fallback = merchant.as_ref().and_then(|m| m.fallback_email.clone());
    let hubs = Some(app.config.fallback_email.clone()).filter(|e| !e.is_empty());
    let language = merchant.map_or("en".into(), |m| m.language);
    Ok(match expert {
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

/// Words of a letter in one language: reason, fields, next step, link, "alert about case", in this order.
fn words(language: &str) -> [&'static str; 5] {
    match language {
        "pl" => ["Powód", "Do poprawienia", "Co dalej", "Szczegóły", "Wymaga uwagi"],
        "uk" => ["Причина", "Що виправити", "Що далі", "Подробиці", "Потребує уваги"],
        "cs" => ["Důvod", "Co opravit", "Co dál", "Podrobnosti", "Vyžaduje pozornost"],
        "ru" => ["Причина", "Что исправить", "Что дальше", "Подробности", "Требует внимания"],
        "is" => ["Ástæða", "Þarf að leiðrétta", "Næsta skref", "Nánar", "Þarfnast athygli"],
        _ => ["Reason", "To be corrected", "What next", "Details", "Needs attention"],
    }
}

fn subject_of(language: &str, code: &str, case_number: &str) -> String {
    let [_, _, _, _, attention] = words(language);
    if case_number.is_empty() { format!("{attention}: {code}") } else { format!("{attention}: {code}, {case_number}") }
}

fn body(app: &App, language: &str, first_line: &str, why: &str, alert: &Alert) -> String {
    let [reason, to_correct, next, details, _] = words(language);
    let mut text = format!("{first_line}\n\n{reason}: {why}\n");
    if !alert.fields.is_empty() {
        text.push_str(&format!("\n{to_correct}:\n"));
        for (field, why) in &alert.fields {
            text.push_str(&format!("- {field}: {why}\n"));
        }
    }
    text.push_str(&format!("\n{next}: {}\n", next_step_in(language, &alert.code)));
    let link = match &alert.payment_id {
        Some(payment) => format!("{}/console/payments/{payment}", app.config.public_url),
        None => format!("{}/console/alerts", app.config.public_url),
    };
    text.push_str(&format!("{details}: {link}\n"));
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
