//! Latchkey: an organisation's admin resets the MFA of a user who lost their device.

pub mod domain;
