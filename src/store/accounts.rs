//! Merchants, API keys, provider accounts, invoicing accounts.

use std::collections::BTreeMap;

use super::book::booked;
use super::dialect::{Arg, StoreError, Tx, args};
use super::rows::{Row, to_json};
use super::set::{Question, Set};

/// A tenant.
#[derive(Debug, Clone)]
pub struct Merchant {
    /// `mer_…`
    pub id: String,
    /// Name on pages and mails.
    pub name: String,
    /// Language of notices without a better one, ISO 639-1.
    pub language: String,
    /// Where notices go that have no expert.
    pub fallback_email: Option<String>,
    /// Exact origins that return addresses may have; empty: any.
    pub return_origins: Vec<String>,
    /// An expert's attachment is shown as a download in the payer's list.
    pub show_attachment: bool,
    /// Microseconds.
    pub created_at: i64,
}

/// An API key; the key itself is never stored.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Owner.
    pub merchant_id: String,
    /// `key_…`
    pub id: String,
    /// The owner's name for it.
    pub name: String,
    /// The first characters, for recognising it.
    pub hint: String,
    /// SHA-256 of the key, hex.
    pub hash: String,
    /// May touch live accounts.
    pub live: bool,
    /// What it may do: `read`, `write`.
    pub scopes: Vec<String>,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds; `None` while it is valid.
    pub revoked_at: Option<i64>,
}

/// A merchant's account at a gateway.
#[derive(Debug, Clone)]
pub struct ProviderAccount {
    /// Owner.
    pub merchant_id: String,
    /// `acc_…`; part of the webhook address.
    pub id: String,
    /// Which gateway.
    pub provider: String,
    /// The one currency, where an account takes only one.
    pub currency: Option<String>,
    /// Moves real money.
    pub live: bool,
    /// Off: no new checkouts; running ones finish (R-5W-03).
    pub enabled: bool,
    /// Settings, encrypted.
    pub sealed: String,
    /// Settings without secrets.
    pub shown: BTreeMap<String, String>,
    /// Microseconds.
    pub created_at: i64,
}

/// A merchant's account at an invoicing API.
#[derive(Debug, Clone)]
pub struct InvoicingAccount {
    /// Owner.
    pub merchant_id: String,
    /// `inv_…`
    pub id: String,
    /// Which API.
    pub invoicer: String,
    /// Issues real documents.
    pub live: bool,
    /// Off: no invoices are wanted.
    pub enabled: bool,
    /// Settings, encrypted.
    pub sealed: String,
    /// Settings without secrets.
    pub shown: BTreeMap<String, String>,
    /// No calls before this instant, microseconds.
    pub paused_until: Option<i64>,
    /// Why, in plain words.
    pub pause_reason: Option<String>,
    /// Failures in a row that concern the account.
    pub failures: i64,
    /// Microseconds.
    pub created_at: i64,
}

const MERCHANT: &str = "SELECT id, name, language, fallback_email, return_origins, show_attachment, created_at FROM merchants WHERE id = $1";

