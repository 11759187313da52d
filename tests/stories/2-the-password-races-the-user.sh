#!/bin/bash
# Somebody who has Jonas's password phones the help desk as Jonas, and is faster than he is.
. "$(dirname "$0")/story.sh"

tell "By default (Meadow) a reset means what it says: whoever knows the password is in."
log_in ada
call ada POST "/users/$(about dev id)/reset-mfa"
must 200 "MFA reset successfully"
show_password dev
must 200
holds '.mfaSetupRequired == false and .accessToken != null'

tell "Harbour has mfaRequired and enrolmentCodeRequired. Marta is deceived as well, and resets. But the code that she" \
  "is shown goes to Jonas alone: she hands it over in person."
log_in marta
call marta POST "/users/$(about jonas id)/reset-mfa" '{"reason":"Says that he lost his phone"}'
must 200 "MFA reset successfully"
code=$(take .enrolmentCode)

tell "The caller is first with the password. It opens the set-up of MFA and nothing else,"
show_password jonas
must 200
holds .mfaSetupRequired
token[caller]=$(take .accessToken)
call caller GET /account/sessions
must 403 "Set up MFA before anything else"

tell "and the set-up asks for the code that the caller has not got."
call caller POST /mfa/setup
must 200
secret=$(take .secret)
call caller POST /mfa/setup/confirm "{\"secret\":\"$secret\",\"code\":\"$(totp "$secret")\"}"
must 400
holds '.validationErrors.enrolmentCode == "is required: ask the administrator for it"'
call caller POST /mfa/setup/confirm "{\"secret\":\"$secret\",\"code\":\"$(totp "$secret")\",\"enrolmentCode\":\"AAAA-AAAA\"}"
must 400
holds '.validationErrors.enrolmentCode | startswith("is wrong")'

tell "Jonas comes later, with the code."
show_password jonas
must 200
token[jonas]=$(take .accessToken)
call jonas POST /mfa/setup
must 200
secret=$(take .secret)
call jonas POST /mfa/setup/confirm "{\"secret\":\"$secret\",\"code\":\"$(totp "$secret")\",\"enrolmentCode\":\"$code\"}"
must 200

tell "With that the caller's session is over, the password opens nothing without Jonas's phone, and the attempts are" \
  "on the record."
call caller POST /mfa/setup
must 401 "The access token has been revoked"
show_password jonas
must 200
holds '.mfaRequired and .accessToken == null'
trail marta "actorEmail=$(about jonas email)"
holds '[.content[] | select(.eventType == "USER_MFA_ENABLED") | .result] == ["SUCCESS", "DENIED", "DENIED"]'

ended_as_it_must 2
