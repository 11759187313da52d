//! Conditions that an operator should know about at startup; none of them prevents it.

use jiff::Timestamp;

use super::{Services, trail};
use crate::domain::Result;
use crate::store::{accounts, audit};

/// The state found at startup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Whether an organisation exists; without one nobody can log in.
    pub has_organization: bool,
    /// The time of the newest trail entry, if the clock is behind it.
    pub clock_behind: Option<Timestamp>,
    /// The slugs configured for forwarding that no organisation has.
    pub unknown_slugs: Vec<String>,
}

/// Reads the state without changing anything.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) if the store can't be read.
pub fn look_around(services: &Services) -> Result<Start> {
    let now = services.clock.now();
    let unknown_slugs = trail::find_unknown_slugs(services)?;
    services.store.read(|db| {
        Ok(Start {
            has_organization: !accounts::find_organizations(db)?.is_empty(),
            clock_behind: audit::find_newest_time(db)?.filter(|newest| *newest > now),
            unknown_slugs,
        })
    })
}
