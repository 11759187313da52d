//! Rate limits: how often one caller, account or address may make one kind of request.
//!
//! A quota of N requests per window admits N at once and gives one back every window/N (GCRA, the leaky
//! bucket as a meter). Keys are hashed with a secret of this process before they are stored.
//!
//! **Memory is bounded.** Each bucket keeps at most [`MAX_KEYS`] keys exactly. Keys beyond that share
//! [`SHARED_CELLS`] counters, chosen by the hash of the key: a caller with a million addresses gets at most
//! the quotas of those counters, and never more memory. A caller who was known before keeps a counter of
//! their own, and a new one is slowed down only if the flood hits the same counter. No limit fails open.
//! [`Limiter::retain`], called once a minute, drops the keys whose quota is full again.

mod bounded;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::domain::error::{Error, Quota, Result};
use bounded::BoundedStore;
pub use bounded::{MAX_KEYS, SHARED_CELLS};

/// Defines each bucket once, with its name in code, in `[limits]` of the configuration, and on the wire.
macro_rules! buckets {
    ($($(#[$doc:meta])* $variant:ident, $field:ident, $wire:literal: $requests:literal per $window:literal;)*) => {
        /// The kinds of request that are counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Bucket {
            $($(#[$doc])* $variant,)*
        }

        impl Bucket {
            /// Every bucket.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns its name in the `RateLimit-Policy` header.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $wire),* }
            }
        }

        /// The limit of each bucket.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Limits {
            $($(#[$doc])* pub $field: Limit,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: Limit { requests: $requests, window_secs: $window },)* }
            }
        }

        impl Limits {
            /// Returns no limits at all, for measurements and for tests of something else.
            #[must_use]
            pub fn off() -> Self {
                Self { $($field: Limit::OFF,)* }
            }

            /// Returns the limit of a bucket.
            #[must_use]
            pub fn of(&self, bucket: Bucket) -> Limit {
                match bucket { $(Bucket::$variant => self.$field),* }
            }

            /// Returns each limit with its name in the configuration.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, Limit)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }
    };
}

buckets! {
    /// Resets by one admin. A busy help desk makes one a minute; a stolen token is slowed down early.
    ResetByCaller, reset_by_caller, "reset-by-caller": 30 per 60;
    /// Resets of one user by callers of one role, counted separately for admins and the help desk. More than a
    /// few an hour is a mistake or an attack.
    ResetByTarget, reset_by_target, "reset-by-target": 5 per 3600;
    /// Password attempts for one account from one device or address: ten at once, then one a minute (ASVS
    /// 6.3.1).
    LoginByAccount, login_by_account, "login-by-account": 10 per 600;
    /// Consecutive failed password attempts for one account, from all devices and addresses that it is not
    /// known to use (NIST SP 800-63B-4 §3.2.2: no more than 100).
    LoginByStrangers, login_by_strangers, "login-by-strangers": 100 per 86400;
    /// Password attempts from one address, which may be a whole office.
    LoginByAddress, login_by_address, "login-by-address": 60 per 60;
    /// MFA code attempts for one account, from one known device or from all others: five at once, then one
    /// every three minutes. With three valid codes in a million at a time, guessing for a day succeeds in
    /// 0.15 % of cases (ASVS 6.5.1).
    CodeByAccount, code_by_account, "code-by-account": 5 per 900;
    /// MFA code attempts for one account, from all known devices together, correct ones included: bounds the
    /// guesses of an attacker who collected devices.
    CodeByDevices, code_by_devices, "code-by-devices": 20 per 900;
    /// MFA code attempts from one address.
    CodeByAddress, code_by_address, "code-by-address": 60 per 60;
    /// Set-up, confirmation and disabling of one's own MFA, within one session: other sessions of the account
    /// do not use up this quota.
    EnrolmentByAccount, enrolment_by_account, "enrolment-by-account": 20 per 600;
    /// Refreshes, logouts, invitations and other one-use tokens from one address.
    TokenByAddress, token_by_address, "token-by-address": 600 per 60;
    /// All other requests of an admin: lists, users, settings, approvals.
    AdminByCaller, admin_by_caller, "admin-by-caller": 600 per 60;
    /// Requests about one's own account: list and end sessions, activity and passkeys.
    AccountByCaller, account_by_caller, "account-by-caller": 120 per 60;
    /// Plugin uploads and trial runs by one admin: each costs a compilation.
    PluginByCaller, plugin_by_caller, "plugin-by-caller": 20 per 60;
    /// OpenAPI documents and the API explorer (1.6 MB a page), to one address.
    DocumentByAddress, document_by_address, "document-by-address": 60 per 60;
}

/// A limit of N requests per window. `requests = 0` disables it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Requests per window, all of which may come at once.
    pub requests: u32,
    /// Length of the window, in seconds.
    pub window_secs: u32,
}

impl Limit {
    /// No limit.
    pub const OFF: Self = Self {
        requests: 0,
        window_secs: 1,
    };

    fn times(self, times: u32) -> Self {
        Self {
            requests: self.requests.saturating_mul(times),
            ..self
        }
    }
}

/// Counts requests. There is one per process, handed out by `app`.
pub struct Limiter {
    buckets: Vec<Option<Counter>>,
    /// Counters for whole IPv6 sites; a site may use as much as `ADDRESSES_PER_SITE` addresses.
    sites: Vec<Option<Counter>>,
    hasher: RandomState,
    clock: Clock,
}

struct Counter {
    limiter: RateLimiter<u64, BoundedStore, LimiterClock, NoOpMiddleware<Duration>>,
    kept: BoundedStore,
    quota: Quota,
}

impl Limiter {
    /// Returns a limiter with empty counters.
    #[must_use]
    pub fn new(limits: &Limits, clock: &Clock) -> Self {
        let counters = |times: u32| {
            let counter = |&bucket| Counter::new(bucket, limits.of(bucket).times(times), clock);
            Bucket::ALL.iter().map(counter).collect()
        };
        Self {
            buckets: counters(1),
            sites: counters(ADDRESSES_PER_SITE),
            hasher: RandomState::new(),
            clock: clock.clone(),
        }
    }

    /// Counts one request of `key`, and returns an error if it is not admitted.
    ///
    /// # Errors
    /// [`Error::RateLimited`] with the seconds until the next one is admitted.
    pub fn check(&self, bucket: Bucket, key: impl AsRef<[u8]>) -> Result<()> {
        self.count(self.buckets[bucket as usize].as_ref(), key)
    }

    fn count(&self, counter: Option<&Counter>, key: impl AsRef<[u8]>) -> Result<()> {
        let Some(counter) = counter else {
            return Ok(());
        };
        counter
            .limiter
            .check_key(&self.hasher.hash_one(key.as_ref()))
            .map_err(|until| {
                let wait = until.wait_time_from(self.clock.monotonic());
                let retry_after_secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Error::RateLimited {
                    retry_after_secs: retry_after_secs.max(1),
                    quota: counter.quota,
                }
            })
    }

    /// Counts one request of an address as [`Limiter::check`] does; unknown addresses share one key. The site
    /// of an IPv6 address is counted first, so that a request refused there takes no room among the keys.
    ///
    /// # Errors
    /// As [`Limiter::check`].
    pub fn check_address(&self, bucket: Bucket, address: Option<IpAddr>) -> Result<()> {
        if let Some(site) = site_key(address) {
            self.count(self.sites[bucket as usize].as_ref(), site)?;
        }
        self.check(bucket, address_key(address))
    }

    /// Resets the quota of a key, for a caller who has proved to be the right one.
    pub fn forget(&self, bucket: Bucket, key: impl AsRef<[u8]>) {
        if let Some(counter) = &self.buckets[bucket as usize] {
            counter.kept.forget(self.hasher.hash_one(key.as_ref()));
        }
    }

    /// Drops the keys whose quota is full again.
    pub fn retain(&self) {
        for counter in self.counters() {
            counter.limiter.retain_recent();
            counter.limiter.shrink_to_fit();
        }
    }

    /// Returns the number of stored keys, over all buckets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counters().map(|counter| counter.limiter.len()).sum()
    }

    fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.buckets.iter().chain(&self.sites).flatten()
    }

    /// Returns whether no key is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("keys", &self.len())
            .finish_non_exhaustive()
    }
}

