//! Accounts: logging in, sessions, tokens and the user's own MFA.

pub mod app;
pub mod authenticator;
pub mod keys;
mod login;
mod mfa;
pub mod passkeys;
mod password;
mod recovery;
mod sessions;
mod tokens;
