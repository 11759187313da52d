# A JDK 17, oathtool for the codes, and the generator from PyPI. Its jar has the libraries that the generated
# code needs (Jackson with Java times), so nothing comes from a Maven repository; an application takes them
# from its own, as the generated pom.xml says.
set -e
for tool in javac python3; do
  if ! command -v $tool >/dev/null; then echo "there is no $tool"; exit 77; fi
done
command -v oathtool >/dev/null || apt-get install -y -q oathtool >/dev/null 2>&1 \
  || { apt-get update -q >/dev/null 2>&1 && apt-get install -y -q oathtool >/dev/null 2>&1; } \
  || { echo "there is no oathtool"; exit 77; }
venv=$CLIENT_WORK/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q -r requirements.txt || { echo "the generator can't be had"; exit 77; }
jar=$(find "$venv" -name openapi-generator.jar)
rm -rf "$CLIENT_WORK/generated" "$CLIENT_WORK/classes"
java -jar "$jar" generate -c generator.yaml -t templates -i "$OPENAPI" -o "$CLIENT_WORK/generated" > "$CLIENT_WORK/generator.log" 2>&1 \
  || { tail -20 "$CLIENT_WORK/generator.log"; exit 1; }
mkdir -p "$CLIENT_WORK/classes"
javac -nowarn -proc:none -cp "$jar" -d "$CLIENT_WORK/classes" $(find "$CLIENT_WORK/generated/src/main/java" -name '*.java')
javac -Xlint:all,-processing,-serial -Werror -cp "$CLIENT_WORK/classes:$jar" -d "$CLIENT_WORK/classes" \
  $(find src -name '*.java')
ln -sf "$jar" "$CLIENT_WORK/libraries.jar"
