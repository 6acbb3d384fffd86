//! Experts, payers and their invoice data.

use grosz_providers::invoicer::Buyer;

use super::Page;
use super::book::{booked, name};
use super::dialect::{Arg, StoreError, Tx, args};
use super::rows::{Row, to_json};
use super::set::{Question, Set};

/// Who handles cases and hears about failures.
#[derive(Debug, Clone)]
pub struct Expert {
    /// Owner.
    pub merchant_id: String,
    /// `exp_…`
    pub id: String,
    /// Name.
    pub name: String,
    /// Where notices go.
    pub email: String,
    /// Language of notices.
    pub language: String,
    /// Microseconds.
    pub created_at: i64,
}

/// Who pays.
#[derive(Debug, Clone)]
pub struct Payer {
    /// Owner.
    pub merchant_id: String,
    /// `pyr_…`
    pub id: String,
    /// Name.
    pub name: String,
    /// Address.
    pub email: String,
    /// Language of pages and mails.
    pub language: String,
    /// Unguessable part of the payer's list address.
    pub portal_token: String,
    /// Microseconds.
    pub created_at: i64,
}

/// What a profile holds: the buyer as it will stand on an invoice.
pub type ProfileBody = Buyer;

/// One set of a payer's invoice data.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Owner.
    pub merchant_id: String,
    /// `prf_…`
    pub id: String,
    /// Whose.
    pub payer_id: String,
    /// Rises with each edit; payments keep a snapshot with the version they used.
    pub version: i64,
    /// The data.
    pub body: ProfileBody,
    /// Preselected at payment.
    pub is_default: bool,
    /// Microseconds.
    pub created_at: i64,
}

/// Sets of invoice data that a payer may save.
pub const MOST_PROFILES: usize = 100;

