# The call as EntryGuard documents it, with the base URL and the token changed and nothing else.
set -euo pipefail
base=$LATCHKEY_URL
json() { python3 -c "import json,sys; print(json.load(sys.stdin)['$1'])"; }
post() { curl -sS -X POST "$base/api/v1/auth/$1" -H 'Content-Type: application/json' -d "$2"; }
challenge=$(post login '{"organizationSlug":"juniper","email":"amara.okafor@juniper.example","password":"sample-amara-0003"}' \
  | json mfaChallengeToken)
code=$(oathtool --totp -b NFDMQGXONIZD2IJW5VSTRRX4HSDMXTNS)
token=$(post verify-mfa "{\"mfaChallengeToken\":\"$challenge\",\"code\":\"$code\"}" | json accessToken)

reset() {
  curl -sS -X POST "$base/api/v1/users/$1/reset-mfa" -H "Authorization: Bearer $token" -w '\n%{http_code}'
}
expect() { [ "$1" = "$2" ] || { printf 'expected %s\ngot      %s\n' "$2" "$1"; exit 1; }; }

expect "$(reset 770e8400-e29b-41d4-a716-446655440004)" $'{"message":"MFA reset successfully"}\n200'
echo 'story: 200 {"message":"MFA reset successfully"}'
expect "$(reset 770e8400-e29b-41d4-a716-446655440004 | sed -E 's/"timestamp":"[^"]+"/"timestamp":T/')" \
  $'{"timestamp":T,"status":400,"error":"Bad Request","message":"MFA is not enabled for this user","path":"/api/v1/users/770e8400-e29b-41d4-a716-446655440004/reset-mfa"}\n400'
echo "story: 400 for a user without MFA"
expect "$(reset 770e8400-e29b-41d4-a716-44665544ffff | tail -1)" 404
expect "$(token=wrong reset 770e8400-e29b-41d4-a716-446655440004 | tail -1)" 401
echo "story: 404 for an unknown user, 401 for a wrong token"
