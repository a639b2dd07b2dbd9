"""The chart, rendered with each file of ci/: valid for the API servers it meets, and what it promises.

HELM, PROMETHEUS_CRDS and KEDA_CRDS name the program and folders of CustomResourceDefinitions.
"""

import copy
import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dockerfile import BINARY, ROOT
from promql import selectors
from test_names import documented

CHART = ROOT / "deploy/helm/paternoster"
CASES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
# The first that the chart takes, and the last that the validator knows.
KUBERNETES = ["1.30", "1.37"]
NAMESPACE, RELEASE = "space", "lift"


def helm(*arguments: str) -> subprocess.CompletedProcess:
    command = ["helm", *arguments, "--kube-version", f"{KUBERNETES[0]}.0"]
    return subprocess.run(command, capture_output=True, text=True)


@cache
def render(case: str, *sets: str) -> list[dict]:
    words = ["template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(CHART / f"ci/{case}.yaml")]
    done = helm(*words, *[word for one in sets for word in ("--set", one)])
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def only(case: str, kind: str, *sets: str) -> dict:
    found = [one for one in render(case, *sets) if one["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def pod(case: str, *sets: str) -> dict:
    return only(case, "Deployment", *sets)["spec"]["template"]["spec"]


def server(case: str, *sets: str) -> dict:
    return pod(case, *sets)["containers"][0]


@cache
def custom_schemas() -> dict[tuple[str, str], dict]:
    """Schemas of the custom resources by apiVersion and kind, closed where they list properties."""
    found = {}
    monitors = ["podmonitors", "servicemonitors", "prometheusrules"]
    paths = [f"{os.environ['PROMETHEUS_CRDS']}/monitoring.coreos.com_{kind}.yaml" for kind in monitors]
    paths.append(f"{os.environ['KEDA_CRDS']}/keda.sh_scaledobjects.yaml")
    for path in paths:
        spec = yaml.load(Path(path).read_text(), yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = closed(version["schema"]["openAPIV3Schema"], top=True)
    return found


def closed(schema: dict, top: bool = False) -> dict:
    """Refuses properties that are not listed; metadata is the API server's own."""
    if "properties" in schema and "additionalProperties" not in schema:
        schema["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
        for name, inner in schema["properties"].items():
            if not (top and name == "metadata"):
                closed(inner)
    if isinstance(schema.get("items"), dict):
        closed(schema["items"])
    if top:
        schema["properties"]["metadata"] = {"type": "object"}
    if isinstance(schema.get("pattern"), str):  # Go takes flags anywhere, Python in front
        schema["pattern"] = schema["pattern"].replace("^(?i)", "(?i)^")
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    return schema


def validate(resource: dict) -> None:
    key = (resource["apiVersion"], resource["kind"])
    if "." in key[0].split("/")[0] and not key[0].split("/")[0].endswith("k8s.io"):
        jsonschema.validate(resource, custom_schemas()[key])
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_helm_lints_it(case):
    done = helm("lint", "--strict", str(CHART), "-f", str(CHART / f"ci/{case}.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_every_resource_is_valid(case):
    for resource in render(case):
        validate(resource)


@pytest.mark.parametrize("kind", ["Deployment", "PodMonitor", "PrometheusRule"])
def test_the_validators_notice_a_misspelt_field(kind):
    resource = copy.deepcopy(only("everything", kind))
    resource["spec"]["replicaz"] = 1
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(resource)


def test_the_cases_cover_every_template():
    made = "".join(
        helm("template", RELEASE, str(CHART), "-f", str(CHART / f"ci/{case}.yaml")).stdout
        for case in CASES
    )
    templates = {path.name for path in (CHART / "templates").rglob("*.yaml")}
    assert {name for name in templates if f"/{name}" in made} == templates


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("replicas=2", "replicas"),
        ("config.port=1", "port"),
        ("config.api-key=x", "api-key"),
        ("config.Max=1", "Max"),
            ("tls.secrets=x", "secrets"),
        ("autoscaling.by=cpu", "keda"),
        ("cache.claim.size=lots", "pattern"),
        ("config.drain-timeout=soon", "not a time"),
    ],
)
def test_wrong_values_are_refused(wrong, said):
    done = helm("template", RELEASE, str(CHART), "--set", wrong)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize("case", CASES)
def test_names_are_unique_and_selectors_meet_the_pods(case):
    resources = render(case)
    names = [(one["kind"], one["metadata"]["name"]) for one in resources]
    assert len(set(names)) == len(names)
    labels = only(case, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for one in resources:
        spec = one.get("spec", {})
        wanted = spec.get("podSelector") or spec.get("selector") or {}
        wanted = wanted.get("matchLabels", wanted)
        assert wanted.items() <= labels.items(), one["kind"]
        target = spec.get("scaleTargetRef")
        assert not target or target["name"] == only(case, "Deployment")["metadata"]["name"]
    tested = next(one for one in resources if one["kind"] == "Pod")
    assert "app.kubernetes.io/name" not in tested["metadata"]["labels"], "the test would get calls"


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case):
    """The Pod Security Standard `restricted`, and a root that cannot be written."""
    for spec in [pod(case), next(o for o in render(case) if o["kind"] == "Pod")["spec"]]:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize(("case", "drain"), [("default", 60), ("everything", 120), ("hpa", 2)])
def test_a_pod_has_time_to_drain(case, drain):
    sleep = server(case)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(case)["terminationGracePeriodSeconds"] == sleep + drain + 10


def test_the_default_drain_is_the_servers():
    assert "[default: 60s]" in flags()["drain-timeout"]


def test_probes_ask_what_the_server_answers():
    for case in ["default", "everything"]:
        container = server(case)
        port = container["ports"][0]["containerPort"]
        service = "paternoster.v1.Inference"
        assert container["startupProbe"]["grpc"] == {"port": port, "service": service}
        assert container["readinessProbe"]["grpc"] == {"port": port, "service": service}
        assert container["livenessProbe"]["grpc"] == {"port": port, "service": "liveness"}
        assert {"name": "PORT", "value": str(port)} in container["env"]
    startup = server("default")["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 600, "--start-timeout, 10m"


@cache
def flags() -> dict[str, str]:
    """The flags of `serve`, each with its help."""
    text = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True).stdout
    parts = re.split(r"^\s+(?:-\w, )?--([a-z-]+)", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_configuration_reaches_the_server(tmp_path):
    """The file of the ConfigMap, where the pod has it, is read by the binary as it was meant."""
    text = only("everything", "ConfigMap", "monitoring.dashboards=false")["data"]["paternoster.toml"]
    assert tomllib.loads(text) == {
        "model-id": ["chat=/models/chat", "embed=/models/embed"],
        "max-batch-size": 32,
        "max-batch-tokens": 16_000_000,
        "kv-cache-size": "2GiB",
        "drain-timeout": "2m",
        "json-output": True,
    }
    container = server("everything")
    file = Path(container["args"][-1])
    assert container["args"] == ["serve", "--config", str(file)]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod("everything")["volumes"]}
    mounted = volumes[mounts[str(file.parent)]]["configMap"]["name"]
    assert mounted == only("everything", "ConfigMap", "monitoring.dashboards=false")["metadata"]["name"]
    here = tmp_path / file.name
    here.write_text(text)
    done = checked(here)
    assert done.returncode == 78 and "/models/chat" in done.stderr, done.stderr
    here.write_text(text.replace("max-batch-size", "max-batch-sise"))
    done = checked(here)
    assert done.returncode == 78 and "max-batch-sise" in done.stderr, done.stderr


def checked(config: Path) -> subprocess.CompletedProcess:
    command = [BINARY, "serve", "--check-config", "--config", config]
    return subprocess.run(command, capture_output=True, text=True)


def test_with_tls_probes_and_prometheus_ask_the_plain_port():
    container = server("keda")
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        assert container[probe]["grpc"]["port"] == ports["health"]
    file = tomllib.loads(only("keda", "ConfigMap")["data"]["paternoster.toml"])
    assert file.pop("health-port") == ports["health"]
    folder = "/etc/paternoster-tls"
    assert file == {
        "tls-cert": f"{folder}/tls.crt",
        "tls-key": f"{folder}/tls.key",
        "tls-client-ca": f"{folder}/ca.crt",
    }
    assert file.keys() <= flags().keys()
    assert {"name": "tls", "mountPath": folder, "readOnly": True} in container["volumeMounts"]
    assert only("keda", "ServiceMonitor")["spec"]["endpoints"][0]["port"] == "health"
    allowed = only("keda", "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for rule in allowed for port in rule["ports"]} == ports.keys()
    for service in (one for one in render("keda") if one["kind"] == "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} == ports.keys()


def test_models_are_downloaded_first(tmp_path):
    """Into the same cache, with the same token, by words that the binary understands."""
    first, second = pod("everything")["initContainers"]
    assert first["args"][2:] == ["--revision", "main"]
    assert second["args"] == ["download", "Qwen/Qwen2.5-0.5B-Instruct"]
    container = server("everything")
    for one in [first, second]:
        assert one["image"] == container["image"]
        assert {"name": "HF_HOME", "value": "/data"} in one["env"]
        assert "HF_TOKEN" in {variable["name"] for variable in one["env"]}
        assert "API_KEY" not in {variable["name"] for variable in one["env"]}
        assert one["volumeMounts"][0] in container["volumeMounts"]
        env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([BINARY, *one["args"]], env=env, capture_output=True, text=True)
        assert done.returncode == 78 and "is not in the cache" in done.stderr, done.stderr
    assert "initContainers" not in pod("default")


def test_secrets_are_named_and_never_plain():
    text = yaml.safe_dump_all(one for one in render("everything") if one["kind"] != "Secret")
    assert "hf_example" not in text
    names = {one["name"]: one for one in server("everything")["env"] if "valueFrom" in one}
    assert names.keys() == {"HF_TOKEN", "API_KEY"}
    secret = only("everything", "Secret")["metadata"]["name"]
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in names.values()} == {secret}
    existing = [one for one in server("keda")["env"] if "valueFrom" in one]
    assert existing[0]["valueFrom"]["secretKeyRef"]["name"] == "paternoster-secrets"
    assert not [one for one in render("keda") if one["kind"] == "Secret"]
    assert not [one for one in server("default")["env"] if "valueFrom" in one]


def test_the_cache_is_a_claim_or_a_folder():
    def cache(case):
        return next(volume for volume in pod(case)["volumes"] if volume["name"] == "cache")

    assert cache("default")["emptyDir"] == {"sizeLimit": "50Gi"}
    claim = only("everything", "PersistentVolumeClaim")["metadata"]["name"]
    assert cache("everything")["persistentVolumeClaim"] == {"claimName": claim}
    assert cache("hpa")["persistentVolumeClaim"] == {"claimName": "models-cache"}
    for case in CASES:
        mounts = {mount["name"]: mount["mountPath"] for mount in server(case)["volumeMounts"]}
        assert {"name": "HF_HOME", "value": mounts["cache"]} in server(case)["env"]


def test_waiting_requests_scale_it():
    scaled = only("keda", "ScaledObject")["spec"]
    trigger = scaled["triggers"][0]["metadata"]
    assert trigger["threshold"] == "5"
    assert scaled["cooldownPeriod"] == 360
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 8)
    assert 'paternoster_requests_waiting{namespace="space",job="lift"}' in trigger["query"]
    assert {found.name for found in selectors(trigger["query"])} <= documented().keys()
    metric = only("hpa", "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    assert metric["metric"]["name"] == "paternoster_requests_waiting"
    assert metric["target"]["averageValue"] == "5"
    for case in ["keda", "hpa"]:
        assert "replicas" not in only(case, "Deployment")["spec"], "the autoscaler's to set"
    assert only("everything", "Deployment")["spec"]["replicas"] == 2


def test_the_monitors_find_the_port_once():
    endpoint = only("everything", "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert endpoint["port"] == server("everything")["ports"][0]["name"]
    assert endpoint["interval"] == "5s"
    monitor = only("keda", "ServiceMonitor")["spec"]
    assert monitor["jobLabel"] == "app.kubernetes.io/instance"
    excluded = {one["key"] for one in monitor["selector"]["matchExpressions"]}
    services = [one for one in render("keda") if one["kind"] == "Service"]
    met = [one for one in services if not excluded & one["metadata"]["labels"].keys()]
    assert len(services) == 2 and len(met) == 1
    assert next(s for s in services if s not in met)["spec"]["clusterIP"] == "None"


def test_rules_and_dashboards_are_those_of_the_repository():
    rules = only("everything", "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    maps = [one for one in render("everything") if one["kind"] == "ConfigMap"]
    data = next(one["data"] for one in maps if one["metadata"]["name"].endswith("dashboards"))
    for path in (ROOT / "deploy/grafana/dashboards").glob("*.json"):
        assert data.pop(f"paternoster-{path.name}").strip() == path.read_text().strip()
    assert not data


def test_a_changed_secret_or_flag_rolls_the_pods():
    def annotations(*sets):
        template = only("everything", "Deployment", *sets)["spec"]["template"]
        return template["metadata"]["annotations"]

    assert annotations("config.max-batch-size=16") != annotations()
    assert annotations("secrets.apiKey=other") != annotations()
