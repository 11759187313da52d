# curl, python3 to read JSON, and oathtool for the code.
for tool in curl python3; do
  if ! command -v $tool >/dev/null; then echo "there is no $tool"; exit 77; fi
done
command -v oathtool >/dev/null || apt-get install -y -q oathtool >/dev/null 2>&1 || { echo "there is no oathtool"; exit 77; }
