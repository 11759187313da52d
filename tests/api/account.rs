//! Accounts: logging in, sessions, tokens and the user's own MFA.

pub mod app;
mod keys;
mod login;
mod mfa;
mod recovery;
mod sessions;
mod tokens;
