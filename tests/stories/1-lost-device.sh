#!/bin/bash
# The lost device: a developer's phone is gone, an admin resets, the developer sets up a new one. Settings: none.
. "$(dirname "$0")/story.sh"

tell "Ada, an admin, logs in: password first, then the code of her authenticator app (oathtool)."
show_password ada
must 200
holds '.mfaRequired and .accessToken == null'
show_code "$(totp "$(about ada totp-secret)")"
must 200
token[ada]=$(take .accessToken)

tell "Dev called her: the phone is gone. She finds him, and resets his MFA."
call ada GET "/users?query=raman"
must 200
holds '.[0].mfaEnabled'
dev=$(take '.[0].id')
call ada POST "/users/$dev/reset-mfa" '{"reason":"Lost phone, seen in person","ticket":"HD-4711"}'
must 200 "MFA reset successfully"

tell "A second reset is refused, and so is one of a user who does not exist."
call ada POST "/users/$dev/reset-mfa"
must 400 "MFA is not enabled for this user"
nobody=770e8400-e29b-41d4-a716-44665544ffff
call ada POST "/users/$nobody/reset-mfa"
must 404 "User not found with id: $nobody"

tell "Dev logs in with the password alone, and sets up the new phone."
show_password dev
must 200
holds '.mfaRequired == false'
token[dev]=$(take .accessToken)
call dev POST /mfa/setup
must 200
secret=$(take .secret)
call dev POST /mfa/setup/confirm "{\"secret\":\"$secret\",\"code\":\"$(totp "$secret")\"}"
must 200
holds '.recoveryCodes | length == 8'

tell "From now on his password opens nothing without the new phone's code."
show_password dev
must 200
holds '.mfaRequired and .accessToken == null'
show_code "$(totp "$secret" 30)" # the code that confirmed is used up, so take the next one, half a minute early
must 200

tell "All of this is in the trail, written in the same transaction as each change:"
trail ada eventType=USER_MFA_RESET
holds '[.content[].result] == ["DENIED", "DENIED", "SUCCESS"]'
holds '.content[2].details | tostring | contains("HD-4711")'

ended_as_it_must 1