impl Tx {
    /// Adds an expert.
    pub async fn add_expert(&mut self, e: &Expert) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO experts (merchant_id, id, name, email, language, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
            args![&e.merchant_id, &e.id, &e.name, &e.email, &e.language, e.created_at],
        )
        .await?;
        Ok(())
    }

    /// Writes an expert's name, address and language.
    pub async fn update_expert(&mut self, e: &Expert) -> Result<(), StoreError> {
        self.run(
            "UPDATE experts SET name = $3, email = $4, language = $5 WHERE merchant_id = $1 AND id = $2",
            args![&e.merchant_id, &e.id, &e.name, &e.email, &e.language],
        )
        .await?;
        Ok(())
    }

    /// One expert.
    pub async fn expert(&mut self, merchant: &str, id: &str) -> Result<Option<Expert>, StoreError> {
        self.row(
            "SELECT merchant_id, id, name, email, language, created_at FROM experts WHERE merchant_id = $1 AND id = $2",
            args![merchant, id],
        )
        .await?
        .map(|r| expert(&r))
        .transpose()
    }

    /// One expert, locked until the end of the transaction.
    pub async fn expert_for_update(&mut self, merchant: &str, id: &str) -> Result<Option<Expert>, StoreError> {
        let sql = self.pick(
            "SELECT merchant_id, id, name, email, language, created_at FROM experts WHERE merchant_id = $1 AND id = $2",
            "SELECT merchant_id, id, name, email, language, created_at FROM experts WHERE merchant_id = $1 AND id = $2 FOR UPDATE",
        );
        self.row(sql, args![merchant, id]).await?.map(|r| expert(&r)).transpose()
    }

    /// The merchant has more than one expert (R-5W-06).
    pub async fn is_team(&mut self, merchant: &str) -> Result<bool, StoreError> {
        let two = self.rows("SELECT id FROM experts WHERE merchant_id = $1 LIMIT 2", args![merchant]).await?;
        Ok(two.len() == 2)
    }

    /// A page of experts.
    pub async fn experts(&mut self, merchant: &str, page: &Page) -> Result<Vec<Expert>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, name, email, language, created_at FROM experts
                 WHERE merchant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
                args![merchant, page.bound(), page.limit],
            )
            .await?;
        rows.iter().map(expert).collect()
    }

    /// Adds a payer.
    pub async fn add_payer(&mut self, p: &Payer) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO payers (merchant_id, id, name, email, language, portal_token, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            args![&p.merchant_id, &p.id, &p.name, &p.email, &p.language, &p.portal_token, p.created_at],
        )
        .await?;
        Ok(())
    }

    /// Writes a payer's data.
    pub async fn update_payer(&mut self, p: &Payer) -> Result<(), StoreError> {
        self.run(
            "UPDATE payers SET name = $3, email = $4, language = $5 WHERE merchant_id = $1 AND id = $2",
            args![&p.merchant_id, &p.id, &p.name, &p.email, &p.language],
        )
        .await?;
        Ok(())
    }

    /// One payer.
    pub async fn payer(&mut self, merchant: &str, id: &str) -> Result<Option<Payer>, StoreError> {
        let sql = "SELECT merchant_id, id, name, email, language, portal_token, created_at FROM payers WHERE merchant_id = $1 AND id = $2";
        booked!(self.payers[name(merchant, id)], {
            self.row(sql, args![merchant, id]).await?.map(|r| payer(&r)).transpose()?
        })
    }

    /// One payer, locked until the end of the transaction: by whoever changes it or its invoice data.
    pub async fn payer_for_update(&mut self, merchant: &str, id: &str) -> Result<Option<Payer>, StoreError> {
        let sql = self.pick(
            "SELECT merchant_id, id, name, email, language, portal_token, created_at FROM payers WHERE merchant_id = $1 AND id = $2",
            "SELECT merchant_id, id, name, email, language, portal_token, created_at FROM payers WHERE merchant_id = $1 AND id = $2
             FOR UPDATE",
        );
        self.row(sql, args![merchant, id]).await?.map(|r| payer(&r)).transpose()
    }

    /// The payer whose list has that address: begins a request.
    pub async fn payer_by_portal_token(&mut self, token: &str) -> Result<Option<Payer>, StoreError> {
        self.row(
            "SELECT merchant_id, id, name, email, language, portal_token, created_at FROM payers WHERE portal_token = $1",
            args![token],
        )
        .await?
        .map(|r| payer(&r))
        .transpose()
    }

    /// A page of payers.
    pub async fn payers(&mut self, merchant: &str, page: &Page) -> Result<Vec<Payer>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, name, email, language, portal_token, created_at FROM payers
                 WHERE merchant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
                args![merchant, page.bound(), page.limit],
            )
            .await?;
        rows.iter().map(payer).collect()
    }

    /// Adds a profile; when it is the default, the payer's others no longer are.
    pub async fn add_profile(&mut self, p: &Profile) -> Result<(), StoreError> {
        if p.is_default {
            self.clear_default_profile(&p.merchant_id, &p.payer_id).await?;
        }
        self.run(
            "INSERT INTO profiles (merchant_id, id, payer_id, version, body, tax_id, is_default, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            args![
                &p.merchant_id,
                &p.id,
                &p.payer_id,
                p.version,
                &to_json(&p.body)?,
                &p.body.tax_id,
                p.is_default,
                p.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Writes a profile's data under the next version.
    pub async fn update_profile(&mut self, p: &Profile) -> Result<(), StoreError> {
        if p.is_default {
            self.clear_default_profile(&p.merchant_id, &p.payer_id).await?;
        }
        self.run(
            "UPDATE profiles SET version = $3, body = $4, tax_id = $5, is_default = $6 WHERE merchant_id = $1 AND id = $2",
            args![&p.merchant_id, &p.id, p.version, &to_json(&p.body)?, &p.body.tax_id, p.is_default],
        )
        .await?;
        Ok(())
    }

    /// Hides a profile; snapshots in payments stay (R-OKI-10). One is always preselected: after the default one the oldest.
    pub async fn delete_profile(&mut self, p: &Profile, now: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE profiles SET deleted_at = $3, is_default = 0 WHERE merchant_id = $1 AND id = $2 AND deleted_at IS NULL",
            args![&p.merchant_id, &p.id, now],
        )
        .await?;
        if p.is_default {
            self.run(
                "UPDATE profiles SET is_default = 1 WHERE merchant_id = $1 AND id =
                     (SELECT id FROM profiles WHERE merchant_id = $1 AND payer_id = $2 AND deleted_at IS NULL ORDER BY id LIMIT 1)",
                args![&p.merchant_id, &p.payer_id],
            )
            .await?;
        }
        Ok(())
    }

    /// One profile.
    pub async fn profile(&mut self, merchant: &str, id: &str) -> Result<Option<Profile>, StoreError> {
        self.row(
            "SELECT merchant_id, id, payer_id, version, body, is_default, created_at
             FROM profiles WHERE merchant_id = $1 AND id = $2 AND deleted_at IS NULL",
            args![merchant, id],
        )
        .await?
        .map(|r| profile(&r))
        .transpose()
    }

    /// All profiles of a payer, the default first.
    pub async fn profiles(&mut self, merchant: &str, payer: &str) -> Result<Vec<Profile>, StoreError> {
        let sql = "SELECT merchant_id, id, payer_id, version, body, is_default, created_at FROM profiles
                   WHERE merchant_id = $1 AND payer_id = $2 AND deleted_at IS NULL ORDER BY is_default DESC, id LIMIT 200";
        booked!(self.profiles[name(merchant, payer)], {
            self.rows(sql, args![merchant, payer]).await?.iter().map(profile).collect::<Result<Vec<_>, _>>()?
        })
    }

    /// Profiles of this merchant with that tax number, oldest first; a few are enough to warn (R-OKI-12).
    pub async fn profiles_by_tax_id(&mut self, merchant: &str, tax_id: &str) -> Result<Vec<Profile>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, payer_id, version, body, is_default, created_at FROM profiles
                 WHERE merchant_id = $1 AND tax_id = $2 AND deleted_at IS NULL ORDER BY id LIMIT 10",
                args![merchant, tax_id],
            )
            .await?;
        rows.iter().map(profile).collect()
    }

    async fn clear_default_profile(&mut self, merchant: &str, payer: &str) -> Result<(), StoreError> {
        self.run(
            "UPDATE profiles SET is_default = 0 WHERE merchant_id = $1 AND payer_id = $2 AND is_default = 1",
            args![merchant, payer],
        )
        .await?;
        Ok(())
    }
}

