#!/bin/bash
# Keeps openapi/openapi.json as openapi/released/VERSION.json, once for each version: from then on
# compatible.sh compares with it. Run it when the version is tagged, and commit the file.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
version=$(python3 -c 'import json; print(json.load(open("openapi.json"))["info"]["version"])')
crate=$(sed -n 's/^version = "\(.*\)"$/\1/p' ../Cargo.toml | head -1)
[ "$version" = "$crate" ] || { echo "openapi.json is of $version, the crate is $crate: just openapi"; exit 1; }
released=released/$version.json
if [ -e "$released" ]; then echo "openapi/$released is there already: a released document does not change"; exit 1; fi
checks/compatible.sh || [ $? = 77 ]
mkdir -p released
cp openapi.json "$released"
echo "openapi/$released"