impl Counter {
    fn new(bucket: Bucket, limit: Limit, clock: &Clock) -> Option<Self> {
        let requests = NonZeroU32::new(limit.requests)?;
        let period = Duration::from_secs(limit.window_secs.max(1).into()) / limit.requests;
        let quota = governor::Quota::with_period(period.max(Duration::from_nanos(1)))
            .expect("a period of at least a nanosecond is a quota")
            .allow_burst(requests);
        let kept = BoundedStore::default();
        Some(Self {
            limiter: RateLimiter::new(quota, kept.clone(), LimiterClock(clock.clone())),
            kept,
            quota: Quota {
                name: bucket.name(),
                limit: limit.requests,
                window_secs: limit.window_secs.max(1).into(),
            },
        })
    }
}

/// Returns the key under which an address is counted.
///
/// An IPv4 address counts by itself. Of an IPv6 address the first 64 bits count: a client that has one
/// address has the other 2^64 too (RFC 4291 §2.5.4).
pub fn address_key(address: Option<IpAddr>) -> Vec<u8> {
    match address.map(|address| address.to_canonical()) {
        None => Vec::new(),
        Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
        Some(IpAddr::V6(v6)) => v6.octets()[..8].to_vec(),
    }
}

/// How many addresses' worth of quota an IPv6 site may use.
const ADDRESSES_PER_SITE: u32 = 16;

