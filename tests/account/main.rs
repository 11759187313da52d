//! Accounts over HTTP: logging in, sessions, tokens and the user's own MFA.

mod login;
mod mfa;
mod recovery;
mod sessions;
mod support;
mod tokens;
