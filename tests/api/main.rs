//! Tests that speak HTTP to the whole app. `support` has the app and its callers.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

mod account;
mod activity;
mod administration;
mod audit;
mod clock;
mod contract;
mod crowds;
mod deliveries;
mod described;
mod document;
mod erasing;
mod forwarding;
mod full_disk;
mod given_up;
#[path = "../guests/mod.rs"]
mod guests;
mod keeping;
mod key_change;
mod left_out;
mod metrics;
mod people;
mod plugin_files;
mod plugins;
mod policies;
mod queries;
mod refusals;
mod reset;
mod rollback;
mod second_opinion;
mod support;
mod tails;
mod trail_file;
mod witness;
