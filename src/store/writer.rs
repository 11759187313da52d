//! The single writer: a thread that owns the write connection and commits waiting changes in groups.
//!
//! A group runs without savepoints, which would cost 12–18 %. If a change fails after writing something,
//! the whole group is rolled back and run again with a savepoint per change. A change that fails before
//! writing has nothing to undo and costs the others nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::sync::oneshot;

use super::invalidation::{Commits, Touched};
use super::places::Places;
use super::turns::Party;
use super::{begin, checkpointer, open_connection};
use crate::domain::{Error, Result};

/// Default maximum number of waiting changes; one more fails with [`Error::Busy`].
pub const QUEUE_LENGTH: usize = 1024;
/// Maximum number of changes per commit; bounds how long the first waits for the last.
const GROUP_SIZE: usize = 256;

/// Counters of the writer since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Number of commits.
    pub commits: u64,
    /// Number of changes in those commits.
    pub changes: u64,
    /// Number of groups that had to be run again with savepoints.
    pub redone: u64,
    /// Number of changes waiting now.
    pub waiting: u64,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    changes: AtomicU64,
    redone: AtomicU64,
    failing: AtomicBool,
}

/// On whose behalf a change runs, and whose standing it may alter.
#[derive(Clone, Debug)]
pub struct WriteTerms {
    /// The party whose share of the queue it uses.
    pub party: Party,
    /// The users whose standing it may alter.
    pub touched: Touched,
}

impl WriteTerms {
    /// Terms of the node's own changes, which may alter anyone's standing.
    pub(super) const NODE: Self = Self {
        party: None,
        touched: Touched::Everybody,
    };
}

/// State shared by the writer thread and callers.
#[derive(Debug)]
struct Shared {
    counters: Counters,
    places: Places,
    commits: Commits,
}

