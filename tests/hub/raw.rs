//! The database of a hub, past the store: for looking at plans, catalogues and rows that the store has no method for.

use grosz::app::App;
use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

/// One connection beside the hub's own.
pub enum Raw {
    /// To the hub's file.
    Sqlite(SqlitePool),
    /// To the hub's database.
    Postgres(PgPool),
}

impl Raw {
    /// Beside this hub.
    pub async fn of(app: &App) -> Raw {
        Raw::at(&app.config.database_url.0).await
    }

    /// At this address.
    pub async fn at(url: &str) -> Raw {
        if url.starts_with("postgres") {
            let pool = PgPoolOptions::new().max_connections(1).connect(url).await.expect("the cluster answers");
            return Raw::Postgres(pool);
        }
        Raw::Sqlite(SqlitePool::connect(url).await.expect("the file opens"))
    }

    /// True on PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        matches!(self, Raw::Postgres(_))
    }

    /// Runs statements.
    #[track_caller]
    pub fn run(&self, sql: impl Into<String>) -> impl Future<Output = ()> {
        let sql = sql.into();
        async move { self.try_run(&sql).await.unwrap_or_else(|e| panic!("{e}\n{sql}")) }
    }

    /// Runs statements that may be refused.
    pub async fn try_run(&self, sql: &str) -> Result<(), sqlx::Error> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Raw::Sqlite(pool) => query.execute(pool).await.map(|_| ()),
            Raw::Postgres(pool) => query.execute(pool).await.map(|_| ()),
        }
    }

    /// The rows of a query, each column as text.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Raw::Sqlite(pool) => {
                query.fetch_all(pool).await.unwrap_or_else(|e| panic!("{e}\n{sql}")).iter().map(sqlite_texts).collect()
            }
            Raw::Postgres(pool) => query
                .fetch_all(pool)
                .await
                .unwrap_or_else(|e| panic!("{e}\n{sql}"))
                .iter()
                .map(postgres_texts)
                .collect(),
        }
    }

    /// The first column of a query's rows.
    pub async fn column(&self, sql: &str) -> Vec<String> {
        self.rows(sql).await.into_iter().map(|mut row| row.remove(0)).collect()
    }

    /// A query's one number.
    pub async fn number(&self, sql: &str) -> i64 {
        self.column(sql).await[0].parse().unwrap_or_else(|e| panic!("{e}\n{sql}"))
    }
}

fn sqlite_texts(row: &SqliteRow) -> Vec<String> {
    (0..row.len())
        .map(|n| match row.try_get_unchecked::<Option<String>, _>(n) {
            Ok(text) => text.unwrap_or_default(),
            Err(_) => row.get_unchecked::<i64, _>(n).to_string(),
        })
        .collect()
}

/// Answers to plain text queries are text already.
fn postgres_texts(row: &PgRow) -> Vec<String> {
    (0..row.len())
        .map(|n| row.try_get_raw(n).ok().and_then(|v| v.as_str().ok().map(str::to_owned)).unwrap_or_default())
        .collect()
}
