# Runs an example program as a person does: an admin's password, a code from an authenticator, a user who lost
# the phone. What is run is given as arguments: `example.sh node dist/src/reset-mfa.js`.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
secret=$(awk '/ines.duarte/ { found = 1 } found && /totp-secret/ { gsub(/"/, "", $3); print $3; exit }' "$here/story.toml")
command -v oathtool >/dev/null || apt-get install -y -q oathtool >/dev/null 2>&1 ||
  { echo "skipped: the example program, since there is no oathtool to make a code"; exit 0; }
export LATCHKEY_ORGANIZATION=juniper LATCHKEY_EMAIL=ines.duarte@juniper.example LATCHKEY_PASSWORD=sample-ines-0005
said=$(oathtool --totp --base32 "$secret" | "$@" tom.weller@juniper.example "Lost phone")
# Python asks on standard output.
[ "${said#Code: }" = "MFA reset successfully" ] || { echo "the example program said: $said"; exit 1; }
echo; echo "story: the example program reset the MFA of Tom Weller"
