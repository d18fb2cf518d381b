//! What CubeCL calls of the crate of this name, over SQLite, whose files are the same.
//!
//! Kernels that were compiled and candidates that were tuned are kept in a file, so that the next process neither
//! compiles nor tunes again. The crate itself is a database engine of 75 crates that asks for libclang at build time.
//! Its calls are futures; here the work is done when they are first polled.

use rusqlite::types::{FromSql, Value};
use rusqlite::{ErrorCode, OpenFlags, Params};
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone)]
pub enum Error {
    Busy(String),
    BusySnapshot(String),
    IoError(std::io::ErrorKind, &'static str),
    Error(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::IoError(kind, doing) => write!(f, "{doing}: {kind}"),
            Error::Busy(text) | Error::BusySnapshot(text) | Error::Error(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy(error.to_string()),
            _ => Error::Error(error.to_string()),
        }
    }
}

/// How a file is opened.
#[derive(Debug)]
pub struct Builder {
    path: String,
    read_only: bool,
}

impl Builder {
    pub fn new_local(path: &str) -> Self {
        Self { path: path.into(), read_only: false }
    }

    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// SQLite can, always.
    pub fn experimental_multiprocess_wal(self, _: bool) -> Self {
        self
    }

    /// SQLite can, always.
    pub fn experimental_vacuum(self, _: bool) -> Self {
        self
    }

    pub async fn build(self) -> Result<Database> {
        let database = Database(self);
        // A file that cannot be opened is refused here.
        database.connect()?;
        Ok(database)
    }
}

#[derive(Debug)]
pub struct Database(Builder);

impl Database {
    pub fn connect(&self) -> Result<Connection> {
        let Builder { path, read_only } = &self.0;
        let connection = if *read_only {
            rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?
        } else {
            rusqlite::Connection::open(path)?
        };
        connection.busy_timeout(Duration::from_secs(5))?;
        if !read_only {
            connection.pragma_update(None, "journal_mode", "wal")?;
        }
        Ok(Connection(connection))
    }
}

pub struct Connection(rusqlite::Connection);

impl Connection {
    pub fn busy_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(self.0.busy_timeout(timeout)?)
    }

    /// The number of rows that changed.
    pub async fn execute(&self, sql: &str, params: impl Params) -> Result<u64> {
        Ok(self.0.execute(sql, params)? as u64)
    }

    pub async fn query(&self, sql: &str, params: impl Params) -> Result<Rows> {
        self.rows(sql, params)
    }

    pub async fn pragma_query(&self, pragma: &str, each: impl FnMut(&Row) -> Result<()>) -> Result<()> {
        self.rows(&format!("PRAGMA {pragma}"), ())?.0.as_slice().iter().try_for_each(each)
    }

    pub async fn transaction_with_behavior(
        &mut self,
        behavior: transaction::TransactionBehavior,
    ) -> Result<transaction::Transaction<'_>> {
        transaction::Transaction::begin(self, behavior)
    }

    fn rows(&self, sql: &str, params: impl Params) -> Result<Rows> {
        let mut statement = self.0.prepare(sql)?;
        let columns = statement.column_count();
        let rows = statement.query_map(params, |row| (0..columns).map(|column| row.get(column)).collect())?;
        Ok(Rows(rows.map(|row| row.map(Row)).collect::<rusqlite::Result<Vec<_>>>()?.into_iter()))
    }
}

pub struct Rows(std::vec::IntoIter<Row>);

impl Rows {
    pub async fn next(&mut self) -> Result<Option<Row>> {
        Ok(self.0.next())
    }
}

pub struct Row(Vec<Value>);

impl Row {
    pub fn get<T: FromSql>(&self, column: usize) -> Result<T> {
        let value = self.0.get(column).ok_or_else(|| Error::Error(format!("no column {column}")))?;
        T::column_result(value.into()).map_err(|error| Error::Error(format!("column {column}: {error}")))
    }
}

pub mod transaction {
    use super::{Connection, Result};

    #[derive(Debug, Clone, Copy)]
    pub enum TransactionBehavior {
        Deferred,
        Immediate,
    }

    /// Undone unless it is committed.
    pub struct Transaction<'a> {
        connection: &'a Connection,
        open: bool,
    }

    impl<'a> Transaction<'a> {
        pub(super) fn begin(connection: &'a Connection, behavior: TransactionBehavior) -> Result<Self> {
            connection.0.execute_batch(match behavior {
                TransactionBehavior::Deferred => "BEGIN DEFERRED",
                TransactionBehavior::Immediate => "BEGIN IMMEDIATE",
            })?;
            Ok(Self { connection, open: true })
        }

        pub async fn commit(mut self) -> Result<()> {
            self.connection.0.execute_batch("COMMIT")?;
            self.open = false;
            Ok(())
        }
    }

    impl std::ops::Deref for Transaction<'_> {
        type Target = Connection;

        fn deref(&self) -> &Connection {
            self.connection
        }
    }

    impl Drop for Transaction<'_> {
        fn drop(&mut self) {
            if self.open {
                // What cannot be undone now is when the connection closes.
                let _ = self.connection.0.execute_batch("ROLLBACK");
            }
        }
    }
}
