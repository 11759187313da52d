#!/bin/bash
# An attacker who has Jonas's password phones the help desk as Jonas, and logs in before he does.
. "$(dirname "$0")/story.sh"

tell "By default (Meadow), after a reset anyone who knows the password can log in."
log_in ada
call ada POST "/users/$(about dev id)/reset-mfa"
must 200 "MFA reset successfully"
show_password dev
must 200
holds '.mfaSetupRequired == false and .accessToken != null'

tell "Harbour has mfaRequired and enrolmentCodeRequired. Marta is deceived, too, and resets. But she hands the code that" \
  "she is shown to Jonas alone, in person."
log_in marta
call marta POST "/users/$(about jonas id)/reset-mfa" '{"reason":"Says that he lost his phone"}'
must 200 "MFA reset successfully"
code=$(take .enrolmentCode)

tell "The caller logs in first, with the password. The session can only set MFA up,"
show_password jonas
must 200
holds .mfaSetupRequired
token[caller]=$(take .accessToken)
call caller GET /account/sessions
must 403 "Set up MFA before anything else"

tell "and setting MFA up requires the code, which the caller does not have."
call caller POST /mfa/setup
must 200
secret=$(take .secret)
call caller POST /mfa/setup/confirm "{\"secret\":\"$secret\",\"code\":\"$(totp "$secret")\"}"
must 400
holds '.validationErrors.enrolmentCode == "is required: ask the administrator for it"'
call caller POST /mfa/setup/confirm "{\"secret\":\"$secret\",\"code\":\"$(totp "$secret")\",\"enrolmentCode\":\"AAAA-AAAA\"}"
must 400
holds '.validationErrors.enrolmentCode | startswith("is wrong")'

tell "Jonas logs in later, and has the code."
show_password jonas
must 200
token[jonas]=$(take .accessToken)
call jonas POST /mfa/setup
must 200
secret=$(take .secret)
call jonas POST /mfa/setup/confirm "{\"secret\":\"$secret\",\"code\":\"$(totp "$secret")\",\"enrolmentCode\":\"$code\"}"
must 200

tell "That ends the caller's session. The password opens nothing without Jonas's phone, and the attempts are in the" \
  "trail."
call caller POST /mfa/setup
must 401 "The access token has been revoked"
show_password jonas
must 200
holds '.mfaRequired and .accessToken == null'
trail marta "actorEmail=$(about jonas email)"
holds '[.content[] | select(.eventType == "USER_MFA_ENABLED") | .result] == ["SUCCESS", "DENIED", "DENIED"]'

ended_as_it_must 2
