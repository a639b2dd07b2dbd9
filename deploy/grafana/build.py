"""Writes the dashboards, so that they are reviewed as a list of panels and not as 2,000 lines of JSON.

`python deploy/grafana/build.py` writes `dashboards/*.json`; `--check` says whether they are up to date.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DASHBOARDS = HERE / "dashboards"
# What the variables at the top of a dashboard choose; `$model` may be several.
OURS = 'job="$job",instance=~"$instance"'
MODEL = f'{OURS},model=~"$model"'
CALLS = f'{OURS},method!~"Health.*|Reflection|other"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def rate(name: str, by: str, where: str = MODEL) -> str:
    return f"sum by ({by}) (rate({name}{{{where}}}[$__rate_interval]))"


def quantile(q: float, name: str, by: str = "model") -> str:
    return f"histogram_quantile({q}, {rate(f'{name}_bucket', f'{by}, le')})"


def quantiles(name: str) -> list[tuple[str, str]]:
    return [(quantile(q, name), f"{{{{model}}}} {label}") for q, label in QUANTILES]


QUANTILES = [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")]


def mean(name: str) -> str:
    return f"{rate(f'{name}_sum', 'model')} / {rate(f'{name}_count', 'model')}"


def panel(kind: str, title: str, unit: str, targets: list, width: int, **more) -> dict:
    """One panel; `place` gives it its number and its place."""
    custom = {"fillOpacity": 12, "lineWidth": 1, "showPoints": "never", "spanNulls": False}
    if more.get("stacked"):
        custom |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 35}
    defaults = {"unit": unit, "custom": custom if kind == "timeseries" else {}}
    if "max" in more:
        defaults |= {"min": 0, "max": more["max"]}
    if "red_from" in more:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": more["red_from"]}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return {
        "type": kind,
        "title": title,
        "description": more.get("description", ""),
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": {"stat": 4, "table": 5}.get(kind, 8)},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": OPTIONS[kind],
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "format": {"heatmap": "heatmap", "table": "table"}.get(kind, "time_series"),
                "instant": kind == "table",
            }
            for number, (expression, legend) in enumerate(targets)
        ],
        **({"transformations": TABLE} if kind == "table" else {}),
    }


OPTIONS = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    "heatmap": {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": "s"},
        "legend": {"show": True},
    },
    "table": {"showHeader": True},
}
TABLE = [
    {
        "id": "organize",
        "options": {"excludeByName": {"Time": True, "Value": True, "__name__": True}},
    }
]


def stat(title: str, unit: str, expression: str, **more) -> dict:
    return panel("stat", title, unit, [(expression, "")], 4, **more)


def graph(title: str, unit: str, *targets, width: int = 8, **more) -> dict:
    return panel("timeseries", title, unit, list(targets), width, **more)


def row(title: str) -> dict:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


RECORDED = 'job="$job"'
RECORDED_MODEL = f'{RECORDED},model=~"$model"'

SERVICE = [
    row("Now"),
    stat("Calls", "reqps", f"sum(rate(paternoster_requests_total{{{CALLS}}}[$__rate_interval]))"),
    stat(
        "Failed calls, 5 min",
        "percentunit",
        f"job:paternoster_error:ratio_rate5m{{{RECORDED}}}",
        red_from=0.005,
        description="UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS, and calls that a full queue turned away.",
    ),
    stat(
        "First token, p95",
        "s",
        f"max(job_model:paternoster_time_to_first_token_seconds:p95_5m{{{RECORDED_MODEL}}})",
        red_from=2.5,
    ),
    stat(
        "Goodput",
        "percentunit",
        f"min(job_model:paternoster_goodput:ratio_5m{{{RECORDED_MODEL}}})",
        description="First tokens within 2.5 s, as a share of requests that ended or were refused.",
    ),
    stat(
        "Tokens out",
        "short",
        f"sum(rate(paternoster_generation_tokens_total{{{MODEL}}}[$__rate_interval]))",
        description="Tokens generated in a second.",
    ),
    stat(
        "Inputs embedded",
        "short",
        f'sum(rate(paternoster_encode_inputs_total{{{MODEL},outcome="encoded"}}[$__rate_interval]))',
        description="Inputs in a second.",
    ),
    row("Calls"),
    graph("By method", "reqps", (rate("paternoster_requests_total", "method", CALLS), "{{method}}")),
    graph(
        "Not well ended, by reason",
        "reqps",
        (rate("paternoster_call_errors_total", "reason", OURS), "{{reason}}"),
    ),
    graph(
        "In flight",
        "short",
        (f"sum by (method) (paternoster_calls_in_flight{{{OURS}}})", "{{method}}"),
        stacked=True,
    ),
    row("Generation"),
    graph("First token", "s", *quantiles("paternoster_time_to_first_token_seconds")),
    graph("Between two tokens", "s", *quantiles("paternoster_inter_token_latency_seconds")),
    graph("Whole request", "s", *quantiles("paternoster_e2e_request_latency_seconds")),
    graph("In the queue", "s", *quantiles("paternoster_request_queue_time_seconds")),
    graph(
        "Ends, by reason",
        "reqps",
        (rate("paternoster_requests_finished_total", "model, reason"), "{{model}} {{reason}}"),
        stacked=True,
    ),
    graph(
        "Callers that went away, and deadlines",
        "reqps",
        (rate("paternoster_client_cancellations_total", "phase"), "cancelled in {{phase}}"),
        (rate("paternoster_deadline_exceeded_total", "phase"), "deadline in {{phase}}"),
        (rate("paternoster_stream_stall_aborts_total", "model"), "{{model}} unread"),
    ),
    row("Embeddings"),
    graph(
        "Inputs, by outcome",
        "short",
        (rate("paternoster_encode_inputs_total", "model, outcome"), "{{model}} {{outcome}}"),
    ),
    graph("From submission to the vector", "s", *quantiles("paternoster_encode_latency_seconds")),
    graph("In the queue of embeddings", "s", *quantiles("paternoster_encode_queue_time_seconds")),
    row("Limits and the objective"),
    graph(
        "Refused, by reason",
        "reqps",
        (rate("paternoster_admission_rejects_total", "model, reason"), "{{model}} {{reason}}"),
        width=6,
    ),
    graph(
        "Connections",
        "short",
        (f"sum by (instance) (paternoster_connections{{{OURS}}})", "{{instance}} open"),
        (rate("paternoster_connections_closed_total", "reason", OURS), "closed in a second: {{reason}}"),
        width=6,
    ),
    graph(
        "Tokens of tenants",
        "short",
        (rate("paternoster_tenant_tokens_total", "tenant, kind", OURS), "{{tenant}} {{kind}}"),
        (rate("paternoster_tenant_refusals_total", "tenant, quota", OURS), "{{tenant}} refused: {{quota}}"),
        width=6,
        description="In a second; with API keys only.",
    ),
    graph(
        "Error budget burn",
        "short",
        (f"job:paternoster_error:ratio_rate5m{{{RECORDED}}} / 0.005", "5 min"),
        (f"job:paternoster_error:ratio_rate1h{{{RECORDED}}} / 0.005", "1 h"),
        (f"job:paternoster_error:ratio_rate6h{{{RECORDED}}} / 0.005", "6 h"),
        width=6,
        description="1 uses up the budget of 0.5 % in just 30 days; 14.4 for an hour pages.",
    ),
]

ENGINE = [
    row("Now"),
    stat("Running", "short", f"sum(paternoster_requests_running{{{MODEL}}})"),
    stat("Waiting", "short", f"sum(paternoster_requests_waiting{{{MODEL}}})"),
    stat(
        "KV blocks in use",
        "percentunit",
        f"max(job_model:paternoster_kv_active:ratio{{{RECORDED_MODEL}}})",
        red_from=0.95,
    ),
    stat(
        "Prefix hits",
        "percentunit",
        f"max(job_model:paternoster_prefix_hit:ratio_5m{{{RECORDED_MODEL}}})",
        description="Prompt tokens found in the prefix cache, of those looked up.",
    ),
    stat(
        "Restarts, 1 h",
        "short",
        f"sum(increase(paternoster_engine_restarts_total{{{MODEL}}}[1h]))",
        red_from=1,
    ),
    stat(
        "Faults, 1 h",
        "short",
        f"sum(increase(paternoster_nan_rows_total{{{MODEL}}}[1h]))"
        f" + sum(increase(paternoster_panics_total{{{OURS}}}[1h]))",
        red_from=1,
        description="Rows that were not finite, and panics.",
    ),
    row("Batching"),
    graph(
        "Requests",
        "short",
        (f"sum by (model) (paternoster_requests_running{{{MODEL}}})", "{{model}} running"),
        (f"sum by (model) (paternoster_requests_waiting{{{MODEL}}})", "{{model}} waiting"),
    ),
    graph(
        "Tokens in a second",
        "short",
        (rate("paternoster_prompt_tokens_total", "model"), "{{model}} prompt"),
        (rate("paternoster_generation_tokens_total", "model"), "{{model}} generated"),
        (rate("paternoster_encode_tokens_total", "model"), "{{model}} embedded"),
    ),
    graph("Positions in a step, mean", "short", (mean("paternoster_step_tokens"), "{{model}}")),
    graph("Step", "s", *quantiles("paternoster_step_seconds")),
    panel(
        "heatmap",
        "Steps by duration",
        "short",
        [(f"sum by (le) (increase(paternoster_step_seconds_bucket{{{MODEL}}}[$__rate_interval]))", "{{le}}")],
        8,
    ),
    graph("Text to tokens", "s", *quantiles("paternoster_tokenize_seconds")),
    row("Memory"),
    graph(
        "KV blocks",
        "short",
        (f"sum by (model, state) (paternoster_kv_blocks{{{MODEL}}})", "{{model}} {{state}}"),
        stacked=True,
    ),
    graph(
        "Prefix cache, tokens in a second",
        "short",
        (rate("paternoster_prefix_cache_queries_total", "model"), "{{model}} looked up"),
        (rate("paternoster_prefix_cache_hits_total", "model"), "{{model}} found"),
    ),
    graph(
        "Blocks under pressure",
        "short",
        (rate("paternoster_preemptions_total", "model"), "{{model}} preempted"),
        (rate("paternoster_evictions_total", "model"), "{{model}} evicted"),
    ),
    row("Requests and batches"),
    graph(
        "Length, mean",
        "short",
        (mean("paternoster_request_prompt_tokens"), "{{model}} prompt"),
        (mean("paternoster_request_generation_tokens"), "{{model}} generated"),
    ),
    graph(
        "Embedding batch, mean",
        "short",
        (mean("paternoster_encode_batch_inputs"), "{{model}} inputs"),
        (mean("paternoster_encode_batch_tokens"), "{{model}} tokens"),
        (f"sum by (model) (paternoster_encode_inputs_waiting{{{MODEL}}})", "{{model}} waiting"),
    ),
    graph("Embedding batch", "s", *quantiles("paternoster_encode_batch_seconds")),
    row("What runs"),
    panel("table", "Models", "short", [(f"paternoster_model_info{{{MODEL}}}", "")], 12),
    panel("table", "Servers", "short", [(f"paternoster_build_info{{{OURS}}}", "")], 12),
]


def place(panels: list[dict]) -> list[dict]:
    """Numbers, and places from left to right in 24 columns."""
    x = y = tallest = 0
    for number, one in enumerate(panels, 1):
        box = one.setdefault("gridPos", {"w": 24, "h": 1})
        if x + box["w"] > 24:
            x, y, tallest = 0, y + tallest, 0
        one["id"] = number
        box |= {"x": x, "y": y}
        x, tallest = x + box["w"], max(tallest, box["h"])
    return panels


def query(name: str, label: str, metric: str, **more) -> dict:
    definition = f"label_values({metric}, {label})"
    return {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": SOURCE,
        "definition": definition,
        "query": {"query": definition, "refId": name},
        "refresh": 2,
        "sort": 1,
        **more,
    }


SEVERAL = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}


def dashboard(uid: str, title: str, description: str, panels: list[dict]) -> dict:
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["paternoster"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "Paternoster", "tags": ["paternoster"], "asDropdown": True}
        ],
        "annotations": {"list": []},
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Source", "query": "prometheus"},
                query("job", "job", "paternoster_build_info"),
                query("instance", "instance", 'paternoster_build_info{job="$job"}', **SEVERAL),
                query("model", "model", 'paternoster_model_info{job="$job"}', **SEVERAL),
            ]
        },
        "panels": place(panels),
    }


ALL = {
    "service": dashboard(
        "paternoster-service",
        "Paternoster: service",
        "What callers see: calls, latency, refusals and the error budget.",
        SERVICE,
    ),
    "engine": dashboard(
        "paternoster-engine",
        "Paternoster: engine",
        "What the engines do: batches, steps, KV blocks, prefix cache, faults.",
        ENGINE,
    ),
}


def main() -> None:
    for name, content in ALL.items():
        path, text = DASHBOARDS / f"{name}.json", json.dumps(content, indent=1) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"{path.name} is out of date: python deploy/grafana/build.py")


if __name__ == "__main__":
    main()
