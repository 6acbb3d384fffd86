//! Rows as they come from either engine: their values by name, or in the order of the columns.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::dialect::StoreError;

/// One row; columns are read by name.
pub(super) enum Row {
    Postgres(PgRow),
    /// A row of an answer, and which of its values is the first.
    Copied(Arc<Answer>, usize),
}

/// The names of an answer's columns.
pub(super) type Names = Arc<[Cow<'static, str>]>;

/// Names of columns from `merchant_id, id`.
pub(super) fn names_of(columns: &'static str) -> Names {
    columns.split(", ").map(Cow::Borrowed).collect()
}

/// The values of some rows, copied one after another: a few pieces of memory however many there are.
pub(super) struct Answer {
    names: Names,
    cells: Vec<Cell>,
    texts: String,
    blobs: Vec<u8>,
}

/// A value, or where it stands.
enum Cell {
    Null,
    Int(i64),
    Text(Range<u32>),
    Blob(Range<u32>),
}

impl Answer {
    pub(super) fn new(names: Names) -> Answer {
        Answer { names, cells: vec![], texts: String::new(), blobs: vec![] }
    }

    /// Adds the next value, from SQLite.
    pub(super) fn push(&mut self, value: ValueRef<'_>) -> Result<(), StoreError> {
        let cell = match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(int) => Cell::Int(int),
            ValueRef::Text(text) => return self.push_text(text),
            ValueRef::Blob(blob) => {
                let start = place(self.blobs.len())?;
                self.blobs.extend_from_slice(blob);
                Cell::Blob(start..place(self.blobs.len())?)
            }
            ValueRef::Real(_) => return Err(StoreError::Unreadable("a number with a fraction".into())),
        };
        self.cells.push(cell);
        Ok(())
    }

    fn push_text(&mut self, text: &[u8]) -> Result<(), StoreError> {
        let text = std::str::from_utf8(text).map_err(|e| StoreError::Unreadable(format!("a text: {e}")))?;
        let start = place(self.texts.len())?;
        self.texts.push_str(text);
        self.cells.push(Cell::Text(start..place(self.texts.len())?));
        Ok(())
    }

    /// Adds a row that PostgreSQL answered as one `text[]`, in the protocol's binary form: the number of dimensions, a flag,
    /// the elements' type, length and lower bound of each dimension, then each element behind its length, -1 for NULL
    /// (PostgreSQL's `array_send`). Numbers are texts there.
    pub(super) fn push_texts(&mut self, array: &[u8]) -> Result<(), StoreError> {
        let broken = || StoreError::Unreadable("a row that is no array of texts".into());
        let mut rest = array;
        let mut take = |count: usize| -> Result<&[u8], StoreError> {
            let (taken, after) = rest.split_at_checked(count).ok_or_else(broken)?;
            rest = after;
            Ok(taken)
        };
        let int = |bytes: &[u8]| bytes.try_into().map(i32::from_be_bytes).map_err(|_| broken());
        if int(take(4)?)? != 1 {
            return Err(broken());
        }
        take(8)?;
        let count = int(take(4)?)?;
        take(4)?;
        for _ in 0..count {
            match usize::try_from(int(take(4)?)?) {
                Ok(length) => self.push_text(take(length)?)?,
                Err(_) => self.cells.push(Cell::Null),
            }
        }
        Ok(())
    }

    /// The rows, each of as many values as there are names.
    pub(super) fn rows(self) -> Vec<Row> {
        let (width, cells) = (self.names.len().max(1), self.cells.len());
        let all = Arc::new(self);
        (0..cells / width).map(|n| Row::Copied(Arc::clone(&all), n * width)).collect()
    }

    fn at(&self, first: usize, place: usize) -> Option<&Cell> {
        if place < self.names.len() { self.cells.get(first + place) } else { None }
    }

    fn named(&self, first: usize, name: &str) -> Result<&Cell, StoreError> {
        let place = self.names.iter().position(|known| known == name);
        place.and_then(|place| self.at(first, place)).ok_or_else(|| unreadable(name, "no such column"))
    }

    /// A text, or what it is instead.
    fn text(&self, cell: &Cell) -> Result<Option<&str>, &'static str> {
        match cell {
            Cell::Null => Ok(None),
            Cell::Text(at) => self.texts.get(at.start as usize..at.end as usize).map(Some).ok_or("a text that is gone"),
            Cell::Int(_) => Err("a number"),
            Cell::Blob(_) => Err("bytes"),
        }
    }

    /// A number, or what it is instead.
    fn int(&self, cell: &Cell) -> Result<Option<i64>, &'static str> {
        match cell {
            Cell::Int(int) => Ok(Some(*int)),
            Cell::Blob(_) => Err("bytes"),
            Cell::Null | Cell::Text(_) => {
                self.text(cell)?.map(|text| text.parse().map_err(|_| "no number")).transpose()
            }
        }
    }

    /// Bytes, or what it is instead.
    fn blob(&self, cell: &Cell) -> Result<Option<&[u8]>, &'static str> {
        match cell {
            Cell::Null => Ok(None),
            Cell::Blob(at) => self.blobs.get(at.start as usize..at.end as usize).map(Some).ok_or("bytes that are gone"),
            Cell::Text(_) => Err("a text"),
            Cell::Int(_) => Err("a number"),
        }
    }
}

