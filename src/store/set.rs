//! One statement for many rows: its cost does not depend on how many calls share a transaction.
//!
//! The rows are the table `r` of the statement. On PostgreSQL they are arrays, one parameter a column, unnested: one
//! prepared statement for every length; but where no set of a trip has more than one row, they are plain parameters,
//! which is a shorter way through the server. On SQLite they are `VALUES`, filled up to one of a few fixed lengths, so
//! that the prepared statements can be kept. Several sets share one trip to the database: on PostgreSQL they are one
//! statement.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Mutex};

use sqlx::{AssertSqlSafe, Row as _};

use super::dialect::{Arg, Conn, StoreError, Tx, without_nul};
use super::link::Link;
use super::rows::{Answer, Row, names_of};
use super::sqlite::Handle;

/// Rows of one statement on SQLite at most; shorter ones are filled up to a power of two.
const LONGEST: usize = 64;

/// What a statement is spelled like on SQLite, by where its columns and its words stand in the program, how many there are
/// of each, and how many rows it is for.
type Spelled = HashMap<[usize; 5], Arc<str>>;
static SPELLED: LazyLock<Mutex<Spelled>> = LazyLock::new(Mutex::default);

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
    fn parameters(&self) -> usize {
        if self.source.is_some() { 0 } else { self.names.len() }
    }

    /// Makes it a question: its statement answers rows of these columns.
    pub(super) fn asking(self, columns: &'static str) -> Question<'a> {
        Question { set: self, columns }
    }

    /// How many statements it is on SQLite.
    fn count_pieces(&self) -> usize {
        self.values.len().div_ceil(LONGEST * self.names.len())
    }

    /// For PostgreSQL; its parameters begin at `first`.
    fn over_parameters(&self, first: usize, rows: Rows, out: &mut String) {
        let names = self.names.join(", ");
        if let Some(source) = self.source {
            let _ = write!(out, "WITH r ({names}) AS ({source}) {}", self.statement);
            return;
        }
        let _ = write!(out, "WITH r ({names}) AS (SELECT ");
        for (n, arg) in self.values.iter().take(self.names.len()).enumerate() {
            let kind = match arg {
                Arg::Text(_) | Arg::MaybeText(_) => "text",
                Arg::Int(_) | Arg::MaybeInt(_) => "bigint",
                Arg::Blob(_) => "bytea",
            };
            let comma = if n == 0 { "" } else { ", " };
            let place = first + n;
            let _ = match rows {
                Rows::One => write!(out, "{comma}${place}::{kind}"),
                // Not `SELECT * FROM UNNEST(all arrays)`, which writes each of them down as a table before it reads the
                // first row: a third of the time of an insertion.
                Rows::Many => write!(out, "{comma}UNNEST(${place}::{kind}[])"),
            };
        }
        let _ = write!(out, ") {}", self.statement);
    }

    /// For SQLite: a statement for each piece, and its values. Those of the rows that fill it up are missing: NULL.
    fn pieces(&self) -> impl Iterator<Item = (Arc<str>, &[Arg<'a>])> {
        let width = self.names.len();
        self.values.chunks(LONGEST * width).map(move |piece| {
            // A single row would be flattened into the statement, and a statement that compares parameters with the
            // conditions of partial indexes is prepared anew for each of their values.
            let filled = (piece.len() / width).next_power_of_two().max(2);
            (self.over_values(filled), piece)
        })
    }

    /// The statement over so many rows.
    fn over_values(&self, rows: usize) -> Arc<str> {
        let (names, words) = (self.names, self.statement);
        let at = [names.as_ptr() as usize, names.len(), words.as_ptr() as usize, words.len(), rows];
        let mut spelled = SPELLED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let text = spelled.entry(at).or_insert_with(|| {
            let all = format!("(?{}), ", ", ?".repeat(self.names.len() - 1)).repeat(rows);
            let (names, all) = (self.names.join(", "), all.trim_end_matches(", "));
            // A set's first column is its owner, so only a row that fills up has none.
            let rows = format!("SELECT * FROM (VALUES {all}) WHERE column1 IS NOT NULL");
            format!("WITH r ({names}) AS ({rows}) {}", or_fail(self.statement)).into()
        });
        Arc::clone(text)
    }
}

/// A statement for many rows writes down what it changes, to take back no more than that when one of them is refused. Here
/// nothing is kept of a transaction in which a statement failed, so that is spared.
fn or_fail(statement: &str) -> String {
    match statement.split_once(' ') {
        Some((word @ ("INSERT" | "UPDATE"), rest)) => format!("{word} OR FAIL {rest}"),
        _ => statement.to_owned(),
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

/// How many rows the sets of one statement have on PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// One each, or none: a parameter is a value.
    One,
    /// Any number: a parameter is an array.
    Many,
}

impl Rows {
    fn of<'s>(mut sets: impl Iterator<Item = &'s Set<'s>>) -> Rows {
        if sets.all(|set| set.len() <= 1) { Rows::One } else { Rows::Many }
    }
}

/// Binds a set's rows column by column. A column's type is that of its first value; all values of a column are of one
/// kind.
macro_rules! bind_columns {
    ($query:expr, $set:expr, $rows:expr) => {{
        let mut query = $query;
        let width = $set.names.len();
        for n in 0..$set.parameters() {
            if $rows == Rows::One {
                let value = &$set.values[n];
                query = match value {
                    Arg::Text(_) | Arg::MaybeText(_) => query.bind(text_of(value).map(without_nul)),
                    Arg::Int(_) | Arg::MaybeInt(_) => query.bind(int_of(value)),
                    Arg::Blob(_) => query.bind(blob_of(value)),
                };
                continue;
            }
            let column = $set.values.iter().skip(n).step_by(width);
            query = match $set.values[n] {
                Arg::Text(_) | Arg::MaybeText(_) => {
                    query.bind(column.map(|value| text_of(value).map(without_nul)).collect::<Vec<_>>())
                }
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
        self.count(if self.is_postgres() { 1 } else { sets.iter().map(Set::count_pieces).sum() });
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
        self.count(if self.is_postgres() { 1 } else { questions.iter().map(|q| q.set.count_pieces()).sum() });
        match &mut self.conn {
            Conn::Postgres(c, link) => ask_at_once(link, c, &questions, &mut answers).await,
            Conn::Sqlite(c) => ask_by_pieces(c, &questions, &mut answers).await,
        }?;
        self.has_answers();
        Ok(answers)
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
        self.count(if self.is_postgres() { 1 } else { set.count_pieces() });
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
    let rows = Rows::of(sets.iter());
    let mut sql = String::from("WITH ");
    let mut counts = String::new();
    let mut shortfall = String::new();
    let mut first = 1;
    for (n, set) in sets.iter().enumerate().filter(|(_, set)| !set.is_empty()) {
        let comma = if first == 1 { "" } else { ", " };
        let _ = write!(sql, "{comma}w{n} AS (");
        set.over_parameters(first, rows, &mut sql);
        sql.push_str(if set.holds_only || !set.is_counted(count_all) { ")" } else { " RETURNING 1)" });
        if set.is_counted(count_all) {
            let comma = if counts.is_empty() { "" } else { ", " };
            let _ = write!(counts, "{comma}(SELECT COUNT(*) FROM w{n})");
        }
        if set.is_exact {
            let also = if shortfall.is_empty() { "" } else { " AND " };
            let _ = match rows {
                Rows::One => write!(shortfall, "{also}(SELECT COUNT(*) FROM w{n}) = 1"),
                Rows::Many => write!(shortfall, "{also}(SELECT COUNT(*) FROM w{n}) = cardinality(${first})"),
            };
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
        query = bind_columns!(query, set, rows);
    }
    let row = link.answer(query.persistent(link.keeps_statements).fetch_one(c)).await?;
    let counted = sets.iter().zip(&mut touched).filter(|(set, _)| set.is_counted(count_all));
    for (column, (_, touched)) in counted.enumerate() {
        *touched = u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0);
    }
    Ok(touched)
}

/// All pieces of all sets, one after another.
async fn run_by_pieces(c: &mut Handle, sets: &[Set<'_>]) -> Result<Vec<u64>, StoreError> {
    let mut touched = vec![0; sets.len()];
    for (set, touched) in sets.iter().zip(&mut touched) {
        for (sql, values) in set.pieces() {
            *touched += c.run(&sql, values).await?;
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
    let rows = Rows::of(questions.iter().map(|q| &q.set));
    let (mut sql, mut parts) = (String::from("WITH "), String::new());
    let mut first = 1;
    for (n, Question { set, columns }) in questions.iter().enumerate().filter(|(_, q)| !q.set.is_empty()) {
        let (comma, union) = if first == 1 { ("", "") } else { (", ", " UNION ALL ") };
        let _ = write!(sql, "{comma}q{n} AS (");
        set.over_parameters(first, rows, &mut sql);
        sql.push(')');
        let texts = columns.replace(", ", "::text, ");
        let _ = write!(parts, "{union}SELECT {n} AS part, ARRAY[{texts}::text] AS cells FROM q{n}");
        first += set.parameters();
    }
    let _ = write!(sql, " {parts}");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for Question { set, .. } in questions.iter().filter(|q| !q.set.is_empty()) {
        query = bind_columns!(query, set, rows);
    }
    let mut found: Vec<Answer> = questions.iter().map(|q| Answer::new(names_of(q.columns))).collect();
    for row in link.answer(query.persistent(link.keeps_statements).fetch_all(c)).await? {
        let part = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or(usize::MAX);
        if let Some(answer) = found.get_mut(part) {
            answer.push_texts(row.try_get_raw(1)?.as_bytes().map_err(sqlx::Error::Decode)?)?;
        }
    }
    for (answer, found) in answers.iter_mut().zip(found) {
        *answer = found.rows();
    }
    Ok(())
}

/// All pieces of all questions, one after another.
async fn ask_by_pieces(c: &mut Handle, questions: &[Question<'_>], answers: &mut [Vec<Row>]) -> Result<(), StoreError> {
    for (Question { set, columns }, answer) in questions.iter().zip(answers).filter(|(q, _)| !q.set.is_empty()) {
        let mut found = Answer::new(names_of(columns));
        for (sql, values) in set.pieces() {
            c.ask(&sql, values, &mut found).await?;
        }
        *answer = found.rows();
    }
    Ok(())
}

async fn rows_at_once(link: &Link, c: &mut sqlx::PgConnection, set: &Set<'_>) -> Result<Vec<Row>, StoreError> {
    let rows = Rows::of(std::iter::once(set));
    let mut sql = String::new();
    set.over_parameters(1, rows, &mut sql);
    let query = bind_columns!(sqlx::query(AssertSqlSafe(sql)), set, rows).persistent(link.keeps_statements);
    let found = link.answer(query.fetch_all(c)).await?;
    Ok(found.into_iter().map(Row::Postgres).collect())
}

async fn rows_by_pieces(c: &mut Handle, set: &Set<'_>) -> Result<Vec<Row>, StoreError> {
    let mut rows = vec![];
    for (sql, values) in set.pieces() {
        rows.extend(c.rows(&sql, values, usize::MAX).await?);
    }
    Ok(rows)
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
    fn check_spelling(rows: i64, expect: &[(&str, usize)]) {
        let rows = (0..rows).map(|n| row!["mer_1", n]);
        let set = Set::new(&["merchant_id", "n"], rows, "SELECT n FROM r");
        let pieces: Vec<_> = set.pieces().collect();
        assert_eq!((pieces.len(), set.count_pieces()), (expect.len(), expect.len()));
        for ((sql, values), (rows, given)) in pieces.into_iter().zip(expect) {
            let with = "WITH r (merchant_id, n) AS (SELECT * FROM (VALUES";
            let owned = "WHERE column1 IS NOT NULL)";
            assert_eq!((&*sql, values.len()), (format!("{with} {rows}) {owned} SELECT n FROM r").as_str(), 2 * given));
        }
    }

    #[test]
    fn a_statement_is_spelled_for_each_engine() {
        let set = Set::new(&["merchant_id", "n"], [row!["mer_1", 2]], "SELECT * FROM r");
        let over_parameters = |set: &Set<'_>, rows| {
            let mut sql = String::new();
            set.over_parameters(4, rows, &mut sql);
            sql
        };
        assert_eq!(
            over_parameters(&set, Rows::Many),
            "WITH r (merchant_id, n) AS (SELECT UNNEST($4::text[]), UNNEST($5::bigint[])) SELECT * FROM r"
        );
        assert_eq!(
            over_parameters(&set, Rows::One),
            "WITH r (merchant_id, n) AS (SELECT $4::text, $5::bigint) SELECT * FROM r"
        );
        let (two, four) = ("(?, ?), (?, ?)", "(?, ?), (?, ?), (?, ?), (?, ?)");
        let long = format!("{}(?, ?)", "(?, ?), ".repeat(63));
        check_spelling(0, &[]);
        check_spelling(1, &[(two, 1)]);
        check_spelling(3, &[(four, 3)]);
        check_spelling(65, &[(&long, 64), (two, 1)]);
        let question = Set::new(&["of_merchant"], [], "SELECT 1 FROM r").asking("one").about("SELECT id FROM q0");
        for rows in [Rows::One, Rows::Many] {
            let sql = over_parameters(&question.set, rows);
            assert_eq!(sql, "WITH r (of_merchant) AS (SELECT id FROM q0) SELECT 1 FROM r");
        }
        assert_eq!(question.set.parameters(), 0);
    }
}
