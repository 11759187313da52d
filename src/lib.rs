//! Latchkey: an organisation's admin resets the MFA of a user who lost their device, decided by the
//! organisation's own code in a sandbox, wholly or not at all, and on a record that anyone can check.
//!
//! # The map
//!
//! | layer | what it is | may use |
//! |---|---|---|
//! | `main`, [`cli`] | the command line | `app` and everything below |
//! | [`app`], [`config`] | builds every part once, serves, shuts down | everything below |
//! | [`http`] | the wire: routes, envelope, OpenAPI | `service`, `domain`, `limiter`; poem |
//! | [`service`] | stories, one function each | `domain`, `store`, `plugin_host`, `courier`, `passkeys`, `limiter` |
//! | [`store`] | SQLite, one writer | `domain`; rusqlite |
//! | [`plugin_host`] | the policy sandbox | `domain`; wasmtime |
//! | [`courier`] | one mail, webhook call or syslog message at a time | lettre, reqwest |
//! | [`passkeys`] | what authenticators are asked and answer | `domain`; webauthn-rs |
//! | [`domain`] | rules | std, serde, jiff, uuid, pure cryptography |
//!
//! [`clock`], [`entropy`], [`keys`] and [`limiter`] are small parts that `app` hands out.
//! `tests/architecture.rs` keeps these rules.
//!
//! # How a reset travels
//!
//! [`service::reset::reset_mfa`] names the steps in order; read that function first.

/// What holds a secret is printed by its name alone (ASVS 16.2.5).
macro_rules! prints_no_secret {
    ($($name:ident),* $(,)?) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod courier;
pub mod domain;
pub mod entropy;
pub mod http;
pub mod keys;
pub mod limiter;
pub mod logging;
pub mod passkeys;
pub mod plugin_host;
pub mod service;
pub mod store;
