#!/bin/bash
# A help-desk agent, or an attacker with an agent's account, tries to take over an admin's account.
. "$(dirname "$0")/story.sh"

tell "Harbour has helpDeskEnabled. Nora of the help desk resets members: that is her job."
log_in nora
call nora POST "/users/$(about jonas id)/reset-mfa"
must 200 "MFA reset successfully"

tell "She can reset nobody else: not an admin, not a colleague, not herself."
call nora POST "/users/$(about marta id)/reset-mfa"
must 403 "You cannot do this to an account with a higher role"
call nora POST "/users/$(about nils id)/reset-mfa"
must 403 "You cannot do this to an account with a higher role"
call nora POST "/users/$(about nora id)/reset-mfa"
must 403 "You cannot do this to your own account; another administrator can"

tell "No other call helps her either."
answer=(403 "Role ORG_ADMIN is required")
call nora POST "/users/$(about marta id)/reset-password"
must "${answer[@]}"
call nora PATCH "/users/$(about nora id)" '{"role":"ORG_ADMIN"}'
must "${answer[@]}"
call nora POST "/users/$(about jonas id)/restore-factors"
must "${answer[@]}"
call nora POST /users '{"email":"friend@harbour.example","role":"ORG_ADMIN"}'
must "${answer[@]}"
call nora PATCH /organization/settings '{"adminOnAdmin":"allowed"}'
must "${answer[@]}"

tell "Not even an admin of another organisation can: for Ada of Meadow, Marta does not exist."
log_in ada
call ada POST "/users/$(about marta id)/reset-mfa"
must 404 "User not found with id: $(about marta id)"

tell "What an admin of Harbour sees in the trail:"
log_in marta
trail marta "actorEmail=$(about nora email)&size=20"
holds '[.content[] | select(.eventType == "USER_MFA_RESET") | .result] == ["DENIED", "DENIED", "DENIED", "SUCCESS"]'

ended_as_it_must 4
