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
