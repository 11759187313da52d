#!/bin/bash
# Resetting an admin takes two admins (adminOnAdmin = "second-admin"); one admin tries to be both.
. "$(dirname "$0")/story.sh"

tell "Marta requests a reset of Iris, who is an admin, too. That takes a second admin: nothing is changed yet."
log_in marta
call marta POST "/users/$(about iris id)/reset-mfa" '{"reason":"Lost phone"}'
must 202 "MFA reset awaits approval"
approval=$(take .approvalId)

tell "She tries to approve it herself, and so does Iris, whose account it is."
call marta POST "/approvals/$approval/approve"
must 403 "You asked for this yourself; another administrator has to agree"
log_in iris
call iris POST "/approvals/$approval/approve"
must 403 "This is about your own account; another administrator has to agree"

tell "So Marta tries to create a second admin. She cannot make one, promote one alone, or loosen the rule."
call marta POST /users '{"email":"puppet@harbour.example","role":"ORG_ADMIN"}'
must 403 "A second administrator has to agree to each new one here: make the user without the role, then change it"
call marta PATCH "/users/$(about jonas id)" '{"role":"ORG_ADMIN"}'
must 202
call marta PATCH /organization/settings '{"adminOnAdmin":"allowed"}'
must 403 "Only the operator can loosen the rule between administrators, at the command line"

tell "Omar, another admin, calls Iris back and approves. The reset is done once, and its entry names both admins."
log_in omar
call omar POST "/approvals/$approval/approve"
must 200 "MFA reset successfully"
call omar POST "/approvals/$approval/approve"
must 409
call iris GET /account/sessions
must 401 "The access token has been revoked"

tell "What the trail shows of resets and approvals:"
trail omar "eventType=USER_MFA_RESET"
holds '.content[0].details.approvedBy == ["'"$(about omar id)"'"]'
trail omar "eventType=APPROVAL_AGREE"
holds '[.content[].result] == ["DENIED", "SUCCESS", "DENIED", "DENIED"]'

ended_as_it_must 6
