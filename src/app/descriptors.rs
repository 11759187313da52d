//! How many files and sockets the process may have open. Connections must run out of places before the process runs
//! out of descriptors: otherwise nobody gets the 503 or a health check, and no database file, mail, webhook or
//! backup can be opened.

use std::io;

use super::listener::STANDING_PLACES;
use crate::config::HttpConfig;

/// Descriptors for all but connections and the readers of the database: mail, webhooks, metrics, a backup, plugins,
/// the log and the runtime.
const BESIDES: usize = 256;
/// Descriptors of the database for each core: three readers, each with the database, its WAL and a temporary file.
const DATABASE_PER_CORE: usize = 9;
/// Fewest connections worth a start.
const FEWEST: usize = 64;

/// The limit of open files is too low to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, too low to serve: raise it to {needed} (LimitNOFILE= in the unit, \
     --ulimit nofile= of a container, ulimit -n in a shell)"
)]
pub struct TooFew {
    /// The limit of this process.
    pub limit: usize,
    /// What `http.max_connections` needs.
    pub needed: usize,
}

/// Raises the limit of open files to the most that the process may have, and lowers `http.max_connections`, with a
/// warning, to what that is enough for.
///
/// # Errors
/// [`TooFew`] if it is enough for hardly any.
pub fn fit(http: &mut HttpConfig) -> Result<(), TooFew> {
    let limit = match raise() {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "could not find the limit of open files: http.max_connections may be too many");
            return Ok(());
        }
    };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let places = places(limit, cores, http.max_connections)?;
    if places < http.max_connections {
        tracing::warn!(
            limit,
            needed = needed(cores, http.max_connections),
            "the limit of open files is enough for {places} connections only, not for the {} of http.max_connections: \
             raise it (LimitNOFILE= in the unit, --ulimit nofile= of a container, ulimit -n in a shell), or lower \
             http.max_connections",
            http.max_connections
        );
        http.max_connections = places;
    }
    Ok(())
}

/// Returns how many of the wanted connections the limit is enough for.
fn places(limit: usize, cores: usize, wanted: usize) -> Result<usize, TooFew> {
    let places = limit.saturating_sub(needed(cores, 0)).min(wanted);
    if places < FEWEST.min(wanted) {
        return Err(TooFew {
            limit,
            needed: needed(cores, wanted),
        });
    }
    Ok(places)
}

/// Returns how many descriptors so many connections need, with everything else.
fn needed(cores: usize, connections: usize) -> usize {
    connections + STANDING_PLACES + BESIDES + DATABASE_PER_CORE * cores
}

/// Raises the soft limit of open files to the hard one, and returns the limit that holds then.
///
/// # Errors
/// The error of `getrlimit(2)`.
#[expect(unsafe_code, reason = "the standard library has no call for it")]
fn raise() -> io::Result<libc::rlim_t> {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limits` is one `rlimit` that the call may fill.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit {
        rlim_cur: limits.rlim_max,
        ..limits
    };
    // SAFETY: `raised` is one `rlimit`, which the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "could not raise the limit of open files");
        return Ok(limits.rlim_cur);
    }
    Ok(raised.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_everything_else_leaves() {
        // Two cores: 64 + 256 + 18 beside the connections.
        assert_eq!(places(1362, 2, 1024), Ok(1024));
        assert_eq!(places(524_288, 2, 65_536), Ok(65_536));
        assert_eq!(places(1361, 2, 1024), Ok(1023));
        assert_eq!(places(1024, 2, 1024), Ok(686));
        assert_eq!(places(402, 2, 256), Ok(64));
        assert_eq!(places(342, 2, 4), Ok(4), "as many as are wanted are enough");
        let few = |limit, wanted| places(limit, 2, wanted).map_err(|few| few.needed);
        assert_eq!(few(401, 256), Err(594));
        assert_eq!(few(128, 256), Err(594));
        assert_eq!(few(341, 4), Err(342));
    }
}
