CARGO_TARGET_DIR=${CLIENT_TARGET:-$CLIENT_WORK/target} cargo test --locked -- --nocapture
