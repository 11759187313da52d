//! Use cases: one public function per use case, with its steps in order.
//!
//! A service uses the domain rules, the store, the plugin host and the limiter. It has no knowledge of HTTP and
//! contains no SQL.

pub mod administration;
pub mod api_keys;
pub mod approvals;
pub mod backup;
pub mod deliveries;
pub mod doctor;
pub mod enrolment;
pub mod hashing;
pub mod health;
pub mod housekeeping;
pub mod key_match;
pub mod login;
mod mandate;
pub mod metrics;
pub mod not_me;
pub mod notices;
pub mod operator;
pub mod passkeys;
pub mod plugins;
pub mod refusals;
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
use crate::domain::account::User;
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
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
    /// The relying party for which passkeys are created.
    pub passkeys: RelyingParty,
    /// Another issuer whose access tokens are accepted, if one is configured.
    pub external_issuer: Option<ExternalIssuer>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// The operator's configuration.
    pub settings: Settings,
    /// Cache of authenticated callers since the last commit.
    pub principals: session::Principals,
    /// Password hashing, off the async workers and bounded.
    pub hashing: hashing::Hashing,
    /// Resets in progress, so that counts are upper bounds.
    pub in_flight: reset::InFlight,
    /// Requests refused by rate limit, recorded once per caller and window.
    pub floods: refusals::Floods,
    /// Failed logins for accounts that don't exist, waiting to be recorded.
    pub strangers: login::Strangers,
    /// Progress of the search for expired rows.
    pub sweep: housekeeping::Sweep,
    /// Bound plugins, ready to be called.
    pub bindings: plugins::Bindings,
    /// Counters exported as metrics.
    pub counts: metrics::Counts,
    /// Readers who follow the trail.
    pub tails: trail::Tails,
    /// Publisher of checkpoints to the witness directory.
    pub witness: trail::Witness,
    /// Readiness probe.
    pub probing: health::Probing,
}

/// Lifetimes and sizes that the operator may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lifetime of access tokens, in seconds.
    pub access_token_secs: i64,
    /// Lifetime of refresh tokens and sessions, in seconds.
    pub refresh_token_secs: i64,
    /// Algorithm that signs access tokens.
    pub token_algorithm: TokenAlgorithm,
    /// Age at which the key that signs access tokens is replaced, in days; 0 means never.
    pub key_rotation_days: u32,
    /// Time after login at which a session ends however often it is refreshed, in seconds.
    pub session_max_secs: i64,
    /// Lifetime of an MFA challenge after the password was accepted, in seconds.
    pub mfa_challenge_secs: i64,
    /// Time to confirm a TOTP secret after it was shown, in seconds.
    pub enrolment_secs: i64,
    /// Time during which factors removed by a reset can be restored, in seconds; then they are destroyed.
    pub suspended_factor_secs: i64,
    /// Characters of a new recovery code (8–32). 16 characters are 80 bits; 8 are what EntryGuard's clients
    /// expect, but only 40 bits, below the 64 that NIST SP 800-63B-4 §4.2.1.1 requires.
    pub recovery_code_characters: usize,
    /// The name that authenticator apps show beside the account (`issuer` of otpauth URIs).
    pub issuer: String,
    /// The operator's settings for plugins.
    pub plugins: plugins::PluginSettings,
    /// Whether mail can be sent; if not, none is queued.
    pub mail: bool,
    /// Base URL at which the appliance is reached from outside, for links in notices:
    /// `https://mfa.example.org`.
    pub public_url: String,
    /// When and how the trail is signed.
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

/// Metadata of an incoming request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Request id, also in `X-Request-Id`, the log and the audit entry.
    pub request_id: String,
    /// When the request was received: the one timestamp for everything it does.
    pub at: Timestamp,
    /// The client's IP address, with trusted proxies resolved.
    pub ip: Option<IpAddr>,
    /// `User-Agent` header, at most 256 characters.
    pub user_agent: Option<String>,
    /// The device token, if the device is known to an account.
    pub device: Option<DeviceToken>,
    /// The channel through which it arrived.
    pub channel: Channel,
}

impl RequestContext {
    /// Returns the context of a command-line operation at the current time.
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

    /// Returns the client's IP address as text.
    #[must_use]
    pub fn ip_text(&self) -> Option<String> {
        self.ip.map(|ip| ip.to_string())
    }
}

/// Returns the event of something that a user does to their own account.
fn own_event(event_type: EventType, user: &User, context: &RequestContext) -> Event {
    Event::new(event_type, Some(user.organization_id), ActorRef::user(user))
        .on(Resource::user(user))
        .from_request(&context.request_id, context.ip)
}
