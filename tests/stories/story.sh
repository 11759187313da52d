# shellcheck shell=bash
# What the stories share. Each begins with `. "$(dirname "$0")/story.sh"` and is written in these words:
#   tell TEXT                        what happens, and why
#   log_in WHO [AHEAD]               password, then the code of WHO's authenticator app (of AHEAD seconds from now):
#                                    story 1 shows the two calls of it
#   call WHO METHOD PATH [JSON]      a request with WHO's access token (`nobody`: without), shown as curl
#   must STATUS [MESSAGE]            how it has to be answered; `holds JQ` says more of the answer, `take JQ` reads it
#   trail WHO [QUERY]                what the audit trail says, as the admin WHO reads it
#   ended_as_it_must N
# The real binary (LATCHKEY, else target/release/latchkey) serves the people of sample.toml from a data directory
# of its own. In what is shown $ADA stands for Ada's access token and $API for the address with /api/v1. Tokens and
# secrets are cut to their first letters; what is null is left out, and of errors time, status and path.
set -euo pipefail
stories=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
sample=$stories/sample.toml
latchkey=$(realpath "$(command -v "${LATCHKEY:-$stories/../../target/release/latchkey}")")
declare -A token # of each person, by name
status='' body=''

data=$(mktemp -d)
: >"$data/out" # to be read before the server writes
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
# What sample.toml says of somebody: `about ada id`, `about ada totp-secret`.
about() {
  awk -F'"' -v who="$1@" -v field="$2" '/^\[/ { delete said } { split($1, name, " "); said[name[1]] = $2 }
    index(said["email"], who) == 1 && (field in said) { print said[field]; exit }' "$sample"
}
organization() { about "$1" email | sed 's/.*@\(.*\)\.example/\1/'; }

# The code of an authenticator app with that secret, so many seconds from now: each code is taken once.
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

# What nobody needs to see, and nobody shall.
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

# The first step of a login. What it is answered depends on the second factor.
show_password() {
  call nobody POST /auth/login "{\"organizationSlug\":\"$(organization "$1")\",\"email\":\"$(about "$1" email)\",\"password\":\"$(about "$1" password)\"}"
}
# The second one, with the code of the secret.
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