/// Returns the site of an IPv6 address: its first 48 bits. Otherwise a client that has a whole site (RFC 6177
/// §2) could act as 65,536 callers, as many as a bucket keeps keys.
fn site_key(address: Option<IpAddr>) -> Option<[u8; 6]> {
    match address?.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => v6.octets().first_chunk().copied(),
    }
}

/// Lets governor use our clock, so that tests can move time.
#[derive(Clone, Debug)]
struct LimiterClock(Clock);

impl GovernorClock for LimiterClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;

    fn limiter(requests: u32, window_secs: u32) -> (Limiter, Clock) {
        let clock = Clock::set_to(Timestamp::from_second(1_790_000_000).unwrap());
        let limits = Limits {
            reset_by_target: Limit {
                requests,
                window_secs,
            },
            ..Limits::default()
        };
        (Limiter::new(&limits, &clock), clock)
    }

    fn wait(result: Result<()>) -> u64 {
        match result {
            Err(Error::RateLimited { retry_after_secs, .. }) => retry_after_secs,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn admits_the_quota_at_once_and_then_one_per_share_of_the_window() {
        let (limiter, clock) = limiter(5, 3600);
        for _ in 0..5 {
            limiter.check(Bucket::ResetByTarget, b"user").unwrap();
        }
        assert_eq!(wait(limiter.check(Bucket::ResetByTarget, b"user")), 720);
        limiter.check(Bucket::ResetByTarget, b"another").unwrap();
        clock.advance(SignedDuration::from_secs(719));
        assert_eq!(wait(limiter.check(Bucket::ResetByTarget, b"user")), 1);
        clock.advance(SignedDuration::from_secs(1));
        limiter.check(Bucket::ResetByTarget, b"user").unwrap();
        assert_eq!(wait(limiter.check(Bucket::ResetByTarget, b"user")), 720);
    }

    #[test]
    fn a_refusal_names_the_quota() {
        let (limiter, _) = limiter(1, 60);
        limiter.check(Bucket::ResetByTarget, b"user").unwrap();
        let quota = Quota {
            name: "reset-by-target",
            limit: 1,
            window_secs: 60,
        };
        assert_eq!(
            limiter.check(Bucket::ResetByTarget, b"user"),
            Err(Error::RateLimited {
                retry_after_secs: 60,
                quota
            })
        );
    }

    #[test]
    fn who_is_forgotten_starts_afresh_and_nobody_else() {
        let (limiter, _) = limiter(1, 60);
        for key in [b"one", b"two"] {
            limiter.check(Bucket::ResetByTarget, key).unwrap();
        }
        limiter.forget(Bucket::ResetByTarget, b"one");
        limiter.forget(Bucket::ResetByTarget, b"unknown");
        limiter.check(Bucket::ResetByTarget, b"one").unwrap();
        assert!(limiter.check(Bucket::ResetByTarget, b"two").is_err());
    }

    #[test]
    fn buckets_do_not_share_counts_and_zero_is_off() {
        let (limiter, _) = limiter(1, 60);
        limiter.check(Bucket::ResetByTarget, b"k").unwrap();
        limiter.check(Bucket::ResetByCaller, b"k").unwrap();
        let limiter = Limiter::new(&Limits::off(), &Clock::system());
        for _ in 0..1000 {
            limiter.check(Bucket::ResetByTarget, b"k").unwrap();
        }
        assert!(limiter.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_caller_and_a_mapped_address_is_ipv4() {
        let key = |address: &str| address_key(Some(address.parse().unwrap()));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn an_ipv6_site_is_sixteen_callers_and_takes_no_more_room() {
        let (limiter, clock) = limiter(2, 60);
        let check = |site: u16, network: u16| {
            let address = format!("2001:db8:{site:x}:{network:x}::1").parse().unwrap();
            limiter.check_address(Bucket::ResetByTarget, Some(address))
        };
        let admitted = (0..1000).filter(|&network| check(1, network).is_ok()).count();
        assert_eq!(admitted, 32);
        assert_eq!(limiter.len(), 32 + 1, "what was refused is not kept");
        check(2, 0).unwrap();
        for _ in 0..2 {
            limiter
                .check_address(Bucket::ResetByTarget, Some("192.0.2.1".parse().unwrap()))
                .unwrap();
        }
        check(2, 1).unwrap();
        check(2, 1).unwrap();
        check(2, 1).unwrap_err();
        clock.advance(SignedDuration::from_secs(121));
        limiter.retain();
        assert!(limiter.is_empty());
    }

    #[test]
    fn retain_forgets_only_what_has_its_whole_quota_again() {
        let (limiter, clock) = limiter(2, 60);
        limiter.check(Bucket::ResetByTarget, b"early").unwrap();
        clock.advance(SignedDuration::from_secs(50));
        limiter.check(Bucket::ResetByTarget, b"late").unwrap();
        clock.advance(SignedDuration::from_secs(15));
        limiter.retain();
        assert_eq!(limiter.len(), 1);
        limiter.check(Bucket::ResetByTarget, b"late").unwrap();
        assert!(limiter.check(Bucket::ResetByTarget, b"late").is_err());
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_leaves_known_callers_alone() {
        let (limiter, clock) = limiter(2, 60);
        limiter.check(Bucket::ResetByTarget, b"known").unwrap();
        let mut refused = 0;
        for n in 0..3 * MAX_KEYS as u64 {
            refused += u32::from(limiter.check(Bucket::ResetByTarget, n.to_le_bytes()).is_err());
        }
        assert!(limiter.len() <= MAX_KEYS, "{} keys", limiter.len());
        assert!(
            refused as usize > MAX_KEYS,
            "keys beyond the cap share cells, only {refused} were refused"
        );
        // Known before the flood: a counter of its own, neither lifted nor used up by it.
        limiter.check(Bucket::ResetByTarget, b"known").unwrap();
        assert!(limiter.check(Bucket::ResetByTarget, b"known").is_err());
        clock.advance(SignedDuration::from_secs(121));
        limiter.retain();
        assert!(limiter.is_empty());
        limiter.check(Bucket::ResetByTarget, b"newcomer").unwrap();
    }
}
