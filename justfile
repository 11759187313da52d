# Every recipe is a plain command that also works typed by hand; `just` without a name lists them.

_list:
    @just --list --unsorted

# The appliance with sample organisations, and a curl to paste
demo *args:
    cargo run --release -- demo {{args}}

# The appliance over ./latchkey-data
run *args:
    cargo run --release -- serve {{args}}

# All tests
test *args:
    cargo test {{args}}

# A lost device, and five attacks on resets: the transcript of each by curl, and how it ends
stories *numbers:
    cargo build --release
    tests/stories/run.sh {{numbers}}

# What CI runs: tests, format, lints, documentation, plugins, API checks
check *steps:
    .ci/run {{steps}}

# What limits are worth: memory after ten thousand hostile calls, others beside four runaways
limits:
    cargo test --release --test plugin_host -- --include-ignored --nocapture ten_thousand runaways

# Fuzz with coverage as the guide: `just fuzz 300` all targets for five minutes each, `just fuzz 300 tokens` one
fuzz *args:
    fuzz/run.sh {{args}}

# Rebuild the example policies from source into fixtures/plugins
plugins *names:
    plugins/build.sh {{names}}

# An author's path in each language: new, build, test, pack, sign, verify
templates *languages:
    cargo build
    LATCHKEY=target/debug/latchkey plugins/author-path.sh target/ci/projects {{languages}}

# Write openapi/openapi.json and .yaml anew from the code
openapi:
    mkdir -p openapi
    cargo run -q -- openapi > openapi/openapi.json
    cargo run -q -- openapi --yaml > openapi/openapi.yaml

# Lint the document: no error, no warning
openapi-lint:
    openapi/checks/lint.sh

# Compare the document with the last release's
openapi-compatible:
    openapi/checks/compatible.sh

# Schemathesis against a running server as admin, member and nobody; `just schemathesis 300` takes minutes
schemathesis *examples:
    openapi/schemathesis/run.sh {{examples}}

# The explorer page in headless Chromium, without internet
explorer:
    openapi/explorer/run.sh

# Run every block of openapi/README.md
openapi-readme *languages:
    python3 openapi/checks/readme.py {{languages}}

# Keep the document as that of a release: what later ones are compared with
openapi-release:
    openapi/checks/release.sh

# Generate each client and let it live through the story of a lost device
clients *names:
    openapi/clients/run.sh {{names}}

# What the parts cost: token check, policy call per language, store write, audit append, whole reset
bench *args:
    cargo bench --bench reset --bench policy_call --bench audit -- {{args}}
    cargo build --release
    plugins/call-costs.sh
    benches/bindings.sh

# The release binary under load beside its floors: one line per figure, and a plot (needs wrk)
load *args:
    cargo bench --bench load -- --svg target/load.svg {{args}}

# The documentation of the code, in a browser
doc:
    cargo doc --no-deps --open

# The smallest and fastest binary (several minutes)
dist:
    cargo build --profile dist
