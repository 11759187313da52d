#!/bin/bash
# Lives through the stories against the real binary, and prints the transcript of each:
#   tests/stories/run.sh            all
#   tests/stories/run.sh 2 5        these
# It takes curl, jq and oathtool (Debian has them; pyotp does instead of oathtool). Without them: exit 77.
# STORIES=DIR also keeps the transcripts there.
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
