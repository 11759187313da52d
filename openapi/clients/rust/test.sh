export CARGO_TARGET_DIR=${CLIENT_TARGET:-$CLIENT_WORK/target}
cargo test --locked -- --nocapture && bash ../example.sh cargo run -q --locked --example reset_mfa --
