//! One statement for many rows: its cost does not depend on how many calls share a transaction.
//!
//! The rows are the table `r` of the statement. On PostgreSQL they are arrays, one parameter a column, unnested: one
//! prepared statement for every length. On SQLite they are `VALUES`, filled up to one of a few fixed lengths, so that
//! the prepared statements can be kept. Several sets share one trip to the database: on PostgreSQL they are one
//! statement, on SQLite one call of the driver's thread.

use std::fmt::Write as _;

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, Executor as _, Row as _};

use super::dialect::{Arg, Conn, StoreError, Tx, bind};
use super::link::Link;
use super::rows::{Cell, Row};

/// Rows of one statement on SQLite at most; shorter ones are filled up to a power of two.
const LONGEST: usize = 64;

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
    /// Where the rows come from instead of `values`: a query over the answers of the questions before it.
    source: Option<&'static str>,
    /// Reads `r`. A statement that changes rows must not have a `RETURNING` of its own in [`Tx::run_sets`].
    statement: &'static str,
    /// It has to touch as many rows as there are, or nothing of the transaction may stay.
    is_exact: bool,
    /// It changes nothing, only holds rows until the end of the transaction.
    holds_only: bool,
}

impl<'a> Set<'a> {
    /// `names` are the columns of `r` in the rows' order.
    pub(super) fn new<const N: usize>(
        names: &'static [&'static str; N],
        rows: impl IntoIterator<Item = [Arg<'a>; N]>,
        statement: &'static str,
    ) -> Set<'a> {
        Set {
            names,
            values: rows.into_iter().flatten().collect(),
            source: None,
            statement,
            is_exact: false,
            holds_only: false,
        }
    }

    /// Makes it one that has to touch as many rows as there are: else the whole trip is a [`StoreError::Conflict`].
    pub(super) fn exact(self) -> Set<'a> {
        Set { is_exact: true, ..self }
    }

    /// For a statement that only finds and locks rows; on PostgreSQL it is run because they are counted.
    pub(super) fn holding(self) -> Set<'a> {
        Set { holds_only: true, ..self }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> u64 {
        (self.values.len() / self.names.len()) as u64
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.source.is_none()
    }

    /// The answer has to say how many rows it touched.
    fn is_counted(&self, count_all: bool) -> bool {
        !self.is_empty() && (count_all || self.is_exact)
    }

    /// How many parameters it has on PostgreSQL.
    fn arrays(&self) -> usize {
        if self.source.is_some() { 0 } else { self.names.len() }
    }

    /// Makes it a question: its statement answers rows of these columns.
    pub(super) fn asking(self, columns: &'static str) -> Question<'a> {
        Question { set: self, columns }
    }

    /// How many statements it is on SQLite.
    fn pieces(&self) -> usize {
        self.values.len().div_ceil(LONGEST * self.names.len())
    }

    /// For PostgreSQL; its parameters begin at `first`.
    fn over_arrays(&self, first: usize, out: &mut String) {
        let names = self.names.join(", ");
        if let Some(source) = self.source {
            let _ = write!(out, "WITH r ({names}) AS ({source}) {}", self.statement);
            return;
        }
        let _ = write!(out, "WITH r ({names}) AS (SELECT * FROM UNNEST(");
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

    /// For SQLite: one statement for each piece, its values after those that `values` holds already. `columns` are asked
    /// for as one JSON array a row: the driver copies every single value of a row, which costs more than the query.
    fn over_values(&self, columns: Option<&str>, out: &mut String, values: &mut Vec<Arg<'a>>) {
        let width = self.names.len();
        for piece in self.values.chunks(LONGEST * width) {
            // A single row would be flattened into the statement, and a statement that compares parameters with the
            // conditions of partial indexes is prepared anew for each of their values.
            let filled = (piece.len() / width).next_power_of_two().max(2);
            let one = format!("(?{}), ", ", ?".repeat(width - 1));
            let all = one.repeat(filled);
            // A set's first column is its owner, so only a row that fills up has none.
            let _ = write!(
                out,
                "WITH r ({}) AS (SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL) ",
                self.names.join(", "),
                all.trim_end_matches(", ")
            );
            let _ = match columns {
                Some(columns) => write!(out, "SELECT json_array({columns}) FROM ({}); ", self.statement),
                None => write!(out, "{}; ", self.statement),
            };
            values.extend_from_slice(piece);
            values.resize(values.len() + filled * width - piece.len(), Arg::MaybeText(None));
        }
    }
}

/// A set whose statement answers rows.
pub(super) struct Question<'a> {
    set: Set<'a>,
    /// `merchant_id, id`: the names of its statement's columns, all of them text or numbers.
    columns: &'static str,
}