fn place(length: usize) -> Result<u32, StoreError> {
    u32::try_from(length).map_err(|_| StoreError::Unreadable("an answer of more than 4 GiB".into()))
}

fn unreadable(column: impl std::fmt::Display, why: &str) -> StoreError {
    StoreError::Unreadable(format!("{column}: {why}"))
}

/// The values of one row in the order of its columns; texts are borrowed from the row. Of PostgreSQL's values the driver
/// is not asked whether their columns are of that type: a number of another width is refused when it is read.
pub(super) struct Cells<'r> {
    row: &'r Row,
    at: usize,
}

impl<'r> Cells<'r> {
    pub(super) fn maybe_text(&mut self) -> Result<Option<&'r str>, StoreError> {
        let at = self.next();
        match self.row {
            Row::Postgres(row) => Ok(row.try_get_unchecked(at)?),
            Row::Copied(all, first) => {
                let cell = all.at(*first, at).ok_or_else(|| unreadable(at, "no such column"))?;
                all.text(cell).map_err(|why| unreadable(at, why))
            }
        }
    }

    pub(super) fn text(&mut self) -> Result<&'r str, StoreError> {
        self.maybe_text()?.ok_or_else(|| unreadable(self.at - 1, "NULL"))
    }

    pub(super) fn maybe_int(&mut self) -> Result<Option<i64>, StoreError> {
        let at = self.next();
        match self.row {
            Row::Postgres(row) => Ok(row.try_get_unchecked(at)?),
            Row::Copied(all, first) => {
                let cell = all.at(*first, at).ok_or_else(|| unreadable(at, "no such column"))?;
                all.int(cell).map_err(|why| unreadable(at, why))
            }
        }
    }

    pub(super) fn int(&mut self) -> Result<i64, StoreError> {
        self.maybe_int()?.ok_or_else(|| self.unreadable("NULL"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.int()? != 0)
    }

    pub(super) fn own_text(&mut self) -> Result<String, StoreError> {
        self.text().map(str::to_owned)
    }

    pub(super) fn maybe_own_text(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.maybe_text()?.map(str::to_owned))
    }

    /// JSON of ours, or nothing.
    pub(super) fn maybe_json<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, StoreError> {
        let Some(text) = self.maybe_text()? else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|e| self.unreadable(&e.to_string()))
    }

    /// One of our words.
    pub(super) fn word<T: std::str::FromStr>(&mut self) -> Result<T, StoreError> {
        let text = self.text()?;
        text.parse().map_err(|_| self.unreadable(&format!("unknown word {text:?}")))
    }

    /// An amount and behind it its currency.
    pub(super) fn money(&mut self) -> Result<grosz_providers::Money, StoreError> {
        let amount = self.int()?;
        Ok(grosz_providers::Money::new(amount, self.word()?))
    }

    fn next(&mut self) -> usize {
        self.at += 1;
        self.at - 1
    }

    /// About the value that was read last.
    fn unreadable(&self, why: &str) -> StoreError {
        unreadable(format_args!("column {}", self.at), why)
    }
}