fn expert(r: &Row) -> Result<Expert, StoreError> {
    Ok(Expert {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        name: r.text("name")?,
        email: r.text("email")?,
        language: r.text("language")?,
        created_at: r.int("created_at")?,
    })
}

/// These payers: merchant, payer.
pub(super) fn payers_of_set<'a>(of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
    let sql = "SELECT merchant_id, id, name, email, language, portal_token, created_at
               FROM payers WHERE (merchant_id, id) IN (SELECT of_merchant, of_payer FROM r)";
    let columns = "merchant_id, id, name, email, language, portal_token, created_at";
    Set::new(&["of_merchant", "of_payer"], of, sql).asking(columns)
}

/// The profiles of these payers: merchant, payer.
pub(super) fn profiles_of_payers<'a>(of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
    let sql = "SELECT merchant_id, id, payer_id, version, body, is_default, created_at FROM r CROSS JOIN profiles
               WHERE merchant_id = of_merchant AND payer_id = of_payer AND deleted_at IS NULL";
    let columns = "merchant_id, id, payer_id, version, body, is_default, created_at";
    Set::new(&["of_merchant", "of_payer"], of, sql).asking(columns)
}

pub(super) fn payer(r: &Row) -> Result<Payer, StoreError> {
    Ok(Payer {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        name: r.text("name")?,
        email: r.text("email")?,
        language: r.text("language")?,
        portal_token: r.text("portal_token")?,
        created_at: r.int("created_at")?,
    })
}

pub(super) fn profile(r: &Row) -> Result<Profile, StoreError> {
    Ok(Profile {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        payer_id: r.text("payer_id")?,
        version: r.int("version")?,
        body: r.json("body")?,
        is_default: r.flag("is_default")?,
        created_at: r.int("created_at")?,
    })
}
