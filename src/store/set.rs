//! One statement for many rows: its cost does not depend on how many calls share a transaction.
//!
//! The rows are the table `r` of the statement. On PostgreSQL they are arrays, one parameter a column, unnested: one
//! round trip, one prepared statement for every length. On SQLite they are `VALUES`, cut into pieces of a few fixed
//! lengths, so that the prepared statements can be kept.

use std::fmt::Write as _;

use sqlx::AssertSqlSafe;

use super::dialect::{Arg, Conn, Row, StoreError, Tx, ask, bind};

/// Lengths of the pieces on SQLite, longest first; the last is one.
const PIECES: [usize; 4] = [64, 16, 4, 1];

/// `row![a, b]`: one row of a set.
macro_rules! row {
    ($($value:expr),* $(,)?) => { [$($crate::store::dialect::Arg::from($value)),*] };
}
pub(super) use row;

impl Tx {
    /// Runs `statement` once for all rows of `r`, whose columns are `names`; answers how many rows it touched.
    /// Nothing happens for no rows.
    pub(super) async fn run_set<const N: usize>(
        &mut self,
        names: [&'static str; N],
        rows: &[[Arg<'_>; N]],
        statement: &'static str,
    ) -> Result<u64, StoreError> {
        if rows.is_empty() {
            return Ok(0);
        }
        let mut touched = 0;
        match &mut self.conn {
            Conn::Postgres(c, link) => {
                let query = unnest!(sqlx::query(AssertSqlSafe(over_arrays(names, rows, statement))), rows);
                touched += ask!(link, query, execute, c).rows_affected();
            }
            Conn::PostgresRead(c, link) => {
                let query = unnest!(sqlx::query(AssertSqlSafe(over_arrays(names, rows, statement))), rows);
                touched += ask!(link, query, execute, c).rows_affected();
            }
            Conn::Sqlite(c) => {
                for piece in pieces(rows) {
                    let query = bind!(AssertSqlSafe(over_values(names, piece.len(), statement)), piece.as_flattened());
                    touched += query.execute(&mut **c).await?.rows_affected();
                }
            }
            Conn::SqliteRead(c) => {
                for piece in pieces(rows) {
                    let query = bind!(AssertSqlSafe(over_values(names, piece.len(), statement)), piece.as_flattened());
                    touched += query.execute(&mut **c).await?.rows_affected();
                }
            }
        }
        Ok(touched)
    }

    /// Like [`Tx::run_set`], for a statement that answers rows; in no promised order.
    pub(super) async fn rows_of_set<const N: usize>(
        &mut self,
        names: [&'static str; N],
        rows: &[[Arg<'_>; N]],
        statement: &'static str,
    ) -> Result<Vec<Row>, StoreError> {
        let mut found = vec![];
        if rows.is_empty() {
            return Ok(found);
        }
        match &mut self.conn {
            Conn::Postgres(c, link) => {
                let query = unnest!(sqlx::query(AssertSqlSafe(over_arrays(names, rows, statement))), rows);
                found.extend(ask!(link, query, fetch_all, c).into_iter().map(Row::Postgres));
            }
            Conn::PostgresRead(c, link) => {
                let query = unnest!(sqlx::query(AssertSqlSafe(over_arrays(names, rows, statement))), rows);
                found.extend(ask!(link, query, fetch_all, c).into_iter().map(Row::Postgres));
            }
            Conn::Sqlite(c) => {
                for piece in pieces(rows) {
                    let query = bind!(AssertSqlSafe(over_values(names, piece.len(), statement)), piece.as_flattened());
                    found.extend(query.fetch_all(&mut **c).await?.into_iter().map(Row::Sqlite));
                }
            }
            Conn::SqliteRead(c) => {
                for piece in pieces(rows) {
                    let query = bind!(AssertSqlSafe(over_values(names, piece.len(), statement)), piece.as_flattened());
                    found.extend(query.fetch_all(&mut **c).await?.into_iter().map(Row::Sqlite));
                }
            }
        }
        Ok(found)
    }
}

/// Binds the rows column by column. A column's type is that of its first value; all values of a column are of one kind.
macro_rules! unnest {
    ($query:expr, $rows:expr) => {{
        let mut query = $query;
        for n in 0..$rows[0].len() {
            query = match $rows[0][n] {
                Arg::Text(_) | Arg::MaybeText(_) => {
                    query.bind($rows.iter().map(|row| text_of(&row[n])).collect::<Vec<_>>())
                }
                Arg::Int(_) | Arg::MaybeInt(_) => {
                    query.bind($rows.iter().map(|row| int_of(&row[n])).collect::<Vec<_>>())
                }
                Arg::Blob(_) => query.bind($rows.iter().map(|row| blob_of(&row[n])).collect::<Vec<_>>()),
            };
        }
        query
    }};
}
use unnest;

fn text_of<'a>(arg: &Arg<'a>) -> Option<&'a str> {
    match *arg {
        Arg::Text(text) => Some(text),
        Arg::MaybeText(text) => text,
        _ => None,
    }
}

fn int_of(arg: &Arg<'_>) -> Option<i64> {
    match *arg {
        Arg::Int(int) => Some(int),
        Arg::MaybeInt(int) => int,
        _ => None,
    }
}

fn blob_of<'a>(arg: &Arg<'a>) -> Option<&'a [u8]> {
    match *arg {
        Arg::Blob(blob) => Some(blob),
        _ => None,
    }
}

fn over_arrays<const N: usize>(names: [&str; N], rows: &[[Arg<'_>; N]], statement: &str) -> String {
    let mut sql = format!("WITH r ({}) AS (SELECT * FROM UNNEST(", names.join(", "));
    for (n, arg) in rows.iter().take(1).flatten().enumerate() {
        let kind = match arg {
            Arg::Text(_) | Arg::MaybeText(_) => "text",
            Arg::Int(_) | Arg::MaybeInt(_) => "bigint",
            Arg::Blob(_) => "bytea",
        };
        let comma = if n == 0 { "" } else { ", " };
        let _ = write!(sql, "{comma}${}::{kind}[]", n + 1);
    }
    sql + ")) " + statement
}

fn over_values<const N: usize>(names: [&str; N], length: usize, statement: &str) -> String {
    let one = format!("({})", vec!["?"; N].join(", "));
    let all = vec![one.as_str(); length].join(", ");
    format!("WITH r ({}) AS (VALUES {all}) {statement}", names.join(", "))
}

/// Cuts rows into pieces of the fixed lengths.
fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let length = *PIECES.iter().find(|p| **p <= rows.len())?;
        let (piece, rest) = rows.split_at(length);
        rows = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_few_lengths_and_lose_nothing() {
        for length in 0..300 {
            let rows: Vec<usize> = (0..length).collect();
            let cut: Vec<&[usize]> = pieces(&rows).collect();
            assert!(cut.iter().all(|p| PIECES.contains(&p.len())));
            assert_eq!(cut.concat(), rows);
        }
    }

    #[test]
    fn a_statement_is_spelled_for_each_engine() {
        let rows = [row!["mer_1", 2], row!["mer_1", 3]];
        let statement = "DELETE FROM t USING r";
        assert_eq!(
            over_arrays(["merchant_id", "n"], &rows, statement),
            "WITH r (merchant_id, n) AS (SELECT * FROM UNNEST($1::text[], $2::bigint[])) DELETE FROM t USING r"
        );
        assert_eq!(
            over_values(["merchant_id", "n"], 2, statement),
            "WITH r (merchant_id, n) AS (VALUES (?, ?), (?, ?)) DELETE FROM t USING r"
        );
    }
}
