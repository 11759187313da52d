//! Write policy plugins for the Latchkey appliance in a few lines.
//!
//! A policy is a type that implements [`Policy`]: a manifest, a configuration type and one or two
//! pure functions. [`export!`] makes the module's exports of it.
//!
//! ```
//! use latchkey_policy::prelude::*;
//!
//! #[derive(Deserialize)]
//! #[serde(crate = "latchkey_policy::serde", rename_all = "camelCase", deny_unknown_fields)]
//! struct Config {
//!     max_per_day: u32,
//! }
//!
//! struct DailyLimit;
//!
//! impl Policy for DailyLimit {
//!     type Config = Config;
//!     const MANIFEST: Manifest = Manifest {
//!         name: "daily-limit",
//!         version: "1.0.0",
//!         summary: "At most so many resets by one admin in a day.",
//!         hooks: &[Hook::BeforeReset],
//!         wants: &[],
//!         history_days: 1,
//!         config_schema: r#"{"type":"object","required":["maxPerDay"],"additionalProperties":false,
//!             "properties":{"maxPerDay":{"type":"integer","minimum":1}}}"#,
//!     };
//!
//!     fn before_reset(question: &Question, config: &Config) -> Decision {
//!         let used = question.history.actor_resets_last_day;
//!         if used < config.max_per_day {
//!             return allow();
//!         }
//!         deny("daily-limit", "You have reached today's number of resets.")
//!             .because("actor-resets-last-day", used)
//!             .into()
//!     }
//! }
//!
//! latchkey_policy::export!(DailyLimit);
//! # fn main() {}
//! ```
//!
//! Pure means: no clock, no randomness, no network, no disk. Now is `question.request.at`. Each
//! call runs in a fresh instance, so a `static` never remembers anything.
#![warn(missing_docs)]

pub mod answer;
#[cfg(target_arch = "wasm32")]
mod arena;
pub mod config;
#[cfg(not(target_arch = "wasm32"))]
pub mod golden;
pub mod time;
pub mod types;

pub use answer::{Decision, Effects, allow, allow_with, annotate, deny, notify, require_approval};
pub use serde;
pub use serde_json;
pub use types::Level;

use config::parse;
use types::{Hook, Outcome, Question};

/// What an author usually needs.
pub mod prelude {
    pub use crate::answer::{Decision, Effects, allow, allow_with, annotate, deny, notify, require_approval};
    pub use crate::config::{NoConfig, ensure};
    pub use crate::types::{
        Approval, Attribute, Audience, Denial, Effect, FactorKind, Hook, Level, Outcome, Question, ResultKind, Role,
        TimestampMs, Verdict,
    };
    pub use crate::{Manifest, Policy, log};
    pub use serde::Deserialize;
}

/// A policy: what it says of itself, its configuration, and its answers.
pub trait Policy {
    /// The configuration, read from JSON. Put `#[serde(deny_unknown_fields)]` on it, so that a
    /// misspelt key is an error when the configuration is saved; [`config::NoConfig`] if there is none.
    type Config: serde::de::DeserializeOwned;

    /// What the plugin says of itself.
    const MANIFEST: Manifest;

    /// What the configuration's type cannot say: ranges, patterns, keys that exclude each other.
    /// Called when a configuration is saved; the hooks only ever see one that passed.
    ///
    /// # Errors
    /// The text is shown to the operator; [`config::ensure`] gives it the form `/path/to/key: reason`.
    fn check(config: &Self::Config) -> Result<(), String> {
        let _ = config;
        Ok(())
    }

    /// Decides. Only called if the manifest names [`Hook::BeforeReset`].
    ///
    /// # Errors
    /// A failure, not a denial: the host does what the operator chose for failures (by default it refuses the reset).
    fn before_reset(question: &Question, config: &Self::Config) -> Decision {
        let _ = (question, config);
        allow()
    }

    /// Adds effects to what was decided. Only called if the manifest names [`Hook::AfterReset`].
    ///
    /// # Errors
    /// A failure; as above.
    fn after_reset(question: &Question, outcome: &Outcome, config: &Self::Config) -> Effects {
        let _ = (question, outcome, config);
        Ok(Vec::new())
    }
}

/// What a plugin says of itself, as a constant.
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// Name, kebab-case.
    pub name: &'static str,
    /// Semantic version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Hooks it implements.
    pub hooks: &'static [Hook],
    /// Names of the effects it may ask for: `require-enrolment`, `notify`, …
    pub wants: &'static [&'static str],
    /// How far back `history` should reach, in days (the host caps it).
    pub history_days: u16,
    /// JSON Schema (2020-12) of the configuration: `include_str!("../config.schema.json")`.
    pub config_schema: &'static str,
}

/// Writes a log line that is kept with the decision; the host caps their number and size.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    bindings::latchkey::policy::log::write(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?} {message}");
}

// A panic ends the call as a trap, which says nothing; its text goes to the log.
fn report_panics() {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
}

/// Makes the module's exports of a [`Policy`]. Once in a crate.
#[macro_export]
macro_rules! export {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        mod latchkey_policy_exports {
            use super::*;
            // A name that an author's type will not have: it would be taken for itself.
            type LatchkeyPolicyAdapter = $crate::Adapter<$policy>;
            $crate::bindings::__export!(LatchkeyPolicyAdapter with_types_in $crate::bindings);
        }
    };
}

/// Joins a [`Policy`] to the generated bindings; [`export!`] names it.
#[doc(hidden)]
pub struct Adapter<P>(core::marker::PhantomData<P>);

impl<P: Policy> bindings::exports::latchkey::policy::hooks::Guest for Adapter<P> {
    fn describe() -> types::Manifest {
        let manifest = P::MANIFEST;
        types::Manifest {
            name: manifest.name.into(),
            version: manifest.version.into(),
            summary: manifest.summary.into(),
            hooks: manifest.hooks.into(),
            wants: manifest.wants.iter().map(|&name| name.into()).collect(),
            history_days: manifest.history_days,
            config_schema: manifest.config_schema.into(),
        }
    }

    fn check_config(config: String) -> Result<(), String> {
        report_panics();
        P::check(&parse(&config)?)
    }

    fn before_reset(question: Question, config: String) -> Decision {
        report_panics();
        P::before_reset(&question, &parse(&config)?)
    }

    fn after_reset(question: Question, outcome: Outcome, config: String) -> Effects {
        report_panics();
        P::after_reset(&question, &outcome, &parse(&config)?)
    }
}

#[doc(hidden)]
#[allow(missing_docs, unsafe_op_in_unsafe_fn, clippy::all, clippy::pedantic, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "policy",
        with: { "latchkey:policy/types@1.0.0": crate::types },
        pub_export_macro: true,
        export_macro_name: "__export",
    });
}
