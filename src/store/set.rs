//! One statement for many rows: its cost does not depend on how many calls share a transaction.
//!
//! The rows are the table `r` of the statement. On PostgreSQL they are arrays, one parameter a column, unnested: one
//! round trip, one prepared statement for every length; several sets even share one round trip. On SQLite they are
//! `VALUES`, cut into pieces of a few fixed lengths, so that the prepared statements can be kept.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Row as _};

use super::dialect::{Arg, Conn, Row, StoreError, Tx, bind};
use super::link::Link;

/// Lengths of the pieces on SQLite, longest first; the last is one.
const PIECES: [usize; 4] = [64, 16, 4, 1];

/// `row![a, b]`: one row of a set.
macro_rules! row {
    ($($value:expr),* $(,)?) => { [$($crate::store::dialect::Arg::from($value)),*] };
}
pub(super) use row;

/// Rows and the statement to be run over them.
pub(super) struct Set<'a> {
    /// The columns of `r`.
    names: &'static [&'static str],
    /// Its rows, one after another.
    values: Vec<Arg<'a>>,
    /// Reads `r`. A statement that changes rows must not have a `RETURNING` of its own in [`Tx::run_sets`].
    statement: &'static str,
}

impl<'a> Set<'a> {
    /// `names` are the columns of `r` in the rows' order.
    pub(super) fn new<const N: usize>(
        names: &'static [&'static str; N],
        rows: impl IntoIterator<Item = [Arg<'a>; N]>,
        statement: &'static str,
    ) -> Set<'a> {
        Set { names, values: rows.into_iter().flatten().collect(), statement }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> u64 {
        (self.values.len() / self.names.len()) as u64
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How many statements it is on SQLite.
    fn pieces(&self) -> usize {
        pieces(&self.values, self.names.len()).count()
    }

    /// For PostgreSQL; its parameters begin at `first`.
    fn over_arrays(&self, first: usize, out: &mut String) {
        let _ = write!(out, "WITH r ({}) AS (SELECT * FROM UNNEST(", self.names.join(", "));
        for (n, arg) in self.values.iter().take(self.names.len()).enumerate() {
            let kind = match arg {
                Arg::Text(_) | Arg::MaybeText(_) => "text",
                Arg::Int(_) | Arg::MaybeInt(_) => "bigint",
                Arg::Blob(_) => "bytea",
            };
            let comma = if n == 0 { "" } else { ", " };
            let _ = write!(out, "{comma}${}::{kind}[]", first + n);
        }
        out.push_str(")) ");
        out.push_str(self.statement);
    }

    /// For SQLite: pieces of few lengths with their statements.
    fn over_values(&self) -> impl Iterator<Item = (String, &[Arg<'a>])> {
        pieces(&self.values, self.names.len()).map(|piece| {
            let one = format!("({})", vec!["?"; self.names.len()].join(", "));
            let all = vec![one.as_str(); piece.len() / self.names.len()].join(", ");
            (format!("WITH r ({}) AS (VALUES {all}) {}", self.names.join(", "), self.statement), piece)
        })
    }
}

/// Binds a set's rows column by column. A column's type is that of its first value; all values of a column are of one
/// kind.
macro_rules! bind_columns {
    ($query:expr, $set:expr) => {{
        let mut query = $query;
        let width = $set.names.len();
        for n in 0..width {
            let column = $set.values.iter().skip(n).step_by(width);
            query = match $set.values[n] {
                Arg::Text(_) | Arg::MaybeText(_) => query.bind(column.map(text_of).collect::<Vec<_>>()),
                Arg::Int(_) | Arg::MaybeInt(_) => query.bind(column.map(int_of).collect::<Vec<_>>()),
                Arg::Blob(_) => query.bind(column.map(blob_of).collect::<Vec<_>>()),
            };
        }
        query
    }};
}

impl Tx {
    /// Runs a set's statement once for all its rows; answers how many rows it touched. Nothing happens for no rows.
    pub(super) async fn run_set<const N: usize>(
        &mut self,
        names: &'static [&'static str; N],
        rows: &[[Arg<'_>; N]],
        statement: &'static str,
    ) -> Result<u64, StoreError> {
        let touched = self.run_sets(&[Set::new(names, rows.iter().copied(), statement)]).await?;
        Ok(touched.first().copied().unwrap_or(0))
    }

    /// Runs several sets that do not see each other's changes; answers how many rows each touched.
    pub(super) async fn run_sets(&mut self, sets: &[Set<'_>]) -> Result<Vec<u64>, StoreError> {
        self.count(if self.is_postgres() { 1 } else { sets.iter().map(Set::pieces).sum() });
        match &mut self.conn {
            Conn::Postgres(c, link) => run_at_once(link, c, sets).await,
            Conn::PostgresRead(c, link) => run_at_once(link, c, sets).await,
            Conn::Sqlite(c) => run_by_pieces(c, sets).await,
            Conn::SqliteRead(c) => run_by_pieces(c, sets).await,
        }
    }

    /// Runs a statement that answers rows, once for all rows of a set; the answer is in no promised order.
    pub(super) async fn rows_of_set<const N: usize>(
        &mut self,
        names: &'static [&'static str; N],
        rows: &[[Arg<'_>; N]],
        statement: &'static str,
    ) -> Result<Vec<Row>, StoreError> {
        let set = Set::new(names, rows.iter().copied(), statement);
        if set.is_empty() {
            return Ok(vec![]);
        }
        self.count(if self.is_postgres() { 1 } else { set.pieces() });
        match &mut self.conn {
            Conn::Postgres(c, link) => rows_at_once(link, c, &set).await,
            Conn::PostgresRead(c, link) => rows_at_once(link, c, &set).await,
            Conn::Sqlite(c) => rows_by_pieces(c, &set).await,
            Conn::SqliteRead(c) => rows_by_pieces(c, &set).await,
        }
    }
}

/// All sets in one statement, each as a `WITH` of its own: one round trip.
async fn run_at_once(link: &Link, c: &mut sqlx::PgConnection, sets: &[Set<'_>]) -> Result<Vec<u64>, StoreError> {
    let mut sql = String::from("WITH ");
    let mut counts = String::new();
    let mut first = 1;
    for (n, set) in sets.iter().enumerate().filter(|(_, set)| !set.is_empty()) {
        let comma = if first == 1 { "" } else { ", " };
        let _ = write!(sql, "{comma}w{n} AS (");
        set.over_arrays(first, &mut sql);
        sql.push_str(" RETURNING 1)");
        let _ = write!(counts, "{comma}(SELECT COUNT(*) FROM w{n})");
        first += set.names.len();
    }
    if first == 1 {
        return Ok(vec![0; sets.len()]);
    }
    let _ = write!(sql, " SELECT {counts}");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for set in sets.iter().filter(|set| !set.is_empty()) {
        query = bind_columns!(query, set);
    }
    let row = link.answer(query.persistent(link.keeps_statements).fetch_one(c)).await?;
    let mut touched = vec![];
    let mut column = 0;
    for set in sets {
        touched.push(match set.is_empty() {
            true => 0,
            false => {
                let count: i64 = row.try_get(column)?;
                column += 1;
                u64::try_from(count).unwrap_or(0)
            }
        });
    }
    Ok(touched)
}

async fn run_by_pieces(c: &mut sqlx::SqliteConnection, sets: &[Set<'_>]) -> Result<Vec<u64>, StoreError> {
    let mut touched = vec![];
    for set in sets {
        let mut count = 0;
        for (sql, piece) in set.over_values() {
            count += bind!(AssertSqlSafe(sql), piece).execute(&mut *c).await?.rows_affected();
        }
        touched.push(count);
    }
    Ok(touched)
}

async fn rows_at_once(link: &Link, c: &mut sqlx::PgConnection, set: &Set<'_>) -> Result<Vec<Row>, StoreError> {
    let mut sql = String::new();
    set.over_arrays(1, &mut sql);
    let query = bind_columns!(sqlx::query(AssertSqlSafe(sql)), set).persistent(link.keeps_statements);
    let found = link.answer(query.fetch_all(c)).await?;
    Ok(found.into_iter().map(Row::Postgres).collect())
}

async fn rows_by_pieces(c: &mut sqlx::SqliteConnection, set: &Set<'_>) -> Result<Vec<Row>, StoreError> {
    let mut found = vec![];
    for (sql, piece) in set.over_values() {
        found.extend(bind!(AssertSqlSafe(sql), piece).fetch_all(&mut *c).await?.into_iter().map(Row::Sqlite));
    }
    Ok(found)
}

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

/// Cuts rows of `width` values into pieces of the fixed lengths.
fn pieces<T>(mut values: &[T], width: usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let rows = values.len() / width;
        let length = *PIECES.iter().find(|p| **p <= rows)?;
        let (piece, rest) = values.split_at(length * width);
        values = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_few_lengths_and_lose_nothing() {
        for length in 0..300 {
            let values: Vec<usize> = (0..length * 3).collect();
            let cut: Vec<&[usize]> = pieces(&values, 3).collect();
            assert!(cut.iter().all(|p| PIECES.contains(&(p.len() / 3))));
            assert_eq!(cut.concat(), values);
        }
    }

    #[test]
    fn a_statement_is_spelled_for_each_engine() {
        let rows = [row!["mer_1", 2], row!["mer_1", 3]];
        let set = Set::new(&["merchant_id", "n"], rows, "SELECT * FROM r");
        let mut sql = String::new();
        set.over_arrays(4, &mut sql);
        assert_eq!(sql, "WITH r (merchant_id, n) AS (SELECT * FROM UNNEST($4::text[], $5::bigint[])) SELECT * FROM r");
        let lines: Vec<String> = set.over_values().map(|(sql, _)| sql).collect();
        assert_eq!(lines, ["WITH r (merchant_id, n) AS (VALUES (?, ?)) SELECT * FROM r"; 2]);
    }
}
