//! Which mode things belong to that do not say it themselves: that of what they are about.

use std::collections::HashMap;

use super::dialect::{StoreError, Tx};
use super::set::row;

/// From a notice to its alert, to the job that it tells of, to what that is about, to its payment or endpoint, and one
/// more.
const STEPS: usize = 6;

/// The mode of each thing, or else what it is about. All are found by their keys.
const MODES: &str = "SELECT thing,
    COALESCE(
        (SELECT p.live FROM payments AS p WHERE p.merchant_id = owner AND p.id = thing),
        (SELECT a.live FROM provider_accounts AS a WHERE a.merchant_id = owner AND a.id = thing),
        (SELECT a.live FROM invoicing_accounts AS a WHERE a.merchant_id = owner AND a.id = thing),
        (SELECT e.live FROM endpoints AS e WHERE e.merchant_id = owner AND e.id = thing)) AS live,
    COALESCE(
        (SELECT a.payment_id FROM attempts AS a WHERE a.merchant_id = owner AND a.id = thing),
        (SELECT i.payment_id FROM invoices AS i WHERE i.merchant_id = owner AND i.id = thing),
        (SELECT f.payment_id FROM refunds AS f WHERE f.merchant_id = owner AND f.id = thing),
        (SELECT e.account_id FROM events AS e WHERE e.merchant_id = owner AND e.id = thing),
        (SELECT t.endpoint_id FROM tellings AS t WHERE t.merchant_id = owner AND t.id = thing),
        (SELECT COALESCE(n.payment_id, n.alert_id) FROM notices AS n WHERE n.merchant_id = owner AND n.id = thing),
        (SELECT COALESCE(l.payment_id, l.dedupe_key) FROM alerts AS l WHERE l.merchant_id = owner AND l.id = thing),
        (SELECT j.subject FROM jobs AS j WHERE j.merchant_id = owner AND j.set_aside <> '' AND j.id = thing)) AS about
    FROM r";

impl Tx {
    /// The modes of a merchant's things by their ids, of whatever kind: `true` is live. What is missing belongs to both
    /// modes, or is gone.
    ///
    /// # Errors
    /// The database.
    pub async fn modes_of(&mut self, merchant: &str, ids: &[&str]) -> Result<HashMap<String, bool>, StoreError> {
        let mut modes = HashMap::new();
        // Each id with the one at which the search for its mode has arrived.
        let mut open: Vec<(String, String)> = ids.iter().map(|id| ((*id).to_owned(), (*id).to_owned())).collect();
        for _ in 0..STEPS {
            let mut things: Vec<&str> = open.iter().map(|(_, at)| at.as_str()).collect();
            things.sort_unstable();
            things.dedup();
            let rows: Vec<_> = things.iter().map(|thing| row![merchant, *thing]).collect();
            let mut found = HashMap::new();
            for r in self.rows_of_set(&["owner", "thing"], &rows, MODES).await? {
                let live = r.maybe_int("live")?.map(|flag| flag != 0);
                found.insert(r.text("thing")?, (live, r.maybe_text("about")?));
            }
            let mut further = vec![];
            for (id, at) in open {
                match found.get(&at) {
                    Some((Some(live), _)) => drop(modes.insert(id, *live)),
                    Some((None, Some(about))) => further.push((id, named_in(about).to_owned())),
                    Some((None, None)) | None => {}
                }
            }
            open = further;
        }
        Ok(modes)
    }
}

/// An alert's key is its code and, after a colon, the id of what it is about.
fn named_in(about: &str) -> &str {
    about.split(':').nth(1).unwrap_or(about)
}
