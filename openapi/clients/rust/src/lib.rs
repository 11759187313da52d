//! The client that progenitor generates from `openapi/openapi.json`.
#![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/latchkey.rs"));