#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<SyncSender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        committed: checkpointer::Signal,
        queue_length: usize,
    ) -> Self {
        let (queue, waiting) = sync_channel(queue_length);
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            places: Places::new(queue_length),
            commits: Commits::default(),
        });
        let work = GroupCommit {
            gate: Gate::on(&connection).expect("the connection was opened here"),
            connection,
            committed,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || work.run(&waiting))
            .expect("the operating system gives the writer a thread");
        Self {
            queue: Some(queue),
            thread: Some(thread),
            shared,
        }
    }

    pub(super) fn submit<T: Send + 'static>(
        &self,
        terms: WriteTerms,
        change: impl FnMut(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T>>> {
        let (reply, answer) = oneshot::channel();
        if !self.shared.places.take(terms.party) {
            return Err(self.full());
        }
        let party = terms.party;
        let job = Box::new(Change {
            terms,
            change,
            result: None,
            reply,
        });
        let queue = self
            .queue
            .as_ref()
            .expect("the queue is open until the writer is dropped");
        queue.try_send(job).map_err(|error| {
            self.shared.places.give_back(std::iter::once(party));
            match error {
                TrySendError::Full(_) => self.full(),
                TrySendError::Disconnected(_) => Error::Internal("the writer ended".into()),
            }
        })?;
        Ok(answer)
    }

    fn full(&self) -> Error {
        let retry_after_secs = 1;
        if self.is_failing() {
            return Error::Unwritable { retry_after_secs };
        }
        Error::Busy { retry_after_secs }
    }

    pub(super) fn generation(&self) -> u64 {
        self.shared.commits.generation()
    }

    pub(super) fn touched_since(&self, generation: u64) -> (u64, Touched) {
        self.shared.commits.since(generation)
    }

    pub(super) fn is_failing(&self) -> bool {
        self.shared.counters.failing.load(Ordering::Relaxed)
    }

    pub(super) fn recovered(&self) {
        self.shared.counters.failing.store(false, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> WriterStats {
        let Shared { counters, places, .. } = &*self.shared;
        WriterStats {
            commits: counters.commits.load(Ordering::Relaxed),
            changes: counters.changes.load(Ordering::Relaxed),
            redone: counters.redone.load(Ordering::Relaxed),
            waiting: places.taken_count() as u64,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing the queue ends the thread once it has drained.
        self.queue.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer thread panicked");
        }
    }
}

/// A queued change, with its result type erased; only the waiting caller knows it.
trait Job: Send {
    fn terms(&self) -> &WriteTerms;
    /// Runs the change and stores its result. Returns whether it succeeded.
    fn run(&mut self, tx: &Transaction<'_>) -> bool;
    /// Sends the caller the stored result if the commit succeeded, the commit's error otherwise.
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Change<T, F> {
    terms: WriteTerms,
    change: F,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&Transaction<'_>) -> Result<T> + Send> Job for Change<T, F> {
    fn terms(&self) -> &WriteTerms {
        &self.terms
    }

    fn run(&mut self, tx: &Transaction<'_>) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| (self.change)(tx)))
            .unwrap_or_else(|_| Err(Error::Internal("a change panicked".into())));
        let succeeded = result.is_ok();
        self.result = Some(result);
        succeeded
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let result = match (self.result, committed) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(Error::Internal("a change was not run".into())),
        };
        // The caller may have gone away; the change is committed nevertheless.
        let _ = self.reply.send(result);
    }
}

struct GroupCommit {
    connection: Connection,
    gate: Gate,
    committed: checkpointer::Signal,
    shared: Arc<Shared>,
}

impl GroupCommit {
    fn run(mut self, waiting: &Receiver<Box<dyn Job>>) {
        let shared = Arc::clone(&self.shared);
        let Shared {
            counters,
            places,
            commits,
        } = &*shared;
        while let Ok(first) = waiting.recv() {
            let mut group = vec![first];
            group.extend(waiting.try_iter().take(GROUP_SIZE - 1));
            places.give_back(group.iter().map(|job| job.terms().party));
            let before = self.connection.total_changes();
            let committed = self.commit(&mut group);
            // A group that changed nothing invalidates no cache and proves nothing about the disk.
            if committed.is_err() || self.connection.total_changes() != before {
                // Must precede the answers: a caller may read right after its own.
                commits.note(touched(&group, committed.is_ok()));
                counters.failing.store(committed.is_err(), Ordering::Relaxed);
            }
            if committed.is_ok() {
                counters.commits.fetch_add(1, Ordering::Relaxed);
                counters.changes.fetch_add(group.len() as u64, Ordering::Relaxed);
                self.committed.notify();
            }
            for job in group {
                job.answer(committed.clone());
            }
            self.committed.start_over_if_due(&self.connection);
        }
    }

    fn commit(&mut self, group: &mut [Box<dyn Job>]) -> Result<()> {
        let mut tx = begin(&mut self.connection)?;
        if !run_together(&tx, group) {
            drop(tx); // rolls back, unless SQLite already has
            self.shared.counters.redone.fetch_add(1, Ordering::Relaxed);
            tx = begin(&mut self.connection)?;
            for job in group.iter_mut() {
                run_alone(&mut tx, job.as_mut())?;
            }
        }
        let committed = self.gate.commit(tx);
        if committed.is_err()
            && let Err(error) = self.overwrite_refused()
        {
            // Most likely, the commit could not be written to its end either.
            tracing::debug!(%error, "could not overwrite what a failed commit may have left in the WAL");
        }
        Ok(committed?)
    }

    /// Overwrites what a failed commit may have left in the WAL. If its frames were written and only the sync failed,
    /// SQLite forgets the change but leaves them in the file. The next start would find them complete and take them
    /// for committed, although the callers are told that nothing has been changed.
    ///
    /// The next commit, whatever it holds, takes the place of the first of them and so breaks the chain of checksums
    /// (SQLite's file format, §4.2), or begins the WAL anew with another salt. It is made here, since nobody knows
    /// when the next caller comes, and without syncs, which fail now and may come before the frame is written; nobody
    /// relies on what it changes. This serves a process that ends; what a disk that failed keeps when the machine
    /// goes down, nobody knows.
    fn overwrite_refused(&self) -> rusqlite::Result<()> {
        let path = Path::new(self.connection.path().unwrap_or_default());
        // A connection of its own: that of the writer must never be without syncs (invariant 2).
        let unsynced = open_connection(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        unsynced.pragma_update(None, "synchronous", "OFF")?;
        rewrite_page(&unsynced)
    }
}

/// Rewrites a page with its old content, for which SQLite writes a frame all the same.
pub(super) fn rewrite_page(connection: &Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    connection.pragma_update(None, "user_version", version)
}

/// Returns the users whose standing a group may have changed; everybody after an error, since it is unknown what
/// reached the disk.
fn touched(group: &[Box<dyn Job>], committed: bool) -> Touched {
    if !committed {
        return Touched::Everybody;
    }
    let mut touched = Touched::NOBODY;
    for job in group {
        touched.and(&job.terms().touched);
    }
    touched
}

/// Refuses every commit except through [`Gate::commit`]. If the disk fails or is full, SQLite rolls the
/// transaction back by itself; a later statement would then autocommit, leaving half a change.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn on(connection: &Connection) -> rusqlite::Result<Self> {
        let gate = Self::default();
        let open = Arc::clone(&gate.0);
        connection.commit_hook(Some(move || !open.load(Ordering::Relaxed)))?;
        Ok(gate)
    }

    fn commit(&self, tx: Transaction<'_>) -> rusqlite::Result<()> {
        self.0.store(true, Ordering::Relaxed);
        let committed = tx.commit();
        self.0.store(false, Ordering::Relaxed);
        committed
    }
}

/// Runs all changes. Stops and returns false when one fails after changing something, or SQLite has rolled back
/// the transaction.
fn run_together(tx: &Transaction<'_>, group: &mut [Box<dyn Job>]) -> bool {
    group.iter_mut().all(|job| {
        let before = tx.total_changes();
        let kept_whole = job.run(tx) || tx.total_changes() == before;
        kept_whole && !tx.is_autocommit()
    })
}

fn run_alone(tx: &mut Transaction<'_>, job: &mut dyn Job) -> rusqlite::Result<()> {
    tx.execute_batch("SAVEPOINT change")?;
    if !job.run(tx) {
        tx.execute_batch("ROLLBACK TO change")?;
    }
    tx.execute_batch("RELEASE change")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(tx: &Transaction<'_>, number: i64) -> Result<i64> {
        tx.execute("INSERT INTO kept (number) VALUES (?1)", [number])?;
        Ok(number)
    }

    fn numbers(connection: &Connection) -> Vec<i64> {
        let mut statement = connection
            .prepare("SELECT number FROM kept ORDER BY number")
            .expect("a statement");
        let rows = statement.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<rusqlite::Result<_>>().expect("numbers")
    }

    type Answer = oneshot::Receiver<Result<i64>>;

    fn job(change: impl FnMut(&Transaction<'_>) -> Result<i64> + Send + 'static) -> (Box<dyn Job>, Answer) {
        let (reply, answer) = oneshot::channel();
        let job = Change {
            terms: WriteTerms::NODE,
            change,
            result: None,
            reply,
        };
        (Box::new(job), answer)
    }

    /// Commits a group of three changes with `second` in the middle. Returns the numbers in the table and whether
    /// each change was answered with success.
    fn group_of_three(
        second: impl FnMut(&Transaction<'_>) -> Result<i64> + Send + 'static,
    ) -> (Vec<i64>, Vec<bool>) {
        let connection = Connection::open_in_memory().expect("a database");
        connection
            .execute_batch("CREATE TABLE kept (number INTEGER)")
            .expect("a table");
        let (signal, _told) = checkpointer::Signal::untold();
        let mut work = GroupCommit {
            gate: Gate::on(&connection).expect("our own"),
            connection,
            committed: signal,
            shared: Arc::new(Shared {
                counters: Counters::default(),
                places: Places::new(3),
                commits: Commits::default(),
            }),
        };
        let (mut group, answers): (Vec<_>, Vec<_>) =
            [job(|tx| write(tx, 1)), job(second), job(|tx| write(tx, 3))]
                .into_iter()
                .unzip();
        let committed = work.commit(&mut group);
        for job in group {
            job.answer(committed.clone());
        }
        let answered = answers
            .into_iter()
            .map(|mut answer| answer.try_recv().expect("an answer").is_ok())
            .collect();
        (numbers(&work.connection), answered)
    }

    #[test]
    fn what_fails_after_it_wrote_leaves_the_others_whole() {
        let (kept, answered) = group_of_three(|tx| {
            write(tx, 2)?;
            Err(Error::Internal("on purpose".into()))
        });
        assert_eq!((kept, answered), (vec![1, 3], vec![true, false, true]));
    }

    /// SQLite rolls back by itself on a full disk or an I/O error, even of a read.
    #[test]
    fn a_transaction_that_was_rolled_back_below_us_leaves_nothing_half() {
        let fails_once = |swallows: bool| {
            let mut tries = 0;
            move |tx: &Transaction<'_>| {
                tries += 1;
                if tries > 1 {
                    return write(tx, 2);
                }
                tx.execute_batch("ROLLBACK")?;
                if swallows {
                    return Ok(2);
                }
                Err(Error::Internal("disk I/O error".into()))
            }
        };
        for swallows in [false, true] {
            let (kept, answered) = group_of_three(fails_once(swallows));
            assert_eq!((kept, answered), (vec![1, 2, 3], vec![true; 3]), "{swallows}");
        }
    }

    #[test]
    fn where_it_is_rolled_back_each_time_nobody_is_told_that_it_was_done() {
        let (kept, answered) = group_of_three(|tx| {
            tx.execute_batch("ROLLBACK")?;
            Err(Error::Internal("disk I/O error".into()))
        });
        assert_eq!((kept, answered), (vec![], vec![false; 3]));
    }

    #[test]
    fn no_statement_becomes_a_transaction_of_its_own() {
        let (kept, answered) = group_of_three(|tx| {
            tx.execute_batch("ROLLBACK")?;
            // A change that ignores an error and continues.
            let _ = tx.execute("INSERT INTO kept (number) VALUES (99)", []);
            Ok(2)
        });
        assert_eq!((kept, answered), (vec![], vec![false; 3]));
    }
}
