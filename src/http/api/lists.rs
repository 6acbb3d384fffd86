//! Lists, from the newest to the oldest, page by page: keyset, so a page never skips or repeats a row while others are
//! added.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;
use crate::store::Page;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// The rows, newest first.
    pub data: Vec<T>,
    /// Give this as `cursor` for the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Rows on a page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<i64>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

const DEFAULT_LIMIT: i64 = 20;
const MAX_LIMIT: i64 = 100;

/// Checks `limit`.
///
/// # Errors
/// Not from 1 to 100.
pub fn checked_limit(limit: Option<i64>) -> Result<i64, Problem> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        n @ 1..=MAX_LIMIT => Ok(n),
        _ => Err(Problem::field("limit", format!("must be a whole number from 1 to {MAX_LIMIT}"))),
    }
}

/// The page that a query asks for; one row more than shown, to see whether there is another page.
///
/// # Errors
/// The limit, or a cursor that is not one of ours.
pub fn page(kind: &str, limit: Option<i64>, cursor: Option<&str>) -> Result<Page, Problem> {
    let limit = checked_limit(limit)?;
    let before = cursor.map(|text| read_cursor(kind, text)).transpose()?;
    Ok(Page { before, limit: limit + 1 })
}

fn read_cursor(kind: &str, text: &str) -> Result<String, Problem> {
    let bad = || Problem::field("cursor", "must be the next_cursor of an earlier page of this list");
    let bytes = if text.len() <= 100 { URL_SAFE_NO_PAD.decode(text).ok() } else { None };
    let id = bytes.and_then(|b| String::from_utf8(b).ok()).ok_or_else(bad)?;
    let ours = id.strip_prefix(kind).is_some_and(|rest| rest.starts_with('_')) && crate::ids::made_at(&id).is_some();
    if ours { Ok(id) } else { Err(bad()) }
}

/// Turns rows read with [`page`] into a page.
pub fn list<R, T>(mut rows: Vec<R>, page: &Page, id: impl Fn(&R) -> &str, show: impl FnMut(R) -> T) -> List<T> {
    let shown = usize::try_from(page.limit - 1).unwrap_or(0);
    let more = rows.len() > shown;
    rows.truncate(shown);
    let next_cursor = if more { rows.last().map(|row| URL_SAFE_NO_PAD.encode(id(row))) } else { None };
    List { data: rows.into_iter().map(show).collect(), next_cursor }
}

/// Rows looked at for one page at most, where not all are shown.
const LOOKED_AT: i64 = 1000;

/// A page of rows of which some are not shown to this caller. More are read until it is full, but only so many: then it is
/// shorter, and the next one goes on behind the last row that was looked at.
pub struct Sieve<R> {
    kept: Vec<R>,
    most: usize,
    next: Page,
    left: i64,
    has_more: bool,
}

impl<R> Sieve<R> {
    /// For a page made by [`page`].
    pub fn new(page: Page) -> Self {
        let most = usize::try_from(page.limit - 1).unwrap_or(0);
        Sieve { kept: vec![], most, next: page, left: LOOKED_AT, has_more: true }
    }

    /// The rows to be read next; `None` when the page is done.
    pub fn wanted(&self) -> Option<Page> {
        let goes_on = self.has_more && self.kept.len() < self.most && self.left > 0;
        goes_on.then(|| self.next.clone())
    }

    /// Takes the rows that were wanted, and keeps those that fit.
    pub fn take(&mut self, rows: Vec<R>, id: impl Fn(&R) -> &str, fits: impl Fn(&R) -> bool) {
        let read = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        self.has_more = read >= self.next.limit;
        self.left -= read;
        for row in rows {
            if self.kept.len() == self.most {
                self.has_more = true;
                break;
            }
            self.next.before = Some(id(&row).to_owned());
            if fits(&row) {
                self.kept.push(row);
            }
        }
        self.next.limit = self.left;
    }

    /// The rows that were kept, the last one looked at, and whether there may be more.
    pub fn end(self) -> (Vec<R>, Option<String>, bool) {
        (self.kept, self.next.before, self.has_more)
    }

    /// The page.
    pub fn list<T>(self, show: impl FnMut(R) -> T) -> List<T> {
        let (rows, last, has_more) = self.end();
        let next_cursor = last.filter(|_| has_more).map(|id| URL_SAFE_NO_PAD.encode(id));
        List { data: rows.into_iter().map(show).collect(), next_cursor }
    }
}

/// A page of rows that are few and were all read, oldest first or in any order.
pub fn list_of_few<R, T>(mut rows: Vec<R>, page: &Page, id: impl Fn(&R) -> &str, show: impl FnMut(R) -> T) -> List<T> {
    rows.sort_by(|a, b| id(b).cmp(id(a)));
    if let Some(before) = &page.before {
        rows.retain(|row| id(row) < before.as_str());
    }
    rows.truncate(usize::try_from(page.limit).unwrap_or(0));
    list(rows, page, id, show)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 3] =
        ["exp_01JD4Q2X7W8Z9A0B1C2D3E4F5G", "exp_01JD4Q2X7W8Z9A0B1C2D3E4F5H", "exp_01JD4Q2X7W8Z9A0B1C2D3E4F5J"];

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let first = page("exp", Some(2), None).unwrap();
        let shown = list_of_few(IDS.to_vec(), &first, |id| id, str::to_owned);
        assert_eq!(shown.data, [IDS[2], IDS[1]]);
        let second = page("exp", Some(2), shown.next_cursor.as_deref()).unwrap();
        let shown = list_of_few(IDS.to_vec(), &second, |id| id, str::to_owned);
        assert_eq!((shown.data, shown.next_cursor), (vec![IDS[0].to_owned()], None));
    }

    #[test]
    fn a_page_of_which_some_rows_are_not_shown_goes_on_behind_them() {
        let rows: Vec<String> = (0..2500).rev().map(|n| format!("exp_{n:026}")).collect();
        // As a store reads.
        let read = |page: &Page| -> Vec<String> {
            let older = rows.iter().filter(|id| page.before.as_ref().is_none_or(|before| *id < before));
            older.take(usize::try_from(page.limit).unwrap()).cloned().collect()
        };
        let (mut cursor, mut shown, mut pages) = (None, vec![], 0);
        loop {
            let mut sieve = Sieve::new(page("exp", Some(2), cursor.as_deref()).unwrap());
            while let Some(page) = sieve.wanted() {
                sieve.take(read(&page), |id| id, |id| id.ends_with("00") && !id.ends_with("500"));
            }
            let list = sieve.list(|id| id);
            shown.extend(list.data);
            pages += 1;
            cursor = list.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let fitting = rows.iter().filter(|id| id.ends_with("00") && !id.ends_with("500"));
        assert_eq!(shown, fitting.cloned().collect::<Vec<_>>());
        assert!(pages <= 13, "{pages} pages");
    }

    #[test]
    fn strange_cursors_and_limits_are_refused() {
        let foreign = URL_SAFE_NO_PAD.encode("pay_01JD4Q2X7W8Z9A0B1C2D3E4F5G");
        for cursor in ["", "%", "abc", &foreign, &"A".repeat(200)] {
            assert!(page("exp", None, Some(cursor)).is_err(), "{cursor}");
        }
        for limit in [0, -1, 101, i64::MAX] {
            assert!(page("exp", Some(limit), None).is_err());
        }
        assert_eq!(page("exp", None, None).unwrap().limit, 21);
    }
}
