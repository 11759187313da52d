//! The appliance: every part built once, handed out, and stopped in order.

mod client_address;
mod listener;
