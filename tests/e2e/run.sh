#!/usr/bin/env bash
# End to end over loopback with tools nobody here wrote: grpcurl, ghz, Python grpcio, curl.
# Needs target/release/paternoster. Extra arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."
source .ci/tools.sh

need_curl
need_openssl
go_tool grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4
go_tool ghz github.com/bojand/ghz/cmd/ghz@v0.93.0
python=$(python_env e2e pytest==9.0.2 grpcio==1.80.0 grpcio-tools==1.80.0 grpcio-health-checking==1.80.0 huggingface_hub==2.4.0 cryptography==46.0.7)

generated=.cache/e2e/generated
mkdir -p "$generated"
"$python" -m grpc_tools.protoc -I proto --python_out="$generated" --grpc_python_out="$generated" proto/paternoster/v1/*.proto
minilm=$("$python" models/tests/golden/fetch_minilm.py .cache/e2e/minilm | tail -n 1)

PYTHONPATH="$generated" PATERNOSTER_MINILM="$minilm" \
  "$python" -m pytest -q -p no:cacheprovider tests/e2e "$@"
