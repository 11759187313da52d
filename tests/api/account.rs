//! Accounts: logging in, sessions, tokens and the user's own MFA.

pub mod app;
pub mod authenticator;
mod keys;
mod login;
mod mfa;
pub mod other_issuer;
pub mod passkeys;
mod password;
mod recovery;
mod sessions;
mod tokens;
