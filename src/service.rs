//! Use cases: one public function per story, in the order in which things happen.
//!
//! A service knows rules, the store, the plugin host and the limiter. It knows nothing of HTTP, and
//! holds no SQL.

pub mod administration;
pub mod api_keys;
pub mod approvals;
pub mod backup;
pub mod belonging;
pub mod checkup;
pub mod deliveries;
pub mod enrolment;
pub mod hashing;
pub mod health;
pub mod housekeeping;
pub mod login;
mod mandate;
pub mod metrics;
pub mod not_me;
pub mod notices;
pub mod operator;
pub mod passkeys;
pub mod plugins;
mod refusals;
pub mod reset;
pub mod sample;
pub mod session;
pub mod start;
pub mod token_keys;
pub mod trail;
pub mod users;

use std::net::IpAddr;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::courier::Courier;
use crate::domain::credential::DeviceToken;
pub use crate::domain::credential::{ExternalIssuer, ExternalRules, TokenAlgorithm, role_by_name};
use crate::domain::policy::Channel;
use crate::domain::second_factor;
use crate::entropy::Entropy;
use crate::keys::KeyRing;
use crate::limiter::Limiter;
use crate::passkeys::RelyingParty;
use crate::plugin_host::PluginHost;
use crate::store::Store;
pub use crate::store::{Checkpoints, Options as StoreOptions};

/// What every service needs, built once by `app.rs`.
pub struct Services {
    /// The database.
    pub store: Store,
    /// The policy sandbox.
    pub plugin_host: PluginHost,
    /// Sends mail, calls webhooks, writes to syslog.
    pub courier: Courier,
    /// Rate limits.
    pub limiter: Limiter,
    /// Token keys, encryption keys and hash keys.
    pub keys: KeyRing,
    /// For whom passkeys are made.
    pub passkeys: RelyingParty,
    /// Another issuer whose access tokens count here, where one is configured.
    pub external_issuer: Option<ExternalIssuer>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// What the operator configured.
    pub settings: Settings,
    /// Who called since the last commit.
    pub principals: session::Principals,
    /// Password hashing, off the async workers and bounded.
    pub hashing: hashing::Hashing,
    /// Resets under way, for counts that are upper bounds.
    pub in_flight: reset::InFlight,
    /// Refusals by rate limit, to be recorded once per caller and window.
    pub floods: reset::Floods,
    /// Failed logins for accounts that don't exist, to be recorded.
    pub strangers: login::Strangers,
    /// How far what has lapsed was looked for.
    pub sweep: housekeeping::Sweep,
    /// Bound plugins, ready to be called.
    pub bindings: plugins::Bindings,
    /// What is counted for a collector.
    pub counts: metrics::Counts,
    /// Readers who follow the trail.
    pub tails: trail::Tails,
    /// Who gives checkpoints to the witness directory.
    pub witness: trail::Witness,
    /// Who finds out whether the appliance is ready.
    pub probing: health::Probing,
}

/// Lifetimes and sizes that the operator may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Access tokens live this long, in seconds.
    pub access_token_secs: i64,
    /// Refresh tokens and sessions live this long, in seconds.
    pub refresh_token_secs: i64,
    /// What access tokens are signed with.
    pub token_algorithm: TokenAlgorithm,
    /// A new key signs access tokens after so many days; never when 0.
    pub key_rotation_days: u32,
    /// A session ends this long after its login, however often it is refreshed, in seconds.
    pub session_max_secs: i64,
    /// A login waits this long for its MFA code, in seconds.
    pub mfa_challenge_secs: i64,
    /// A shown TOTP secret waits this long to be confirmed, in seconds.
    pub enrolment_secs: i64,
    /// Factors that a reset took away can be restored for this long, then they are destroyed, in seconds.
    pub suspended_factor_secs: i64,
    /// Characters of a new recovery code (8–32): 16 are 80 bits; 8 are what EntryGuard's clients know,
    /// 40 bits, below the 64 that NIST SP 800-63B-4 §4.2.1.1 asks for.
    pub recovery_code_characters: usize,
    /// The name that authenticator apps show beside the account (`issuer` of otpauth URIs).
    pub issuer: String,
    /// What the operator decided about plugins.
    pub plugins: plugins::PluginSettings,
    /// Whether mail can be sent: without it no mail is owed.
    pub mail: bool,
    /// How the appliance is reached from outside, for links in notices: `https://mfa.example.org`.
    pub public_url: String,
    /// When the trail is signed.
    pub trail: trail::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access_token_secs: 15 * 60,
            refresh_token_secs: 7 * 24 * 3600,
            token_algorithm: TokenAlgorithm::Hs256,
            key_rotation_days: 0,
            session_max_secs: 30 * 24 * 3600,
            mfa_challenge_secs: 5 * 60,
            enrolment_secs: 15 * 60,
            suspended_factor_secs: 7 * 24 * 3600,
            recovery_code_characters: second_factor::RECOVERY_CODE_CHARACTERS,
            issuer: "Latchkey".to_owned(),
            plugins: plugins::PluginSettings::default(),
            mail: false,
            public_url: "http://127.0.0.1:8080".to_owned(),
            trail: trail::Settings::default(),
        }
    }
}

/// How a request came in.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Request id, also in `X-Request-Id`, the log and the audit entry.
    pub request_id: String,
    /// When it was taken in: the one time for everything it does.
    pub at: Timestamp,
    /// The client's address, proxies resolved.
    pub ip: Option<IpAddr>,
    /// `User-Agent` header, at most 256 characters.
    pub user_agent: Option<String>,
    /// The device, where it is known to somebody's account.
    pub device: Option<DeviceToken>,
    /// The door it came through.
    pub channel: Channel,
}

impl RequestContext {
    /// An act from the command line, now.
    #[must_use]
    pub fn cli(services: &Services) -> Self {
        let at = services.clock.now();
        Self {
            request_id: services.entropy.uuid(at).to_string(),
            at,
            ip: None,
            user_agent: None,
            device: None,
            channel: Channel::Cli,
        }
    }

    /// The client's address as text.
    #[must_use]
    pub fn ip_text(&self) -> Option<String> {
        self.ip.map(|ip| ip.to_string())
    }
}
