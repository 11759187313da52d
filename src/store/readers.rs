//! The pool of read-only connections. Every read sees one consistent snapshot.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::domain::Result;

/// Read-only connections, handed out one caller at a time.
#[derive(Debug)]
pub(super) struct Readers {
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Debug)]
struct Pool {
    idle: Vec<Connection>,
    /// Callers that wait for a connection. Nobody does as a rule, and a notification is a system call.
    waiting: usize,
}

impl Readers {
    pub(super) fn new(connections: Vec<Connection>) -> Self {
        Self {
            pool: Mutex::new(Pool {
                idle: connections,
                waiting: 0,
            }),
            returned: Condvar::new(),
        }
    }

    /// Runs `read` on one consistent snapshot.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.with(|connection| {
            let snapshot = Snapshot::begin(connection)?;
            let value = read(connection);
            snapshot.end()?;
            value
        })
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> T) -> T {
        let lease = Lease {
            readers: self,
            connection: Some(self.take()),
        };
        read(
            lease
                .connection
                .as_ref()
                .expect("a lease holds its connection until it is dropped"),
        )
    }

    fn take(&self) -> Connection {
        let mut pool = self.pool();
        loop {
            if let Some(connection) = pool.idle.pop() {
                return connection;
            }
            pool.waiting += 1;
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
            pool.waiting -= 1;
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the connection to the pool, even when the read panics.
struct Lease<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let mut pool = self.readers.pool();
            pool.idle.push(connection);
            if pool.waiting > 0 {
                self.readers.returned.notify_one();
            }
        }
    }
}

/// A read transaction. `BEGIN` and `COMMIT` come from the statement cache: parsing them each time would cost as
/// much as a look-up.
struct Snapshot<'a>(&'a Connection);

impl<'a> Snapshot<'a> {
    fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(connection))
    }

    /// Ends the transaction. A read has nothing to commit, but this releases the snapshot for the checkpointer.
    fn end(self) -> rusqlite::Result<()> {
        self.0.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // Reached only after a panic: a connection must not return to the pool with a snapshot open.
        if !self.0.is_autocommit() {
            self.0.execute_batch("ROLLBACK").ok();
        }
    }
}
