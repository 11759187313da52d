//! Latchkey is an on-premises appliance, one binary with SQLite inside, for one dangerous and daily job: an
//! organisation's admin resets the MFA of a user who lost their device. Each reset is decided by the
//! organisation's own code in a sandbox, happens completely or not at all, and leaves a record that anyone can
//! verify offline and replay.
//!
//! # Layers
//!
//! Each module of the crate root is a layer. An arrow points from a layer to one that it may use:
//!
//! ```text
//!   main
//!    |
//!    v
//!   cli --------> logging
//!    |               |
//!    v               v
//!   app ---------> config
//!    |               |
//!    v               |
//!   http             |
//!    |               |
//!    v               v
//!   service <--------+
//!    |
//!    +--------+------------+----------+-----------+---------+
//!    v        v            v          v           v         v
//!   store  plugin_host  courier   passkeys     limiter    keys
//!    |        |            |          |           |         |
//!    +--------+------------+----------+-----+-----+---------+
//!                                           v
//!                                        domain   clock   entropy   durable
//! ```
//!
//! | layer | what it is | may use | main crates |
//! |---|---|---|---|
//! | `main`, [`cli`] | the command line | all below except [`courier`] and [`passkeys`] | clap |
//! | [`logging`] | starts the log | [`config`] | |
//! | [`app`] | builds every part once, serves, stops | all below except [`passkeys`] | hyper |
//! | [`config`] | the configuration | the types that it fills, of the layers below [`http`] | figment |
//! | [`http`] | the wire: routes, error envelope, OpenAPI | [`service`], [`domain`], [`limiter`] | poem |
//! | [`service`] | use cases, one public function each | all below | |
//! | [`store`] | SQLite: many readers, one writer; all SQL | [`domain`] | rusqlite |
//! | [`plugin_host`] | the sandbox of policies | [`domain`], [`durable`] | wasmtime |
//! | [`courier`] | sends mail, webhook calls, syslog messages | [`domain`] | lettre, reqwest |
//! | [`passkeys`] | WebAuthn ceremonies | [`domain`] | webauthn-rs |
//! | [`limiter`] | rate limits | [`domain`], [`clock`] | governor |
//! | [`keys`] | the appliance's own secrets | [`domain`], [`clock`], [`entropy`], [`durable`] | |
//! | [`domain`] | rules: no I/O, clock, randomness or async | nothing | |
//! | [`durable`] | files that a crash leaves old or new | nothing | tempfile |
//! | [`clock`], [`entropy`] | the only time and randomness; tests set them | nothing | |
//!
//! `tests/architecture.rs` enforces these rules.
//!
//! # Invariants
//!
//! Comments in the code cite these as "invariant 1" and so on. Each names tests that fail without it.
//!
//! 1. **One transaction.** The removed factors, the ended sessions, refresh tokens, challenges and unfinished
//!    enrolments, the demanded re-enrolment, the audit entry, the pending deliveries and the idempotency
//!    record of a reset are committed together, once. A crash at any instant leaves all of it or nothing.
//!    (`nothing_acknowledged_is_lost_and_nothing_is_half_done_and_everybody_is_told` in `tests/crash.rs`)
//! 2. **Durable before answered.** When 200 is answered, the reset is on disk.
//!    (`a_loss_of_power_takes_nothing_acknowledged_with_it` in `tests/faults.rs`)
//! 3. **No stale decision.** A policy decision is never applied to a state other than the one it judged: the
//!    revisions that it rests on are checked again in the transaction.
//!    (`a_change_of_policy_between_judging_and_committing_judges_again` in `tests/api/policies.rs`)
//! 4. **Plugins are contained.** A plugin can't hang, exhaust, crash or read the host, can't reach the
//!    network, the disk or the clock, and can't disable the appliance: an invalid module is refused at
//!    installation, a failing one is visible, and the operator can disable it from the command line.
//!    (`every_hostile_guest_is_stopped_named_and_survived` in `tests/plugin_host.rs`,
//!    `a_policy_is_switched_off_while_the_server_runs_and_holds_from_the_next_reset_on` in
//!    `tests/cli_support/policies.rs`)
//! 5. **Nobody resets themselves or anyone above them.** No admin resets their own MFA with the admin call,
//!    and nobody resets someone above them. Every verb on credentials passes the same check,
//!    [`may_act`](fn@domain::account::may_act). (`nobody_resets_themselves` in `tests/api/reset.rs`,
//!    `no_sequence_of_verbs_gives_a_hold_of_anybody_above` in `tests/api/people/walk.rs`)
//! 6. **A password is not enough after a reset.** Where MFA is demanded, the first login after a reset allows
//!    only enrolment, for a bounded time, so that someone who knows the password does not silently take over
//!    the account. (`where_the_organisation_requires_mfa_the_next_login_opens_only_enrolment` in
//!    `tests/api/reset.rs`, `past_the_window_the_account_is_locked_and_only_the_password_tells` in
//!    `tests/api/account/recovery.rs`)
//! 7. **Secrets stay secret.** No password, TOTP secret, recovery code, token or key reaches a log, an error,
//!    an audit entry or a plugin. TOTP secrets are encrypted at rest, recovery codes and API keys are hashed,
//!    passwords are hashed with Argon2id. An admin never learns a user's new secret.
//!    (`what_holds_a_secret_derives_no_debug` in `tests/architecture.rs`, `debug_tells_no_secret` and
//!    `a_sealed_secret_opens_only_for_its_user_and_kind_and_with_its_keys` in `src/keys.rs`)
//! 8. **Organisations are isolated.** A user of another organisation is indistinguishable from a user who
//!    does not exist. (`another_organisations_user_is_no_user_for_any_verb` in `tests/api/people/users.rs`)
//! 9. **Everything is recorded.** Every outcome of an authenticated reset call, refusals included, is one
//!    audit entry; 429s and 503s are one entry per caller and window, and a repeat is told the first outcome.
//!    Entries can't be edited, cut off or reordered unnoticed. (`assert_recorded` and the `Drop` of `TestApp` in
//!    `tests/api/support.rs`, which check every reset of every API test;
//!    `whatever_is_malformed_about_a_reset_is_an_entry_and_counts` in `tests/api/reset.rs`;
//!    `any_edit_drop_swap_repetition_cut_or_forgery_is_found_and_the_entry_named` in
//!    `tests/api/trail_file.rs`)
//! 10. **One error body.** Every error has the same envelope, and the OpenAPI document describes every response
//!     that the API tests get. An error with a status that it does not describe ends a debug build, and is logged
//!     by a release build. (`tests/api/described.rs`, which checks every response of every API test;
//!     `every_error_has_its_status_its_message_and_its_headers` in `src/http/error/tests.rs`)
//!
//! # How a reset travels
//!
//! [`reset_mfa`](service::reset::reset_mfa) names the steps in order; read that function first.
//!
//! 1. The listener of [`app`] accepts the connection and determines the client address. The outermost layer
//!    of [`http::endpoint`] assigns the request id, limits the body, catches panics and writes the access
//!    log.
//! 2. [`AnySession`](http::principal::AnySession) turns the bearer token into a
//!    [`Principal`](domain::account::Principal) with [`authenticate`](service::session::authenticate), or
//!    answers 401.
//! 3. [`ResetApi`](http::reset::ResetApi) turns path, headers and body into a
//!    [`ResetRequest`](service::reset::ResetRequest) and makes one call of
//!    [`reset_mfa`](service::reset::reset_mfa). Refusals from here on are recorded: those by a policy in the
//!    transaction of step 9, all others by that function; refusals by rate limit are counted in
//!    [`Floods`](service::refusals::Floods) and recorded once per caller and window by
//!    [`record_floods`](service::refusals::record_floods).
//! 4. [`Limiter::check`](limiter::Limiter::check) counts the call for the caller, before anything else is
//!    read (429). The role and a due step-up are checked (403, 401), and the call is counted for the target
//!    (429).
//! 5. [`ResetOrder::from_request`](service::reset::ResetOrder::from_request) validates id, body, parameters and
//!    headers (400, 415) and makes a [`ResetOrder`](service::reset::ResetOrder).
//!    [`InFlight`](service::reset::InFlight) registers it, so that the counts in a policy's question are upper
//!    bounds and a budget can't be overrun by concurrent requests.
//! 6. A repeat with the same `Idempotency-Key` gets the remembered answer. Otherwise `facts::gather` reads
//!    one consistent snapshot with [`Store::read`](store::Store::read): the caller as of now, the target
//!    (404), whether the one [may act](fn@domain::account::may_act) on the other (403), whether MFA is on (400).
//!    From these it builds a [`ResetCase`](service::reset::ResetCase): the
//!    [`Question`](domain::policy::Question) for the policies, and the revisions that it rests on.
//! 7. [`PluginHost::before`](plugin_host::PluginHost::before) asks the bound policies in order. Every answer
//!    passes [`vet`](domain::policy::vet), which refuses effects that were not granted. The result is to
//!    allow the reset, to deny it (403), or to require a second admin (202).
//! 8. [`PluginHost::after_fallback`](plugin_host::PluginHost::after_fallback) shows the policies the outcome
//!    as it will be committed, and collects the effects that they add. Hooks work like triggers of a
//!    database: their effects commit with the reset, so there is no instant between the two.
//! 9. `ending::commit` prepares hashes, texts and random values, and submits one transaction with
//!    [`Store::write_by`](store::Store::write_by). The writer thread commits waiting changes in groups and
//!    answers once they are on disk. The transaction checks with
//!    [`find_revisions`](store::revisions::find_revisions) that nothing judged has changed; otherwise it
//!    fails with [`Error::Stale`](domain::Error::Stale), and the reset is judged again from step 6, at most
//!    three times in all. Then it changes the user
//!    ([`update_user_after_reset`](store::accounts::update_user_after_reset)), removes the factors
//!    ([`clear_factors`](store::factors::clear_factors)), challenges and sessions
//!    ([`delete_sessions`](store::sessions::delete_sessions)), appends the audit entry
//!    ([`append`](store::audit::append)), keeps question and answers for replay
//!    ([`insert_decisions`](store::decisions::insert_decisions)), queues the deliveries
//!    ([`owe`](service::deliveries::owe)) and remembers the answer
//!    ([`insert_remembered`](store::requests::insert_remembered)).
//! 10. [`ResetApi`](http::reset::ResetApi) answers 200, or 202 if a second admin has to agree, with a receipt
//!     if one was asked for ([`receipt_of`](service::trail::receipt_of)). Every other outcome is an
//!     [`Error`](domain::Error), which [`http::error`] maps to its status and body.
//! 11. After the commit [`send_while`](service::deliveries::send_while) sends the deliveries through the
//!     [`Courier`](courier::Courier): at least once, with a stable id, and also after a crash.

/// Implements `Debug` for types that hold a secret, printing only the name of the type (ASVS 16.2.5).
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
pub mod durable;
pub mod entropy;
pub mod http;
pub mod keys;
pub mod limiter;
pub mod logging;
pub mod passkeys;
pub mod plugin_host;
pub mod service;
pub mod store;
