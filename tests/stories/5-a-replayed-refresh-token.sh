#!/bin/bash
# A thief has copied a refresh token and uses it after its owner did.
. "$(dirname "$0")/story.sh"
refresh() { call nobody POST /auth/refresh "{\"refreshToken\":\"$1\"}"; }

tell "Jonas logs in. His client exchanges the refresh token for new tokens, as it does every quarter of an hour."
log_in jonas
first=$(take .refreshToken)
refresh "$first"
must 200
token[jonas]=$(take .accessToken)
second=$(take .refreshToken)
call jonas GET /account/sessions
must 200

tell "A refresh token works once. The thief uses the copy of the first one, so two people have it, and nobody can tell" \
  "which of them is Jonas: the session ends for both."
refresh "$first"
must 401 "The refresh token is invalid or has expired"
call jonas GET /account/sessions
must 401 "The access token has been revoked"
refresh "$second"
must 401 "The refresh token is invalid or has expired"

tell "Jonas logs in again, with his phone; the thief cannot. The trail and a notice to Jonas report what happened."
log_in jonas 30 # the first login's code is used up, so take the next one, half a minute early
log_in marta
trail marta eventType=REFRESH_TOKEN_REUSE
holds '.totalElements == 1 and .content[0].result == "DENIED"'

ended_as_it_must 5
