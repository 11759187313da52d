# Cargo. The generator's dependencies take a quarter of an hour to build on two cores, so CI skips them.
if ! command -v cargo >/dev/null; then echo "there is no cargo"; exit 77; fi
if [ -n "${CI:-}" ]; then echo "by hand only: its generator takes long to build"; exit 77; fi
unset CARGO_INCREMENTAL
CARGO_TARGET_DIR=${CLIENT_TARGET:-$CLIENT_WORK/target} cargo build --locked --examples --tests
