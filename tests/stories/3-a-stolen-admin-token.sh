#!/bin/bash
# A thief has an admin's access token and uses it to reset ten users.
. "$(dirname "$0")/story.sh"
reset_each() { # WHO NAME…: the expected status and message of each are in `answer`
  local who=$1 name
  for name in "${@:2}"; do
    call "$who" POST "/users/$(about "$name" id)/reset-mfa"
    must "${answer[@]}"
  done
}

tell "Marta of Harbour and Ada of Meadow log in, and their tokens are stolen."
log_in marta
at=$SECONDS
log_in ada

tell "By default (Meadow) the token can do what Ada can for its 15 minutes: ten resets, and ten accounts that a password" \
  "opens. The default protection is a limit of 30 resets a minute and a notice to each user."
answer=(200 "MFA reset successfully")
reset_each ada mia noa oli pia quy rob sam tia uma val

tell "The damage can be undone. Ben, the other admin, ends Ada's sessions, and the stolen token with them. Then he restores" \
  "the users' factors, which also ends every session that was opened without them."
log_in ben
call ben DELETE "/users/$(about ada id)/sessions"
must 200
call ada POST "/users/$(about dev id)/reset-mfa"
must 401 "The access token has been revoked"
for name in mia noa oli pia quy rob sam tia uma val; do
  call ben POST "/users/$(about "$name" id)/restore-factors"
  must 200 "Factors restored successfully"
done

tell "Harbour has a policy, reset-budget: three resets by one admin in a day. It stops a fast thief."
reset_each marta abe bea cem
answer=(403 "An admin may carry out 3 resets in 24 hours.")
reset_each marta dia eva fay gus hal ida joe
holds '.denial.code == "admin-reset-budget" and .denial.allowedFrom != null'

tell "Harbour also has stepUpMinutes: an admin must have used their own second factor recently (here: within a minute, so" \
  "we now wait for that long). It stops a later thief at every such call, before any policy is asked."
while [ $SECONDS -lt $((at + 62)) ]; do sleep 1; done
answer=(401 "A more recent authentication is required")
reset_each marta dia
call marta POST "/users/$(about abe id)/restore-factors"
must "${answer[@]}"
call marta PATCH /organization/settings '{"mfaRequired":false}'
must "${answer[@]}"

tell "Marta has the phone: she steps up and continues."
call marta POST /auth/step-up "{\"code\":\"$(totp "$(about marta totp-secret)")\"}"
must 200
token[marta]=$(take .accessToken)
call marta POST "/users/$(about abe id)/restore-factors"
must 200 "Factors restored successfully"
trail marta "eventType=USER_MFA_RESET&size=20"
holds '[.content[].result] | (map(select(. == "SUCCESS")) | length) == 3 and length == 11'

ended_as_it_must 3
