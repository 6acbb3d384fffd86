//! Looks, while it can still be mended, whether the invoice of a sale could be issued: what the invoicing API would refuse
//! after the money came is refused before it is asked for (R-5W-05, R-5W-13).

use grosz_providers::invoicer::{Buyer, InvoiceLine, Invoicer, Vat};
use grosz_providers::{Money, Settings, registry};

use super::FlowError;
use crate::app::App;
use crate::store::Tx;

/// Who will issue the invoice of a sale.
pub struct Seller {
    invoicer: &'static dyn Invoicer,
    settings: Settings,
}

/// The seller of a merchant's sales: the invoicing account of this mode that is on. `None` where no invoices are wanted, and
/// where its settings cannot be read, which is told of where they are needed.
///
/// # Errors
/// The database.
pub async fn seller_of(app: &App, tx: &mut Tx, merchant: &str, live: bool) -> Result<Option<Seller>, FlowError> {
    let accounts = tx.invoicing_accounts(merchant).await?;
    let Some(account) = accounts.into_iter().find(|a| a.enabled && a.live == live) else { return Ok(None) };
    let (invoicer, settings) = (registry::invoicer(&account.invoicer), app.invoicing_settings(&account).ok());
    Ok(invoicer.zip(settings).map(|(invoicer, settings)| Seller { invoicer, settings }))
}

impl Seller {
    /// The VAT of a sale for which nobody said it.
    pub fn usual_vat(&self) -> Vat {
        self.invoicer.usual_vat(&self.settings)
    }

    /// Checks the lines of a sale, and who buys where that is known.
    ///
    /// # Errors
    /// The first field that would be refused: `lines.0.vat`, `buyer.tax_id`.
    pub fn check(&self, total: Money, lines: &[InvoiceLine], buyer: Option<&Buyer>) -> Result<(), FlowError> {
        let Err(failure) = self.invoicer.check_sale(&self.settings, total, lines, buyer) else { return Ok(()) };
        match failure.fields.into_iter().next() {
            Some((field, why)) => Err(FlowError::Invalid { field, why }),
            None => Err(FlowError::invalid("lines", failure.message)),
        }
    }
}
