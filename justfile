# Every recipe is a plain command that also works typed by hand. `just` without a name lists the recipes.

_list:
    @just --list --unsorted

# Serve sample organisations and print a curl command to paste
demo *args:
    cargo run --release -- demo {{args}}

# Serve ./latchkey-data
run *args:
    cargo run --release -- serve {{args}}

# Run all tests
test *args:
    cargo test {{args}}

# Run a lost device and five attacks on resets, and print each transcript by curl; `just stories 2 5` only these
stories *numbers:
    cargo build --release
    tests/stories/run.sh {{numbers}}

# Run what CI runs, or only the named steps: tests, format, lints, documentation, plugins, API checks
check *steps:
    .ci/run {{steps}}

# Measure the limits on plugins: memory after ten thousand hostile calls, other calls beside four runaways
limits:
    cargo test --release --test plugin_host -- --include-ignored --nocapture ten_thousand runaways

# Fuzz guided by coverage: `just fuzz 300` runs all targets for five minutes each, `just fuzz 300 tokens` one
fuzz *args:
    fuzz/run.sh {{args}}

# Rebuild the example policies from source into fixtures/plugins
plugins *names:
    plugins/build.sh {{names}}

# Take a new plugin in each language through all steps: new, build, test, pack, sign, verify
templates *languages:
    cargo build
    LATCHKEY=target/debug/latchkey plugins/author-path.sh target/ci/projects {{languages}}

# Regenerate openapi/openapi.json and .yaml from the code
openapi:
    mkdir -p openapi
    cargo run -q -- openapi > openapi/openapi.json
    cargo run -q -- openapi --yaml > openapi/openapi.yaml

# Lint the OpenAPI document: no error and no warning is accepted
openapi-lint:
    openapi/checks/lint.sh

# Compare the OpenAPI document with that of the last release
openapi-compatible:
    openapi/checks/compatible.sh

# Run Schemathesis against a server as admin, member and anonymous; `just schemathesis 300` takes minutes
schemathesis *examples:
    openapi/schemathesis/run.sh {{examples}}

# Test the explorer page in headless Chromium, without internet
explorer:
    openapi/explorer/run.sh

# Run every code block of openapi/README.md
openapi-readme *languages:
    python3 openapi/checks/readme.py {{languages}}

# Store the OpenAPI document as that of a release, which later ones are compared with
openapi-release:
    openapi/checks/release.sh

# Generate each client and run the story of a lost device with it
clients *names:
    openapi/clients/run.sh {{names}}

# Measure the parts: token check, policy call per language, store write, audit append, whole reset
bench *args:
    cargo bench --bench reset --bench policy_call --bench audit -- {{args}}
    cargo build --release
    plugins/call-costs.sh
    benches/bindings.sh

# `just load --server target/dist/latchkey` measures the binary that is installed; `BENCH_FSYNC_MS=2 just load`, and
# `bench` alike, measures on a disk whose fsyncs take two milliseconds more than those of this machine's.
# Measure the release binary under load beside its floors: one line per figure, and a plot (needs wrk)
load *args:
    cargo bench --bench load -- --svg target/load.svg {{args}}

# Open the documentation of the code in a browser
doc:
    cargo doc --no-deps --open

# Build the binary to install: the smallest and fastest (a quarter of an hour on two cores)
dist:
    cargo build --profile dist
