"""Every series that a rule or a dashboard reads exists, with the labels it is read by; test_chart.py
asks the same of what the chart scales on."""

import json
import re

import pytest
import yaml
from dockerfile import ROOT
from promql import labels, selectors

DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in ALL_RULES if "alert" in rule]
# What Prometheus adds to, or says about, a target.
SCRAPED = {"up": set()}
TARGET = {"job", "instance", "namespace", "pod"}


def documented() -> dict[str, set[str]]:
    """Every series of docs/metrics.md, parts of histograms included, with its labels."""
    series = {}
    rows = re.findall(r"^\| `([\w:]+)` \| (\w+) \| ([^|]*) \|", read("docs/metrics.md"), re.M)
    for name, kind, words in rows:
        own = {word.strip() for word in words.split(",") if word.strip()}
        if kind == "histogram":
            series[f"{name}_bucket"] = own | {"le"}
            series[f"{name}_sum"] = series[f"{name}_count"] = own
        else:
            series[name] = own
    assert len(series) > 50, "docs/metrics.md is not understood"
    return series


def read(path: str) -> str:
    return (ROOT / path).read_text()


def recorded() -> dict[str, set[str]]:
    """What the recording rules make: the labels stand at the front of the name."""
    names = [rule["record"] for rule in ALL_RULES if "record" in rule]
    return {name: set(name.split(":")[0].split("_")) for name in names}


def expressions() -> list[tuple[str, str]]:
    """Where it stands, and the expression."""
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in ALL_RULES]
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                found.append((f"{path.stem}: {panel['title']}", target["expr"]))
    return found


KNOWN = documented() | recorded() | SCRAPED


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_series_exists(where, expression):
    read_by = selectors(expression)
    assert read_by, f"{where} reads nothing"
    for selector in read_by:
        assert selector.name in KNOWN, f"{where}: no series {selector.name}"
        for label, _, _ in selector.matchers:
            assert label in KNOWN[selector.name] | TARGET, f"{where}: {selector} has no {label}"
    possible = set().union(*(KNOWN[selector.name] for selector in read_by))
    assert labels(expression) <= possible | TARGET, f"{where}: a label that nothing has"


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_values_of_labels_are_documented(where, expression):
    """A closed set of values stands in docs/metrics.md, behind a colon; a misspelt one matches nothing."""
    page = read("docs/metrics.md")
    for selector in selectors(expression):
        for label, operator, value in selector.matchers:
            if label in {"reason", "state", "phase", "cause", "outcome"} and operator == "=":
                row = next(
                    line for line in page.splitlines() if line.startswith(f"| `{selector.name}`")
                )
                said = row.split("|")[4]
                closed = ":" in said
                assert not closed or re.search(rf"\b{value}\b", said), f"{where}: {selector}"


def test_a_name_that_does_not_exist_is_noticed():
    assert [s.name for s in selectors('rate(paternoster_nonsense{a="b"}[5m]) > 1e3')] == [
        "paternoster_nonsense"
    ]
    assert "paternoster_nonsense" not in KNOWN


def rule_tests() -> list[dict]:
    files = sorted((DEPLOY / "prometheus").glob("*.test.yaml"))
    return [test for path in files for test in yaml.safe_load(path.read_text())["tests"]]


def test_every_alert_fires_once_and_is_explained():
    tests = rule_tests()
    fired = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert fired == set(ALERTS)
    explained = re.findall(r"^\| `(Paternoster\w+)` \|", read("docs/alerts.md"), re.M)
    assert explained == ALERTS, "docs/alerts.md lists the alerts in the order of the rules"


def test_every_recording_rule_is_read_or_tested():
    tests = rule_tests()
    tested = " ".join(case["expr"] for test in tests for case in test.get("promql_expr_test", []))
    used = {s.name for where, expression in expressions() for s in selectors(expression)}
    for name in recorded():
        assert name in used or name in tested, f"{name} is of no use"
