"""compose.yaml as `docker compose` loads it, and whether its parts find each other."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from dockerfile import ROOT

DEPLOY = ROOT / "deploy"


def load(path: Path) -> subprocess.CompletedProcess:
    command = ["cmd", "-format", "json", path.name]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True)


@pytest.fixture(scope="module")
def services():
    done = load(DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


def read(path: str):
    return yaml.safe_load((DEPLOY / path).read_text())


def test_a_misspelt_key_is_refused(tmp_path):
    odd = tmp_path / "compose.yaml"
    odd.write_text((DEPLOY / "compose.yaml").read_text().replace("read_only:", "readonly:"))
    done = load(odd)
    assert done.returncode != 0 and "readonly" in done.stderr


def test_images_are_pinned(services):
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name


def test_what_is_mounted_is_there(services):
    for service in services.values():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).is_dir(), volume
    build = services["paternoster"]["build"]
    assert Path(build["context"], build["dockerfile"]).is_file()


def test_nothing_listens_beyond_this_machine(services):
    for service in services.values():
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"


def test_services_may_do_little(services):
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
    assert services["paternoster"]["read_only"] and services["prometheus"]["read_only"]


def test_the_server_may_drain(services):
    grace = services["paternoster"]["stop_grace_period"]
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", grace).groups()
    assert int(minutes or 0) * 60 + int(seconds) > 60, "--drain-timeout"


def test_prometheus_scrapes_the_server(services):
    mounted = {v["target"]: Path(v["source"]) for v in services["prometheus"]["volumes"]}
    flag = next(word for word in services["prometheus"]["command"] if "config.file" in word)
    config = mounted["/etc/prometheus"] / Path(flag.partition("=")[2]).name
    (scrape,) = yaml.safe_load(config.read_text())["scrape_configs"]
    (lookup,) = scrape["dns_sd_configs"]
    assert set(lookup["names"]) <= services.keys()
    exposed = re.search(r"^EXPOSE (\d+)$", (DEPLOY / "Dockerfile").read_text(), re.M).group(1)
    assert str(lookup["port"]) == exposed == services["paternoster"]["ports"][0]["published"]


def test_grafana_finds_prometheus_and_the_dashboards(services):
    (source,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    host, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()
    assert port == str(services[host]["ports"][0]["target"])
    interval = read("prometheus/prometheus.yaml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    (provider,) = read("grafana/provisioning/dashboards/paternoster.yaml")["providers"]
    mounted = {v["target"]: v["source"] for v in services["grafana"]["volumes"]}
    dashboards = list(Path(mounted[provider["options"]["path"]]).glob("*.json"))
    assert len(dashboards) == 2
    home = Path(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert home.name in {path.name for path in dashboards}