impl Tx {
    /// Adds a merchant.
    pub async fn add_merchant(&mut self, m: &Merchant) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO merchants (id, name, language, fallback_email, return_origins, show_attachment, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            args![
                &m.id,
                &m.name,
                &m.language,
                &m.fallback_email,
                &to_json(&m.return_origins)?,
                m.show_attachment,
                m.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// The merchant of that id.
    pub async fn merchant(&mut self, id: &str) -> Result<Option<Merchant>, StoreError> {
        booked!(self.merchants[id.to_owned()], {
            self.row(MERCHANT, args![id]).await?.map(|r| merchant(&r)).transpose()?
        })
    }

    /// The merchant of that id, locked until the end of the transaction.
    pub async fn merchant_for_update(&mut self, id: &str) -> Result<Option<Merchant>, StoreError> {
        let sql = self.pick(
            MERCHANT,
            "SELECT id, name, language, fallback_email, return_origins, show_attachment, created_at FROM merchants WHERE id = $1 FOR UPDATE",
        );
        self.row(sql, args![id]).await?.map(|r| merchant(&r)).transpose()
    }

    /// All merchants, oldest first.
    pub async fn merchants(&mut self) -> Result<Vec<Merchant>, StoreError> {
        let rows = self
            .rows(
                "SELECT id, name, language, fallback_email, return_origins, show_attachment, created_at
                 FROM merchants ORDER BY id LIMIT 10000",
                &[],
            )
            .await?;
        rows.iter().map(merchant).collect()
    }

    /// Writes a merchant's settings.
    pub async fn update_merchant(&mut self, m: &Merchant) -> Result<(), StoreError> {
        self.run(
            "UPDATE merchants SET name = $2, language = $3, fallback_email = $4, return_origins = $5, show_attachment = $6
             WHERE id = $1",
            args![&m.id, &m.name, &m.language, &m.fallback_email, &to_json(&m.return_origins)?, m.show_attachment],
        )
        .await?;
        Ok(())
    }

    /// Adds an API key.
    pub async fn add_api_key(&mut self, k: &ApiKey) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO api_keys (merchant_id, id, name, hint, hash, live, scopes, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            args![&k.merchant_id, &k.id, &k.name, &k.hint, &k.hash, k.live, &to_json(&k.scopes)?, k.created_at],
        )
        .await?;
        Ok(())
    }

    /// The valid key with that hash: begins a request, so the merchant is not known yet.
    pub async fn api_key_by_hash(&mut self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        let row = self
            .row(
                "SELECT merchant_id, id, name, hint, hash, live, scopes, created_at, revoked_at
                 FROM api_keys WHERE hash = $1 AND revoked_at IS NULL",
                args![hash],
            )
            .await?;
        row.map(|r| api_key(&r)).transpose()
    }

    /// All keys of a merchant, oldest first, ended ones too.
    pub async fn api_keys(&mut self, merchant: &str) -> Result<Vec<ApiKey>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, name, hint, hash, live, scopes, created_at, revoked_at
                 FROM api_keys WHERE merchant_id = $1 ORDER BY id LIMIT 1000",
                args![merchant],
            )
            .await?;
        rows.iter().map(api_key).collect()
    }

    /// Ends a key; `false` when there is no such key.
    pub async fn revoke_api_key(&mut self, merchant: &str, id: &str, now: i64) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "UPDATE api_keys SET revoked_at = $3 WHERE merchant_id = $1 AND id = $2 AND revoked_at IS NULL",
                args![merchant, id, now],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Adds a provider account.
    pub async fn add_provider_account(&mut self, a: &ProviderAccount) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO provider_accounts (merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            args![
                &a.merchant_id, &a.id, &a.provider, &a.currency, a.live, a.enabled, &a.sealed, &to_json(&a.shown)?, a.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Writes the settings, currency and switch of a provider account.
    pub async fn update_provider_account(&mut self, a: &ProviderAccount) -> Result<(), StoreError> {
        self.run(
            "UPDATE provider_accounts SET currency = $3, enabled = $4, sealed = $5, shown = $6
             WHERE merchant_id = $1 AND id = $2",
            args![&a.merchant_id, &a.id, &a.currency, a.enabled, &a.sealed, &to_json(&a.shown)?],
        )
        .await?;
        Ok(())
    }

    /// One provider account of a merchant.
    pub async fn provider_account(&mut self, merchant: &str, id: &str) -> Result<Option<ProviderAccount>, StoreError> {
        if self.book.is_some() {
            return Ok(self.provider_accounts(merchant).await?.into_iter().find(|a| a.id == id));
        }
        self.row(
            "SELECT merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at
             FROM provider_accounts WHERE merchant_id = $1 AND id = $2",
            args![merchant, id],
        )
        .await?
        .map(|r| provider_account(&r))
        .transpose()
    }

    /// One provider account of a merchant, locked until the end of the transaction: for whoever writes all that there is
    /// about it.
    pub async fn provider_account_for_update(
        &mut self,
        merchant: &str,
        id: &str,
    ) -> Result<Option<ProviderAccount>, StoreError> {
        let sql = self.pick(
            "SELECT merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at
             FROM provider_accounts WHERE merchant_id = $1 AND id = $2",
            "SELECT merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at
             FROM provider_accounts WHERE merchant_id = $1 AND id = $2 FOR UPDATE",
        );
        self.row(sql, args![merchant, id]).await?.map(|r| provider_account(&r)).transpose()
    }

    /// The account a webhook address names: begins a request, so the merchant is not known yet.
    pub async fn provider_account_by_id(&mut self, id: &str) -> Result<Option<ProviderAccount>, StoreError> {
        self.row(
            "SELECT merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at
             FROM provider_accounts WHERE id = $1",
            args![id],
        )
        .await?
        .map(|r| provider_account(&r))
        .transpose()
    }

    /// All provider accounts of a merchant, oldest first.
    pub async fn provider_accounts(&mut self, merchant: &str) -> Result<Vec<ProviderAccount>, StoreError> {
        let sql = "SELECT merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at
                   FROM provider_accounts WHERE merchant_id = $1 ORDER BY id LIMIT 1000";
        booked!(self.provider_accounts[merchant.to_owned()], {
            self.rows(sql, args![merchant]).await?.iter().map(provider_account).collect::<Result<Vec<_>, _>>()?
        })
    }

    /// All test accounts at gateways, of every merchant, oldest first: for the simulators.
    pub async fn test_provider_accounts(&mut self) -> Result<Vec<ProviderAccount>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at
                 FROM provider_accounts WHERE live = 0 ORDER BY id LIMIT 100000",
                &[],
            )
            .await?;
        rows.iter().map(provider_account).collect()
    }

    /// All test accounts at invoicing APIs, of every merchant, oldest first: for the simulators.
    pub async fn test_invoicing_accounts(&mut self) -> Result<Vec<InvoicingAccount>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, invoicer, live, enabled, sealed, shown, paused_until, pause_reason, failures, created_at
                 FROM invoicing_accounts WHERE live = 0 ORDER BY id LIMIT 100000",
                &[],
            )
            .await?;
        rows.iter().map(invoicing_account).collect()
    }

    /// How many accounts there are and the newest id of each kind: another answer means another account.
    pub async fn accounts_mark(&mut self) -> Result<(i64, String), StoreError> {
        let row = self
            .row(
                "SELECT (SELECT COUNT(*) FROM provider_accounts) + (SELECT COUNT(*) FROM invoicing_accounts) AS accounts,
                     COALESCE((SELECT MAX(id) FROM provider_accounts), '') || ' ' ||
                     COALESCE((SELECT MAX(id) FROM invoicing_accounts), '') AS newest",
                &[],
            )
            .await?;
        match row {
            Some(r) => Ok((r.int("accounts")?, r.text("newest")?)),
            None => Ok((0, String::new())),
        }
    }

    /// Adds an invoicing account.
    pub async fn add_invoicing_account(&mut self, a: &InvoicingAccount) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO invoicing_accounts (merchant_id, id, invoicer, live, enabled, sealed, shown, failures, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8)",
            args![&a.merchant_id, &a.id, &a.invoicer, a.live, a.enabled, &a.sealed, &to_json(&a.shown)?, a.created_at],
        )
        .await?;
        Ok(())
    }

    /// Writes the settings, switch and pause of an invoicing account.
    pub async fn update_invoicing_account(&mut self, a: &InvoicingAccount) -> Result<(), StoreError> {
        self.run(
            "UPDATE invoicing_accounts SET enabled = $3, sealed = $4, shown = $5, paused_until = $6, pause_reason = $7, failures = $8
             WHERE merchant_id = $1 AND id = $2",
            args![
                &a.merchant_id, &a.id, a.enabled, &a.sealed, &to_json(&a.shown)?, a.paused_until, &a.pause_reason, a.failures
            ],
        )
        .await?;
        Ok(())
    }

    /// One invoicing account of a merchant.
    pub async fn invoicing_account(
        &mut self,
        merchant: &str,
        id: &str,
    ) -> Result<Option<InvoicingAccount>, StoreError> {
        self.row(
            "SELECT merchant_id, id, invoicer, live, enabled, sealed, shown, paused_until, pause_reason, failures, created_at
             FROM invoicing_accounts WHERE merchant_id = $1 AND id = $2",
            args![merchant, id],
        )
        .await?
        .map(|r| invoicing_account(&r))
        .transpose()
    }

    /// One invoicing account of a merchant, locked until the end of the transaction: for whoever writes its settings or its
    /// pause by what it read.
    pub async fn invoicing_account_for_update(
        &mut self,
        merchant: &str,
        id: &str,
    ) -> Result<Option<InvoicingAccount>, StoreError> {
        let sql = self.pick(
            "SELECT merchant_id, id, invoicer, live, enabled, sealed, shown, paused_until, pause_reason, failures, created_at
             FROM invoicing_accounts WHERE merchant_id = $1 AND id = $2",
            "SELECT merchant_id, id, invoicer, live, enabled, sealed, shown, paused_until, pause_reason, failures, created_at
             FROM invoicing_accounts WHERE merchant_id = $1 AND id = $2 FOR UPDATE",
        );
        self.row(sql, args![merchant, id]).await?.map(|r| invoicing_account(&r)).transpose()
    }

    /// All invoicing accounts of a merchant, oldest first.
    pub async fn invoicing_accounts(&mut self, merchant: &str) -> Result<Vec<InvoicingAccount>, StoreError> {
        let sql = "SELECT merchant_id, id, invoicer, live, enabled, sealed, shown, paused_until, pause_reason, failures, created_at
                   FROM invoicing_accounts WHERE merchant_id = $1 ORDER BY id LIMIT 1000";
        booked!(self.invoicing_accounts[merchant.to_owned()], {
            self.rows(sql, args![merchant]).await?.iter().map(invoicing_account).collect::<Result<Vec<_>, _>>()?
        })
    }

    /// Accounts at which an invoice waits for its turn as of `now`: its job bears `mark` and is not due.
    pub async fn accounts_waited_for(&mut self, mark: &str, now: i64) -> Result<Vec<InvoicingAccount>, StoreError> {
        // One look into the key of the jobs for each account.
        let sql = "SELECT merchant_id, id, invoicer, live, enabled, sealed, shown, paused_until, pause_reason, failures, created_at
                   FROM invoicing_accounts a WHERE EXISTS (
                       SELECT 1 FROM jobs j JOIN invoices i ON i.merchant_id = j.merchant_id AND i.id = j.subject
                       WHERE j.merchant_id = a.merchant_id AND j.subject > 'ivc_' AND j.subject < 'ivc`' AND j.kind = 'issue_invoice'
                           AND j.set_aside = '' AND j.state = 'ready' AND j.last_error = $1 AND j.run_at > $2
                           AND i.invoicing_account_id = a.id)";
        self.rows(sql, args![mark, now]).await?.iter().map(invoicing_account).collect()
    }

    /// Lets one invoice go ahead at an account whose pause is over: the account rests until `until` for all others.
    /// `false` when another invoice was faster, or the pause was lifted or made longer.
    pub async fn begin_trial(
        &mut self,
        merchant: &str,
        id: &str,
        invoice: &str,
        now: i64,
        until: i64,
    ) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "UPDATE invoicing_accounts SET paused_until = $4, last_trial = $5
                 WHERE merchant_id = $1 AND id = $2 AND pause_reason IS NOT NULL AND COALESCE(paused_until, 0) <= $3",
                args![merchant, id, now, until, invoice],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Sets or lifts the pause of an invoicing account.
    pub async fn pause_invoicing_account(
        &mut self,
        merchant: &str,
        id: &str,
        until: Option<i64>,
        reason: Option<&str>,
        failures: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE invoicing_accounts SET paused_until = $3, pause_reason = $4, failures = $5 WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, until, reason, failures],
        )
        .await?;
        Ok(())
    }
}

