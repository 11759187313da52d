//! Deletes configurations that were bound and replaced without ever having been asked for a decision. Others are kept
//! as long as their decisions are; these are needed for nothing, and anybody who changes a binding again and again
//! would fill the disk with them.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::SignedDuration;

use crate::domain::Result;
use crate::service::Services;
use crate::store::configurations as store;

/// How many more unbound configurations than the last search left start the next one: it reads every decision, which
/// on a node that is used as intended is never worth it. At most 16 MiB, since each has at most 64 KiB.
const SEARCHED_FOR: usize = 256;
/// Configurations deleted in one transaction.
const DELETED_AT_ONCE: usize = 64;
/// How long ago a configuration must have been bound last: longer than any change that binds it again takes.
const UNBOUND_HOURS: i64 = 1;

/// The number of unbound configurations that the last search left.
#[derive(Debug, Default)]
pub struct LeftUnbound(AtomicUsize);

/// Deletes the configurations that no binding uses and no decision was made with, if many are unbound. Returns how
/// many.
///
/// # Errors
/// The store can't be read or written; the same are found the next time.
pub async fn forget_unused_configurations(services: &Services, left: &LeftUnbound) -> Result<usize> {
    let before = services.clock.now() - SignedDuration::from_hours(UNBOUND_HOURS);
    let unbound = services
        .store
        .read(|db| store::count_unbound_configurations(db, before))?;
    if unbound < left.0.load(Ordering::Relaxed) + SEARCHED_FOR {
        return Ok(0);
    }
    let unused = services
        .store
        .read_long(None, move |db| store::find_undecided_configurations(db, before))
        .await?;
    let mut deleted = 0;
    for some in unused.chunks(DELETED_AT_ONCE) {
        let some = some.to_vec();
        // Nothing can have been decided with one since, unless it was bound again, and then it is not deleted.
        let delete = move |tx: &_| store::delete_configurations(tx, &some, before);
        deleted += services.store.write(move |tx| delete(tx)).await?;
    }
    left.0.store(unbound.saturating_sub(deleted), Ordering::Relaxed);
    Ok(deleted)
}
