#!/usr/bin/env bash
# All clients against two servers of the demo models, one open, one with TLS, client certificates and
# keys: checks, own tests, and clients/scenarios.json.
# Needs target/release/paternoster. `clients/run.sh python` runs only that one.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/tools.sh

check_python() {
  local python
  python=$(python_env clients grpcio==1.80.0 grpcio-tools==1.80.0 grpcio-health-checking==1.80.0 \
    googleapis-common-protos==1.76.0 hatchling==1.33.0 mypy==2.4.1 mypy-protobuf==5.1.0 \
    pytest==9.2.0 ruff==0.17.6 trustme==1.2.1 types-grpcio==1.85.0.20261028 \
    types-protobuf==6.32.1.20260221)
  cd clients/python
  "$python" -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps .
  "$python" -m ruff check -q
  "$python" -m ruff format -q --check
  "$python" -m mypy
  "$python" -m pytest -q -p no:cacheprovider
  "$python" tests/scenarios.py "${servers[@]}"
}

check_go() {
  local old
  need_go
  need_node
  cd clients/go
  export GOTOOLCHAIN=local
  old=$(cat paternosterv1/*.go | without_comments)
  npx --yes @bufbuild/buf@1.75.0 generate
  if [ "$(cat paternosterv1/*.go | without_comments)" != "$old" ]; then
    echo "clients/go/paternosterv1 was not what proto/ says; it is now" >&2
    return 1
  fi
  [ -z "$(gofmt -l .)" ] || { gofmt -d . >&2; return 1; }
  go vet ./...
  go test -count=1 ./...
  go run ./internal/scenarios ../scenarios.json "${servers[@]}"
}

check_typescript() {
  need_node
  cd clients/typescript
  npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
  npm run --silent build
  node --test --test-reporter=dot dist/test/*.test.js
  node dist/test/scenarios.js ../scenarios.json "${servers[@]}"
}

# Its tests against a failing server run with the workspace's, in the step test.
check_rust() {
  cargo run --quiet --locked -p paternoster-client --example scenarios -- \
    clients/scenarios.json "${servers[@]}"
}

without_comments() { sed -E 's,^\s*//.*,,;s,\s+//.*,,' | grep -v '^\s*$'; }

# An authority, a server it vouches for, a client of its own and one of a stranger's; the keys.
certificates() {
  local curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2)
  local name
  for name in ca stranger; do
    openssl req -x509 "${curve[@]}" -subj "/CN=$name" -keyout "$name.key" -out "$name.pem"
  done
  leaf server ca 'subjectAltName=IP:127.0.0.1,DNS:lift.example'
  leaf client ca 'subjectAltName=DNS:client.example'
  leaf unknown stranger 'subjectAltName=DNS:client.example'
}
leaf() {
  openssl req -x509 "${curve[@]}" -subj "/CN=$1" -addext "$3" -addext basicConstraints=critical,CA:FALSE \
    -CA "$2.pem" -CAkey "$2.key" -keyout "$1.key" -out "$1.pem"
}
keys() {
  cat <<'END'
[[key]]
name = "worker"
key = "scenario-worker"

[[key]]
name = "spent"
key = "scenario-spent"

[[tenant]]
name = "spent"
tokens_per_minute = 1
END
}

# serve ADDRESS LOG FLAG...: starts a server, to be stopped at the end.
servers_running=()
serve() {
  target/release/paternoster serve --port "${1#*:}" "${@:3}" >/dev/null 2>"$2" &
  servers_running+=($!)
}
free_address() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print("127.0.0.1:%d" % s.getsockname()[1])'
}
ready() {
  curl -fsS --retry 300 --retry-delay 0 --retry-max-time 60 --retry-all-errors -o /dev/null "$@" 2>/dev/null
}

need_curl
need_openssl
need_python
secrets="$PWD/.cache/clients/secrets"
rm -rf "$secrets"
mkdir -p "$secrets"
(cd "$secrets" && certificates 2>openssl.log || { cat openssl.log >&2; exit 1; })
keys >"$secrets/keys.toml"
PATERNOSTER_ADDRESS=$(free_address)
export PATERNOSTER_ADDRESS
trap 'kill "${servers_running[@]}" 2>/dev/null; wait "${servers_running[@]}" || true' EXIT
serve "$PATERNOSTER_ADDRESS" .cache/clients/server.log
secure_address=$(free_address)
serve "$secure_address" .cache/clients/secure.log --tls-cert "$secrets/server.pem" \
  --tls-key "$secrets/server.key" --tls-client-ca "$secrets/ca.pem" --api-keys-file "$secrets/keys.toml"
ready "http://$PATERNOSTER_ADDRESS/ready"
ready --cacert "$secrets/ca.pem" --cert "$secrets/client.pem" --key "$secrets/client.key" \
  -H 'authorization: Bearer scenario-worker' "https://$secure_address/ready"
servers=("$PATERNOSTER_ADDRESS" "$secure_address" "$secrets")

clients=("$@")
[ ${#clients[@]} -gt 0 ] || clients=(python go typescript rust)
for client in "${clients[@]}"; do
  echo "--- $client"
  ("check_$client")
done