/// These merchants.
pub(super) fn merchants_of<'a>(merchants: impl IntoIterator<Item = [Arg<'a>; 1]>) -> Question<'a> {
    let sql = "SELECT id, name, language, fallback_email, return_origins, show_attachment, created_at
               FROM r CROSS JOIN merchants WHERE id = of_merchant";
    let columns = "id, name, language, fallback_email, return_origins, show_attachment, created_at";
    Set::new(&["of_merchant"], merchants, sql).asking(columns)
}

/// All provider accounts of these merchants.
pub(super) fn provider_accounts_of<'a>(merchants: impl IntoIterator<Item = [Arg<'a>; 1]>) -> Question<'a> {
    let sql = "SELECT merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at
               FROM r CROSS JOIN provider_accounts WHERE merchant_id = of_merchant";
    let columns = "merchant_id, id, provider, currency, live, enabled, sealed, shown, created_at";
    Set::new(&["of_merchant"], merchants, sql).asking(columns)
}

/// All invoicing accounts of these merchants.
pub(super) fn invoicing_accounts_of<'a>(merchants: impl IntoIterator<Item = [Arg<'a>; 1]>) -> Question<'a> {
    let sql = "SELECT merchant_id, id, invoicer, live, enabled, sealed, shown, paused_until, pause_reason, failures, created_at
               FROM r CROSS JOIN invoicing_accounts WHERE merchant_id = of_merchant";
    let columns =
        "merchant_id, id, invoicer, live, enabled, sealed, shown, paused_until, pause_reason, failures, created_at";
    Set::new(&["of_merchant"], merchants, sql).asking(columns)
}

