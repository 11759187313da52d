//! Tests that speak HTTP to the whole app. `support.rs` has the app and its callers.

mod account;
mod administration;
mod audit;
mod contract;
#[path = "../guests/mod.rs"]
mod guests;
mod plugins;
mod policies;
mod reset;
mod support;
mod trail_file;
