//! The rules of the appliance, as pure code: no I/O, no clock, no randomness, no async.

pub mod account;
pub mod approval;
pub mod audit;
pub mod credential;
pub mod error;
pub mod policy;
pub mod printable;
pub mod second_factor;

pub use error::{Error, Result};
