# Runs an example program as a person does: an admin's password, a code from an authenticator, a user who lost
# the phone. What is run is given as arguments: `example.sh node dist/src/reset-mfa.js`.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
command -v oathtool >/dev/null || apt-get install -y -q oathtool >/dev/null 2>&1 ||
  { echo "skipped: the example program, since there is no oathtool to make a code"; exit 0; }

# reset_as ADMIN ORGANIZATION USER COMMAND…: the admin resets the MFA of the user with the program; prints what it said.
reset_as() {
  local admin=$1 organization=$2 user=$3 secret said; shift 3
  secret=$(awk -v admin="$admin" 'index($0, admin) { found = 1 }
    found && /totp-secret/ { gsub(/"/, "", $3); print $3; exit }' "$here/story.toml")
  export LATCHKEY_ORGANIZATION=$organization LATCHKEY_EMAIL=$admin@$organization.example
  LATCHKEY_PASSWORD=$(awk -v admin="$admin" 'index($0, admin) { found = 1 }
    found && /^password/ { gsub(/"/, "", $3); print $3; exit }' "$here/story.toml")
  export LATCHKEY_PASSWORD
  said=$(oathtool --totp --base32 "$secret" | "$@" "$user@$organization.example" "Lost phone")
  # Python asks on standard output.
  echo "${said#Code: }"
}
# On a line of its own: the program asks for the code without ending its line.
tell() { printf '\nstory: %s\n' "$1"; }
expect() { [[ $1 =~ ^$2$ ]] || { printf 'the example program said: %s\ninstead of: %s\n' "$1" "$2"; exit 1; }; }

expect "$(reset_as ines.duarte juniper tom.weller "$@")" "MFA reset successfully"
tell "the example program reset the MFA of Tom Weller"
expect "$(reset_as rosa.lind larch nils.berg "$@")" \
  $'MFA reset successfully\nCode for the user, in person or by phone: [0-9a-zA-Z-]{8,}'
tell "it printed the code without which Nils Berg cannot set MFA up, and which nobody is shown again"
expect "$(reset_as bruno.alt larch rosa.lind "$@")" \
  $'MFA reset awaits approval\nAnother administrator must approve it: approval [0-9a-f-]{36}'
tell "it said which approval the reset of an admin waits for"
