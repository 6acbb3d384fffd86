//! Rows as they come from either engine: their values by name, or in the order of the columns.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

use super::dialect::StoreError;

/// One row; columns are read by name.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
    /// Texts and numbers only, with the names of the columns.
    Packed(Arc<[&'static str]>, Vec<Cell>),
}

/// A value of a packed row; PostgreSQL's numbers are texts there.
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
}

impl<'de> serde::Deserialize<'de> for Cell {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneCell;
        impl serde::de::Visitor<'_> for OneCell {
            type Value = Cell;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("null, a whole number or a text")
            }
            fn visit_unit<E>(self) -> Result<Cell, E> {
                Ok(Cell::Null)
            }
            fn visit_i64<E>(self, v: i64) -> Result<Cell, E> {
                Ok(Cell::Int(v))
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Cell, E> {
                i64::try_from(v).map(Cell::Int).map_err(E::custom)
            }
            fn visit_str<E>(self, v: &str) -> Result<Cell, E> {
                Ok(Cell::Text(v.to_owned()))
            }
        }
        deserializer.deserialize_any(OneCell)
    }
}

impl Cell {
    /// A text, or what it is instead.
    fn text(&self) -> Result<Option<&str>, &'static str> {
        match self {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            Cell::Int(_) => Err("a number"),
        }
    }

    /// A number, or what it is instead.
    fn int(&self) -> Result<Option<i64>, &'static str> {
        match self {
            Cell::Null => Ok(None),
            Cell::Int(int) => Ok(Some(*int)),
            Cell::Text(text) => text.parse().map(Some).map_err(|_| "no number"),
        }
    }
}

fn named<'a>(names: &[&str], cells: &'a [Cell], name: &str) -> Result<&'a Cell, StoreError> {
    let place = names.iter().position(|known| *known == name);
    place.and_then(|n| cells.get(n)).ok_or_else(|| unreadable(name, "no such column"))
}

fn unreadable(column: impl std::fmt::Display, why: &str) -> StoreError {
    StoreError::Unreadable(format!("{column}: {why}"))
}

/// The values of one row in the order of its columns; texts are borrowed from the row.
pub(super) struct Cells<'r> {
    row: &'r Row,
    at: usize,
}

impl<'r> Cells<'r> {
    pub(super) fn maybe_text(&mut self) -> Result<Option<&'r str>, StoreError> {
        let at = self.next();
        match self.row {
            Row::Sqlite(row) => Ok(row.try_get(at)?),
            Row::Postgres(row) => Ok(row.try_get(at)?),
            Row::Packed(_, cells) => packed(cells, at)?.text().map_err(|why| unreadable(at, why)),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'r str, StoreError> {
        self.maybe_text()?.ok_or_else(|| unreadable(self.at - 1, "NULL"))
    }

    pub(super) fn maybe_int(&mut self) -> Result<Option<i64>, StoreError> {
        let at = self.next();
        match self.row {
            Row::Sqlite(row) => Ok(row.try_get(at)?),
            Row::Postgres(row) => Ok(row.try_get(at)?),
            Row::Packed(_, cells) => packed(cells, at)?.int().map_err(|why| unreadable(at, why)),
        }
    }

    pub(super) fn int(&mut self) -> Result<i64, StoreError> {
        self.maybe_int()?.ok_or_else(|| unreadable(self.at - 1, "NULL"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.int()? != 0)
    }

    fn next(&mut self) -> usize {
        self.at += 1;
        self.at - 1
    }
}

fn packed(cells: &[Cell], at: usize) -> Result<&Cell, StoreError> {
    cells.get(at).ok_or_else(|| unreadable(at, "no such column"))
}

impl Row {
    /// Its values, one after another.
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells { row: self, at: 0 }
    }

    /// A row that came as one JSON array.
    pub(super) fn packed(names: &Arc<[&'static str]>, json: &str) -> Result<Row, StoreError> {
        let cells = serde_json::from_str(json).map_err(|e| StoreError::Unreadable(format!("a packed row: {e}")))?;
        Ok(Row::Packed(Arc::clone(names), cells))
    }

    pub(super) fn text(&self, name: &str) -> Result<String, StoreError> {
        self.maybe_text(name)?.ok_or_else(|| StoreError::Unreadable(format!("{name}: NULL")))
    }

    pub(super) fn maybe_text(&self, name: &str) -> Result<Option<String>, StoreError> {
        match self {
            Row::Sqlite(row) => Ok(row.try_get(name)?),
            Row::Postgres(row) => Ok(row.try_get(name)?),
            Row::Packed(names, cells) => {
                let text = named(names, cells, name)?.text().map_err(|why| unreadable(name, why))?;
                Ok(text.map(str::to_owned))
            }
        }
    }

    pub(super) fn int(&self, name: &str) -> Result<i64, StoreError> {
        self.maybe_int(name)?.ok_or_else(|| StoreError::Unreadable(format!("{name}: NULL")))
    }

    pub(super) fn maybe_int(&self, name: &str) -> Result<Option<i64>, StoreError> {
        match self {
            Row::Sqlite(row) => Ok(row.try_get(name)?),
            Row::Postgres(row) => Ok(row.try_get(name)?),
            Row::Packed(names, cells) => named(names, cells, name)?.int().map_err(|why| unreadable(name, why)),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.int(name)? != 0)
    }

    pub(super) fn blob(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.maybe_blob(name)?.ok_or_else(|| StoreError::Unreadable(format!("{name}: NULL")))
    }

    pub(super) fn maybe_blob(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Row::Sqlite(row) => Ok(row.try_get(name)?),
            Row::Postgres(row) => Ok(row.try_get(name)?),
            Row::Packed(..) => Err(unreadable(name, "bytes are not packed")),
        }
    }

    /// A column that holds JSON of ours.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(name)?).map_err(|e| StoreError::Unreadable(format!("{name}: {e}")))
    }

    /// A column that holds one of our words.
    pub(super) fn word<T: std::str::FromStr>(&self, name: &str) -> Result<T, StoreError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| StoreError::Unreadable(format!("{name}: unknown word {text:?}")))
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

/// A column that holds JSON of ours, or nothing.
pub(super) fn maybe_json<T: serde::de::DeserializeOwned>(r: &Row, name: &str) -> Result<Option<T>, StoreError> {
    match r.maybe_text(name)? {
        None => Ok(None),
        Some(text) => serde_json::from_str(&text).map(Some).map_err(|e| StoreError::Unreadable(format!("{name}: {e}"))),
    }
}