impl Question<'_> {
    /// On PostgreSQL: asks it about rows that `source` finds among the answers of questions before it in the same trip,
    /// the first of which is named `q0`.
    pub(super) fn about(mut self, source: &'static str) -> Self {
        self.set.source = Some(source);
        self
    }
}

/// Binds a set's rows column by column. A column's type is that of its first value; all values of a column are of one
/// kind.
macro_rules! bind_columns {
    ($query:expr, $set:expr) => {{
        let mut query = $query;
        let width = $set.names.len();
        for n in 0..$set.arrays() {
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

    /// Runs several sets that do not see each other's changes, in one trip; answers how many rows each touched.
    pub(super) async fn run_sets(&mut self, sets: &[Set<'_>]) -> Result<Vec<u64>, StoreError> {
        self.beside_the_book()?;
        self.run_all(sets, true).await
    }

    /// Like [`Tx::run_sets`], for the book itself: on PostgreSQL all or nothing even without a transaction. Only what has
    /// to touch as many rows as there are is counted.
    pub(super) async fn run_sets_of_book(&mut self, sets: &[Set<'_>]) -> Result<(), StoreError> {
        self.run_all(sets, false).await.map(drop)
    }

    async fn run_all(&mut self, sets: &[Set<'_>], count_all: bool) -> Result<Vec<u64>, StoreError> {
        self.count(if self.is_postgres() { 1 } else { sets.iter().map(Set::pieces).sum() });
        let touched = match &mut self.conn {
            Conn::Postgres(c, link) => run_at_once(link, c, sets, count_all).await?,
            Conn::Sqlite(c) => run_by_pieces(c, sets).await?,
        };
        self.has_answers();
        let is_short = |(set, touched): (&Set<'_>, &u64)| set.is_exact && *touched != set.len();
        if sets.iter().zip(&touched).any(is_short) { Err(StoreError::Conflict) } else { Ok(touched) }
    }

    /// Asks several questions in one trip; the answers are in their order, the rows of each in no promised order. All see
    /// the database as it is when the first begins: what must be read after a lock was taken belongs into the next trip.
    pub(super) async fn ask<const N: usize>(
        &mut self,
        questions: [Question<'_>; N],
    ) -> Result<[Vec<Row>; N], StoreError> {
        let mut answers = [const { vec![] }; N];
        if questions.iter().all(|q| q.set.is_empty()) {
            return Ok(answers);
        }
        self.count(if self.is_postgres() { 1 } else { questions.iter().map(|q| q.set.pieces()).sum() });
        match &mut self.conn {
            Conn::Postgres(c, link) => ask_at_once(link, c, &questions, &mut answers).await,
            Conn::Sqlite(c) => ask_by_pieces(c, &questions, &mut answers).await,
        }?;
        self.has_answers();
        Ok(answers)
    }

    /// Like [`Tx::rows`], for rows of many columns, texts and numbers: on SQLite each comes as one JSON array, because the
    /// driver copies every single value of a row, which costs more than the query. `columns` are all that `sql` answers.
    pub(super) async fn wide_rows(
        &mut self,
        columns: &'static str,
        sql: &'static str,
        args: &[Arg<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        if self.is_postgres() {
            return self.rows(sql, args).await;
        }
        self.packed_rows(columns, format!("SELECT json_array({columns}) FROM ({sql})"), args).await
    }

    /// Runs a query on SQLite that answers each row as one JSON array of these columns.
    pub(super) async fn packed_rows(
        &mut self,
        columns: &'static str,
        sql: impl Into<String>,
        args: &[Arg<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        self.beside_the_book()?;
        self.count(1);
        let packed = AssertSqlSafe(sql.into());
        let found = match &mut self.conn {
            Conn::Sqlite(c) => bind!(packed, args).fetch_all(&mut **c).await?,
            Conn::Postgres(..) => vec![],
        };
        self.has_answers();
        let names: Arc<[&'static str]> = columns.split(", ").collect();
        found.iter().map(|row| Row::packed(&names, row.try_get(0)?)).collect()
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
        self.beside_the_book()?;
        self.count(if self.is_postgres() { 1 } else { set.pieces() });
        let rows = match &mut self.conn {
            Conn::Postgres(c, link) => rows_at_once(link, c, &set).await?,
            Conn::Sqlite(c) => rows_by_pieces(c, &set).await?,
        };
        self.has_answers();
        Ok(rows)
    }
}

/// All sets in one statement, each as a `WITH` of its own: one round trip. What nobody counts is no part of the answer,
/// which spares the server a good part of what a short statement costs; it is run all the same.
async fn run_at_once(
    link: &Link,
    c: &mut sqlx::PgConnection,
    sets: &[Set<'_>],
    count_all: bool,
) -> Result<Vec<u64>, StoreError> {
    let mut sql = String::from("WITH ");
    let mut counts = String::new();
    let mut shortfall = String::new();
    let mut first = 1;
    for (n, set) in sets.iter().enumerate().filter(|(_, set)| !set.is_empty()) {
        let comma = if first == 1 { "" } else { ", " };
        let _ = write!(sql, "{comma}w{n} AS (");
        set.over_arrays(first, &mut sql);
        sql.push_str(if set.holds_only || !set.is_counted(count_all) { ")" } else { " RETURNING 1)" });
        if set.is_counted(count_all) {
            let comma = if counts.is_empty() { "" } else { ", " };
            let _ = write!(counts, "{comma}(SELECT COUNT(*) FROM w{n})");
        }
        if set.is_exact {
            let also = if shortfall.is_empty() { "" } else { " AND " };
            let _ = write!(shortfall, "{also}(SELECT COUNT(*) FROM w{n}) = cardinality(${first})");
        }
        first += set.names.len();
    }
    let mut touched: Vec<u64> = sets.iter().map(Set::len).collect();
    if first == 1 {
        return Ok(touched);
    }
    if counts.is_empty() {
        counts.push('1');
    }
    let _ = write!(sql, " SELECT {counts}");
    if !shortfall.is_empty() {
        // What is short is known only when all was written: an error takes it back.
        let _ = write!(sql, ", 1 / CAST({shortfall} AS INT)");
    }
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for set in sets.iter().filter(|set| !set.is_empty()) {
        query = bind_columns!(query, set);
    }
    let row = link.answer(query.persistent(link.keeps_statements).fetch_one(c)).await?;
    let counted = sets.iter().zip(&mut touched).filter(|(set, _)| set.is_counted(count_all));
    for (column, (_, touched)) in counted.enumerate() {
        *touched = u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0);
    }
    Ok(touched)
}

/// All pieces of all sets as one text of several statements: one call of the driver's thread.
async fn run_by_pieces(c: &mut sqlx::SqliteConnection, sets: &[Set<'_>]) -> Result<Vec<u64>, StoreError> {
    let mut touched = vec![0; sets.len()];
    let (mut sql, mut values, mut of_statement) = (String::new(), vec![], vec![]);
    for (n, set) in sets.iter().enumerate() {
        set.over_values(None, &mut sql, &mut values);
        of_statement.resize(of_statement.len() + set.pieces(), n);
    }
    if sql.is_empty() {
        return Ok(touched);
    }
    let mut ends = of_statement.into_iter();
    let mut results = c.fetch_many(bind!(AssertSqlSafe(sql), &values));
    while let Some(result) = results.try_next().await? {
        if let (Either::Left(done), Some(set)) = (result, ends.next()) {
            touched[set] += done.rows_affected();
        }
    }
    Ok(touched)
}

/// All questions as parts of one answer: one round trip. Their rows have nothing in common, so each is an array of texts.
async fn ask_at_once(
    link: &Link,
    c: &mut sqlx::PgConnection,
    questions: &[Question<'_>],
    answers: &mut [Vec<Row>],
) -> Result<(), StoreError> {
    let (mut sql, mut parts) = (String::from("WITH "), String::new());
    let mut first = 1;
    for (n, Question { set, columns }) in questions.iter().enumerate().filter(|(_, q)| !q.set.is_empty()) {
        let (comma, union) = if first == 1 { ("", "") } else { (", ", " UNION ALL ") };
        let _ = write!(sql, "{comma}q{n} AS (");
        set.over_arrays(first, &mut sql);
        sql.push(')');
        let texts = columns.replace(", ", "::text, ");
        let _ = write!(parts, "{union}SELECT {n} AS part, ARRAY[{texts}::text] AS cells FROM q{n}");
        first += set.arrays();
    }
    let _ = write!(sql, " {parts}");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for Question { set, .. } in questions.iter().filter(|q| !q.set.is_empty()) {
        query = bind_columns!(query, set);
    }
    let names: Vec<Arc<[&str]>> = questions.iter().map(|q| q.columns.split(", ").collect()).collect();
    for row in link.answer(query.persistent(link.keeps_statements).fetch_all(c)).await? {
        let part = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or(usize::MAX);
        let texts: Vec<Option<String>> = row.try_get(1)?;
        let cells = texts.into_iter().map(|text| text.map_or(Cell::Null, Cell::Text)).collect();
        if let (Some(answer), Some(names)) = (answers.get_mut(part), names.get(part)) {
            answer.push(Row::Packed(Arc::clone(names), cells));
        }
    }
    Ok(())
}

/// All pieces of all questions as one text of several statements: one call of the driver's thread.
async fn ask_by_pieces(
    c: &mut sqlx::SqliteConnection,
    questions: &[Question<'_>],
    answers: &mut [Vec<Row>],
) -> Result<(), StoreError> {
    let (mut sql, mut values, mut of_statement) = (String::new(), vec![], vec![]);
    for (n, Question { set, columns }) in questions.iter().enumerate() {
        set.over_values(Some(columns), &mut sql, &mut values);
        of_statement.resize(of_statement.len() + set.pieces(), n);
    }
    let names: Vec<Arc<[&str]>> = questions.iter().map(|q| q.columns.split(", ").collect()).collect();
    let mut statement = 0;
    let mut results = c.fetch_many(bind!(AssertSqlSafe(sql), &values));
    while let Some(result) = results.try_next().await? {
        match (result, of_statement.get(statement)) {
            (Either::Right(row), Some(n)) => answers[*n].push(Row::packed(&names[*n], row.try_get(0)?)?),
            (Either::Right(_), None) => {}
            (Either::Left(_), _) => statement += 1,
        }
    }
    Ok(())
}

async fn rows_at_once(link: &Link, c: &mut sqlx::PgConnection, set: &Set<'_>) -> Result<Vec<Row>, StoreError> {
    let mut sql = String::new();
    set.over_arrays(1, &mut sql);
    let query = bind_columns!(sqlx::query(AssertSqlSafe(sql)), set).persistent(link.keeps_statements);
    let found = link.answer(query.fetch_all(c)).await?;
    Ok(found.into_iter().map(Row::Postgres).collect())
}

async fn rows_by_pieces(c: &mut sqlx::SqliteConnection, set: &Set<'_>) -> Result<Vec<Row>, StoreError> {
    let (mut sql, mut values) = (String::new(), vec![]);
    set.over_values(None, &mut sql, &mut values);
    let found = bind!(AssertSqlSafe(sql), &values).fetch_all(c).await?;
    Ok(found.into_iter().map(Row::Sqlite).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_spelling(rows: i64, columns: Option<&str>, expect: &str) {
        let rows = (0..rows).map(|n| row!["mer_1", n]);
        let set = Set::new(&["merchant_id", "n"], rows, "SELECT n FROM r");
        let (mut sql, mut values) = (String::new(), vec![]);
        set.over_values(columns, &mut sql, &mut values);
        assert_eq!(sql, expect);
        assert_eq!(values.len(), sql.matches('?').count());
    }

    #[test]
    fn a_statement_is_spelled_for_each_engine() {
        let set = Set::new(&["merchant_id", "n"], [row!["mer_1", 2]], "SELECT * FROM r");
        let mut sql = String::new();
        set.over_arrays(4, &mut sql);
        assert_eq!(sql, "WITH r (merchant_id, n) AS (SELECT * FROM UNNEST($4::text[], $5::bigint[])) SELECT * FROM r");
        let with = "WITH r (merchant_id, n) AS (SELECT * FROM (VALUES";
        let owned = "WHERE column1 IS NOT NULL)";
        check_spelling(0, None, "");
        let two = "(?, ?), (?, ?)";
        check_spelling(1, None, &format!("{with} {two}) {owned} SELECT n FROM r; "));
        let four = "(?, ?), (?, ?), (?, ?), (?, ?)";
        let packed = "SELECT json_array(n) FROM (SELECT n FROM r); ";
        check_spelling(3, Some("n"), &format!("{with} {four}) {owned} {packed}"));
        let long = format!("{}(?, ?)", "(?, ?), ".repeat(63));
        check_spelling(
            65,
            None,
            &format!("{with} {long}) {owned} SELECT n FROM r; {with} {two}) {owned} SELECT n FROM r; "),
        );
        let question = Set::new(&["of_merchant"], [], "SELECT 1 FROM r").asking("one").about("SELECT id FROM q0");
        let mut sql = String::new();
        question.set.over_arrays(4, &mut sql);
        assert_eq!(
            (sql.as_str(), question.set.arrays()),
            ("WITH r (of_merchant) AS (SELECT id FROM q0) SELECT 1 FROM r", 0)
        );
    }
}
