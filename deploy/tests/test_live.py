"""Every panel shows something, and every series is there, when a real Prometheus scrapes a server."""

import json
import math

import pytest
from dockerfile import ROOT
from live import Live, filled_in
from promql import selectors
from test_names import ALL_RULES

SECONDS = 16
# Series that appear with the first event of their kind, of kinds that the load does not have.
MISFORTUNES = ['code=~"UNKNOWN|INTERNAL', "paternoster_connections_closed_total"]
MISFORTUNES += ["paternoster_tenant_refusals_total", "paternoster_reloads_total", "paternoster_tls_"]
# May have no value at all, where nothing of the kind happened.
MAY_BE_EMPTY = {
    "Connections: closed in a second: {{reason}}",
    "Tokens of tenants: {{tenant}} refused: {{quota}}",
}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    live = Live(tmp_path_factory.mktemp("live"))
    try:
        live.load(SECONDS)
        yield live
    finally:
        codes = live.stop()
    assert codes == [0, 0]


def targets() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                found.append((f"{panel['title']}: {target['legendFormat']}", target["expr"]))
    return found


@pytest.mark.parametrize(("where", "expression"), targets())
def test_every_panel_shows_something(live, where, expression):
    series = live.query(filled_in(expression))
    if where in MAY_BE_EMPTY:
        return
    assert series, f"{where}: no data for {filled_in(expression)}"
    values = [float(value) for one in series for _, value in one["values"]]
    assert any(math.isfinite(value) for value in values), f"{where}: only NaN"


def test_every_series_is_there(live):
    texts = [rule["expr"] for rule in ALL_RULES] + [expression for _, expression in targets()]
    read = {filled_in(str(found)) for text in texts for found in selectors(text)}
    missing = [text for text in sorted(read) if not live.query(text)]
    missing = [text for text in missing if not any(kind in text for kind in MISFORTUNES)]
    assert not missing


@pytest.mark.parametrize("rule", [r for r in ALL_RULES if "record" in r], ids=lambda r: r["record"])
def test_every_recording_rule_records(live, rule):
    assert live.query(rule["record"])


def test_a_load_without_a_fault_raises_no_other_alert(live):
    """Callers that give up are no alarm, and neither are preemptions of a moment."""
    firing = {one["metric"]["alertname"] for one in live.query('ALERTS{alertstate="firing"}')}
    # The full queue does count, and these look at as much of their windows as there is.
    budget = {f"PaternosterErrorBudget{speed}" for speed in ["Fast", "Steady", "Slow"]}
    assert firing <= budget
