//! Tests that speak HTTP to the whole app. `support.rs` has the app and its callers.

mod administration;
mod contract;
mod reset;
mod support;
