# shellcheck shell=bash
# What the stories share. Each begins with `. "$(dirname "$0")/story.sh"` and uses these functions:
#   tell TEXT                        prints what happens, and why
#   log_in WHO [AHEAD]               logs in with the password, then the code of WHO's authenticator app (AHEAD seconds
#                                    from now); story 1 shows the two calls
#   call WHO METHOD PATH [JSON]      sends a request with WHO's access token (`nobody`: without one), shown as curl
#   must STATUS [MESSAGE]            checks the answer; `holds JQ` checks a condition on it, `take JQ` reads a value
#   trail WHO [QUERY]                shows the audit trail as the admin WHO sees it
#   ended_as_it_must N               prints that story N passed
# The real binary (LATCHKEY, or else target/release/latchkey) serves the users of sample.toml from its own data
# directory. In the transcript, $ADA stands for Ada's access token and $API for the address with /api/v1. Tokens and
# secrets are cut to their first letters; null fields are left out, and so are the time, status and path of errors.
set -euo pipefail
stories=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
sample=$stories/sample.toml
latchkey=$(realpath "$(command -v "${LATCHKEY:-$stories/../../target/release/latchkey}")")
declare -A token # of each person, by name
status='' body=''

data=$(mktemp -d)
: >"$data/out" # it is read below, maybe before the server has written
"$latchkey" --log-level warn --data-dir "$data/appliance" demo --sample "$sample" --listen 127.0.0.1:0 \
  >"$data/out" 2>"$data/log" &
server=$!
trap 'kill $server 2>/dev/null && wait $server; rm -rf "$data"' EXIT
for _ in $(seq 600); do
  API=$(sed -n 's/^Listening on //p' "$data/out")/api/v1
  [ "$API" = /api/v1 ] || break
  kill -0 $server || { cat "$data/log"; exit 1; }
  sleep 0.1
done

tell() { printf '\n%s\n' "$*" | fold -s -w 100 | sed 's/ *$//'; }
# Prints a field of a user in sample.toml: `about ada id`, `about ada totp-secret`.
about() {
  awk -F'"' -v who="$1@" -v field="$2" '/^\[/ { delete said } { split($1, name, " "); said[name[1]] = $2 }
    index(said["email"], who) == 1 && (field in said) { print said[field]; exit }' "$sample"
}
organization() { about "$1" email | sed 's/.*@\(.*\)\.example/\1/'; }

# totp SECRET [AHEAD]: the code of an authenticator app, AHEAD seconds from now. Each code is accepted once.
totp() {
  if command -v oathtool >/dev/null; then
    oathtool --totp --base32 --now "@$(($(date +%s) + ${2:-0}))" "$1"
  else
    python3 -c 'import pyotp, sys, time; print(pyotp.TOTP(sys.argv[1]).at(int(time.time()) + int(sys.argv[2])))' "$1" "${2:-0}"
  fi
}

call() {
  local who=$1 curl=(curl -sS -X "$2" "$API$3") shown="curl -X $2 \$API$3"
  shown=${shown/-X GET /}
  if [ "$who" != nobody ]; then
    curl+=(-H "Authorization: Bearer ${token[$who]}") shown+=" -H \"Authorization: Bearer \$${who^^}\""
  fi
  if [ $# = 4 ]; then
    curl+=(-H 'Content-Type: application/json' -d "$4") shown+=" -d '$4'"
  fi
  printf '$ %s\n' "$shown" | hide
  body=$("${curl[@]}" -w '\n%{http_code}')
  status=${body##*$'\n'} body=${body%$'\n'*}
  printf '%s %s\n' "$status" "$body" | hide
}

# Shortens secrets and leaves out what distracts.
hide() {
  sed -E 's/"(accessToken|refreshToken|mfaChallengeToken|secret|qrCodeBase64)":"([^"]{3})[^"]*"/"\1":"\2…"/g
    s/"enrolmentCode":"(...)[0-9A-Z-]+"/"enrolmentCode":"\1…"/; s/("recoveryCodes":\["...)[^]]*/\1…"/
    s/"timestamp":"[^"]*","status":[0-9]+,//; s/,"path":"[^"]*"//
    s/"[A-Za-z]+":null,?//g; s/,\}/}/g; s/,"user":\{[^}]*\}//'
}

must() {
  if [ "$status" != "$1" ] || { [ $# = 2 ] && [ "$(take .message)" != "$2" ]; }; then
    echo "THE STORY FAILED: it should have been $*, and was $status $body"
    grep -v '^Loading sample' "$data/log" || true
    exit 1
  fi
}
take() { jq -r "$1" <<<"$body"; }
holds() { jq -e "$1" <<<"$body" >/dev/null || must "an answer of which holds: $1"; }

# The first step of a login. The answer depends on the second factor.
show_password() {
  call nobody POST /auth/login "{\"organizationSlug\":\"$(organization "$1")\",\"email\":\"$(about "$1" email)\",\"password\":\"$(about "$1" password)\"}"
}
# The second step, with the code.
show_code() {
  call nobody POST /auth/verify-mfa "{\"mfaChallengeToken\":\"$(take .mfaChallengeToken)\",\"code\":\"$1\"}"
}
log_in() {
  show_password "$1" >/dev/null
  must 200
  show_code "$(totp "$(about "$1" totp-secret)" "${2:-0}")" >/dev/null
  must 200
  token[$1]=$(take .accessToken)
  echo "(\$${1^^} is the access token of $(about "$1" email), $(about "$1" role) of $(organization "$1"))"
}

trail() {
  echo "\$ curl \"\$API/audit-logs?${2:-size=10}\" -H \"Authorization: Bearer \$${1^^}\" | jq …"
  body=$(curl -sS "$API/audit-logs?${2:-size=10}" -H "Authorization: Bearer ${token[$1]}")
  jq -r '.content | reverse[] | "\(.eventType) \(.result) by \(.actorEmail // .actorType) on \(.resourceName // .resourceId // "-")"
    + if .errorMessage then ": " + .errorMessage else "" end' <<<"$body"
}

ended_as_it_must() { printf '\nstory %s: ended as it must\n' "$1"; }