impl Row {
    /// Its values, one after another.
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells { row: self, at: 0 }
    }

    /// The number in its first column, such as a count; 0 for NULL.
    pub(super) fn first_int(&self) -> Result<i64, StoreError> {
        Ok(self.cells().maybe_int()?.unwrap_or(0))
    }

    pub(super) fn text(&self, name: &str) -> Result<String, StoreError> {
        self.maybe_text(name)?.ok_or_else(|| unreadable(name, "NULL"))
    }

    pub(super) fn maybe_text(&self, name: &str) -> Result<Option<String>, StoreError> {
        match self {
            Row::Postgres(row) => Ok(row.try_get(name)?),
            Row::Copied(all, first) => {
                let text = all.text(all.named(*first, name)?).map_err(|why| unreadable(name, why))?;
                Ok(text.map(str::to_owned))
            }
        }
    }

    pub(super) fn int(&self, name: &str) -> Result<i64, StoreError> {
        self.maybe_int(name)?.ok_or_else(|| unreadable(name, "NULL"))
    }

    pub(super) fn maybe_int(&self, name: &str) -> Result<Option<i64>, StoreError> {
        match self {
            Row::Postgres(row) => Ok(row.try_get(name)?),
            Row::Copied(all, first) => all.int(all.named(*first, name)?).map_err(|why| unreadable(name, why)),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.int(name)? != 0)
    }

    pub(super) fn blob(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.maybe_blob(name)?.ok_or_else(|| unreadable(name, "NULL"))
    }

    pub(super) fn maybe_blob(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Row::Postgres(row) => Ok(row.try_get(name)?),
            Row::Copied(all, first) => {
                let blob = all.blob(all.named(*first, name)?).map_err(|why| unreadable(name, why))?;
                Ok(blob.map(<[u8]>::to_vec))
            }
        }
    }

    /// A column that holds JSON of ours.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(name)?).map_err(|e| unreadable(name, &e.to_string()))
    }

    /// A column that holds one of our words.
    pub(super) fn word<T: std::str::FromStr>(&self, name: &str) -> Result<T, StoreError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| unreadable(name, &format!("unknown word {text:?}")))
    }

    /// An amount with its currency, from the columns `amount` and `currency`.
    pub(super) fn money(&self) -> Result<grosz_providers::Money, StoreError> {
        let currency = self.text("currency")?;
        let currency = currency.parse().map_err(|_| StoreError::Unreadable("currency".into()))?;
        Ok(grosz_providers::Money::new(self.int("amount")?, currency))
    }
}

/// JSON text of a value of ours.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Unreadable(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL 15's `SELECT ARRAY['pay_1', NULL, '7']::text[]` in binary.
    const ARRAY: &[u8] =
        b"\0\0\0\x01\0\0\0\x01\0\0\0\x19\0\0\0\x03\0\0\0\x01\0\0\0\x05pay_1\xff\xff\xff\xff\0\0\0\x017";

    #[test]
    fn an_array_is_a_row() {
        let mut answer = Answer::new(names_of("id, case_id, amount"));
        answer.push_texts(ARRAY).unwrap();
        answer.push_texts(ARRAY).unwrap();
        for row in answer.rows() {
            assert_eq!(row.text("id").unwrap(), "pay_1");
            assert_eq!(row.maybe_text("case_id").unwrap(), None);
            assert_eq!((row.int("amount").unwrap(), row.text("amount").unwrap().as_str()), (7, "7"));
            assert!(row.int("id").is_err() && row.text("case_id").is_err() && row.text("status").is_err());
        }
        for length in 0..ARRAY.len() {
            assert!(Answer::new(names_of("id")).push_texts(&ARRAY[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn each_value_is_read_as_what_it_is() {
        let mut answer = Answer::new(names_of("id, amount, body, case_id"));
        for value in [ValueRef::Text(b"pay_1"), ValueRef::Integer(7), ValueRef::Blob(&[0, 255]), ValueRef::Null] {
            answer.push(value).unwrap();
        }
        assert!(answer.push(ValueRef::Text(&[255])).is_err() && answer.push(ValueRef::Real(0.5)).is_err());
        let [row] = answer.rows().try_into().ok().unwrap();
        assert_eq!(row.blob("body").unwrap(), [0, 255]);
        assert_eq!((row.maybe_blob("case_id").unwrap(), row.maybe_int("case_id").unwrap()), (None, None));
        assert!(row.blob("id").is_err() && row.text("body").is_err() && row.int("body").is_err());
        let mut cells = row.cells();
        assert_eq!((cells.text().unwrap(), cells.maybe_int().unwrap()), ("pay_1", Some(7)));
        assert!(cells.maybe_int().is_err() && cells.maybe_text().unwrap().is_none() && cells.maybe_text().is_err());
    }
}
