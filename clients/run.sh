#!/usr/bin/env bash
# All clients against one server of the demo models: checks, own tests, and clients/scenarios.json.
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
  "$python" tests/scenarios.py "$PATERNOSTER_ADDRESS"
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
  go run ./internal/scenarios ../scenarios.json "$PATERNOSTER_ADDRESS"
}

check_typescript() {
  need_node
  cd clients/typescript
  npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
  npm run --silent build
  node --test --test-reporter=dot dist/test/*.test.js
  node dist/test/scenarios.js ../scenarios.json "$PATERNOSTER_ADDRESS"
}

# Its tests against a failing server run with the workspace's, in the step test.
check_rust() {
  cargo run --quiet --locked -p paternoster-client --example scenarios -- \
    clients/scenarios.json "$PATERNOSTER_ADDRESS"
}

without_comments() { sed -E 's,^\s*//.*,,;s,\s+//.*,,' | grep -v '^\s*$'; }

need_curl
need_python
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PATERNOSTER_ADDRESS="127.0.0.1:$port"
mkdir -p .cache/clients
target/release/paternoster serve --port "$port" >/dev/null 2>.cache/clients/server.log &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" || true' EXIT
curl -fsS --retry 300 --retry-delay 0 --retry-max-time 60 --retry-all-errors -o /dev/null \
  "http://$PATERNOSTER_ADDRESS/ready" 2>/dev/null

clients=("$@")
[ ${#clients[@]} -gt 0 ] || clients=(python go typescript rust)
for client in "${clients[@]}"; do
  echo "--- $client"
  ("check_$client")
done
