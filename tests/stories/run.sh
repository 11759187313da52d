#!/bin/bash
# Runs the stories against the real binary and prints the transcript of each:
#   tests/stories/run.sh            all of them
#   tests/stories/run.sh 2 5        only these
# Needs curl, jq and oathtool (all in Debian; pyotp can replace oathtool). Exits with 77 if one is missing.
# STORIES=DIR keeps the transcripts in that directory.
set -uo pipefail
cd "$(dirname "$(realpath "$0")")" || exit
for tool in curl jq oathtool; do
  command -v $tool >/dev/null || apt-get install -y -q $tool >/dev/null 2>&1 ||
    { apt-get update -q && apt-get install -y -q $tool; } >/dev/null 2>&1 ||
    { [ $tool = oathtool ] && python3 -c 'import pyotp' 2>/dev/null; } ||
    { echo "$tool can't be had here"; exit 77; }
done
kept=${STORIES:-$(mktemp -d)}
mkdir -p "$kept"
[ -n "${STORIES:-}" ] || trap 'rm -r "$kept"' EXIT
failed=0
for story in $(printf '%s-*.sh\n' "${@:-[0-9]}"); do
  echo "=== ${story%.sh} ==="
  bash "$story" 2>&1 | tee "$kept/${story%.sh}.txt" || { echo "FAILED $story"; failed=1; }
done
exit $failed