pub(super) fn merchant(r: &Row) -> Result<Merchant, StoreError> {
    Ok(Merchant {
        id: r.text("id")?,
        name: r.text("name")?,
        language: r.text("language")?,
        fallback_email: r.maybe_text("fallback_email")?,
        return_origins: r.json("return_origins")?,
        show_attachment: r.flag("show_attachment")?,
        created_at: r.int("created_at")?,
    })
}

fn api_key(r: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        name: r.text("name")?,
        hint: r.text("hint")?,
        hash: r.text("hash")?,
        live: r.flag("live")?,
        scopes: r.json("scopes")?,
        created_at: r.int("created_at")?,
        revoked_at: r.maybe_int("revoked_at")?,
    })
}

pub(super) fn provider_account(r: &Row) -> Result<ProviderAccount, StoreError> {
    Ok(ProviderAccount {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        provider: r.text("provider")?,
        currency: r.maybe_text("currency")?,
        live: r.flag("live")?,
        enabled: r.flag("enabled")?,
        sealed: r.text("sealed")?,
        shown: r.json("shown")?,
        created_at: r.int("created_at")?,
    })
}

pub(super) fn invoicing_account(r: &Row) -> Result<InvoicingAccount, StoreError> {
    Ok(InvoicingAccount {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        invoicer: r.text("invoicer")?,
        live: r.flag("live")?,
        enabled: r.flag("enabled")?,
        sealed: r.text("sealed")?,
        shown: r.json("shown")?,
        paused_until: r.maybe_int("paused_until")?,
        pause_reason: r.maybe_text("pause_reason")?,
        failures: r.int("failures")?,
        created_at: r.int("created_at")?,
    })
}
