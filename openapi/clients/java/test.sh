set -e
run="java -cp $CLIENT_WORK/classes:$CLIENT_WORK/libraries.jar"
$run example.Story
# The example program says what the API said.
if LATCHKEY_ORGANIZATION=juniper LATCHKEY_EMAIL=amara.okafor@juniper.example LATCHKEY_PASSWORD=wrong \
  $run example.ResetMfa dev.raman@juniper.example 2> "$CLIENT_WORK/error"; then exit 1; fi
grep -E '^Invalid credentials \(request [0-9a-f-]{36}\)$' "$CLIENT_WORK/error"
bash ../example.sh $run example.ResetMfa
