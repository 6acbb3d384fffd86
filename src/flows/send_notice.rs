//! Sends one notice by mail. The Message-ID stays, so a mail server that took the mail and died gets at most one more
//! copy that its reader recognises (F38–F40). The whole talk with the server has a limit below the lease: a letter that is
//! handed over after it would be sent again by the next owner of the job.

use std::time::Duration;

use super::FlowError;
use super::notify::{Raise, date_of, queue_notice, raise};
use crate::app::App;
use crate::clock::seconds;
use crate::config::wait_s;
use crate::jobs::{self, End};
use crate::mail::{Attachment, Letter, MailError, Mailbox};
use crate::store::{Job, Notice, Tx};

/// The job.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.read().await?;
    let Some(notice) = tx.notice(&job.merchant_id, &job.subject).await? else { return jobs::finish(app, job).await };
    if notice.state != "queued" {
        return jobs::finish(app, job).await;
    }
    let attachments = attachments(&mut tx, &notice).await?;
    drop(tx);
    let letter = Letter {
        message_id: notice.message_id.clone(),
        from: Mailbox::read(&app.config.mail_from),
        to: Mailbox::read(&notice.recipient),
        date: date_of(&notice),
        subject: notice.subject.clone(),
        text: notice.body.clone(),
        html: None,
        language: notice.language.clone(),
        attachments,
    };
    let limit = Duration::from_secs(app.config.mail_s);
    let sent = app.mailer.clone().with_limit(limit).send(&letter).await;
    let outcome = match &sent {
        Ok(()) => "2xx",
        Err(MailError::Refused(_)) => "5xx",
        Err(MailError::Temporary(_) | MailError::Off) => "not_sent",
        Err(MailError::Unknown(_)) => "no_answer",
    };
    app.metrics.count(&app.metrics.calls, "mail", outcome);
    let now = app.now();
    let mut tx = app.store.begin().await?;
    match sent {
        Ok(()) => {
            tx.settle_notice(&notice.merchant_id, &notice.id, "sent", None, Some(now)).await?;
            jobs::settle(app, tx, job, End::Done).await
        }
        Err(MailError::Refused(why)) => {
            tx.settle_notice(&notice.merchant_id, &notice.id, "refused", Some(&why), None).await?;
            escalate(app, &mut tx, &notice, &why).await?;
            jobs::settle(app, tx, job, End::Done).await
        }
        Err(e) => {
            let at = now + seconds(wait_s(&app.config.notice_waits_s, job.attempts - 1));
            jobs::settle(app, tx, job, End::Again { at, error: Some(e.to_string()) }).await
        }
    }
}

/// The key of the one open alert about a letter that nobody takes.
pub(super) fn undeliverable_key(notice: &str) -> String {
    format!("notice.undeliverable:{notice}")
}

/// A refused address: a letter about an alert goes once to the fallback address. Where that is refused too, and for every
/// other letter, an alert says which letter did not arrive, and where. It goes to whoever has the case, unless the refused
/// address is his own.
async fn escalate(app: &App, tx: &mut Tx, notice: &Notice, why: &str) -> Result<(), FlowError> {
    let merchant = tx.merchant(&notice.merchant_id).await?;
    let fallback = merchant
        .and_then(|m| m.fallback_email)
        .or(Some(app.config.fallback_email.clone()))
        .filter(|e| !e.is_empty() && *e != notice.recipient);
    match fallback {
        Some(recipient) if !notice.dedupe_key.starts_with("escalated:") && notice.alert_id.is_some() => {
            let copy = Notice {
                id: app.ids.make("ntc"),
                dedupe_key: format!("escalated:{}", notice.dedupe_key),
                recipient,
                created_at: app.now(),
                ..notice.clone()
            };
            queue_notice(app, tx, &copy).await
        }
        // A letter about a letter that did not arrive: the list of alerts has both.
        _ if notice.kind == "notice.undeliverable" => Ok(()),
        _ => {
            let Notice { id, merchant_id, recipient, subject, .. } = notice;
            let why = format!("the letter \"{subject}\" to {recipient} was not delivered (notice {id}): {why}");
            let (code, key) = ("notice.undeliverable", undeliverable_key(id));
            let payment = match &notice.payment_id {
                Some(payment) => tx.payment(merchant_id, payment).await?,
                None => None,
            };
            let matter = match payment {
                Some(payment) => Raise::about_payment(code, key, &payment, why),
                None => Raise::about_account(code, key, merchant_id, why),
            };
            raise(app, tx, matter.not_to(recipient)).await
        }
    }
}

async fn attachments(tx: &mut Tx, notice: &Notice) -> Result<Vec<Attachment>, FlowError> {
    let (Some(payment), "invoice_ready") = (&notice.payment_id, notice.kind.as_str()) else { return Ok(vec![]) };
    let Some(invoice) = tx.invoice_of_payment(&notice.merchant_id, payment).await? else { return Ok(vec![]) };
    let Some(pdf) = tx.pdf(&notice.merchant_id, &invoice.id).await? else { return Ok(vec![]) };
    let number = invoice.number.unwrap_or_else(|| "invoice".into());
    let safe: String = number.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    Ok(vec![Attachment { file_name: format!("{safe}.pdf"), content_type: "application/pdf".into(), bytes: pdf }])
}
