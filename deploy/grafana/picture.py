"""Draws the dashboards for the documents: their own queries, run by Prometheus against a server under
load, their own titles, places and units. The drawing is matplotlib's, not Grafana's.

`deploy/check.sh picture` writes docs/images/dashboard-*.png.
"""

import json
import math
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm
from PIL import Image

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parents[1] / "docs/images"
sys.path.insert(0, str(HERE.parent / "tests"))
from live import Live, filled_in  # noqa: E402

UNIT_WIDE, UNIT_HIGH, DPI = 0.62, 0.36, 100
BACK, PANEL, TEXT, DIM, LINES = "#111217", "#181b1f", "#d8d9da", "#8e8e8e", "#2c3235"
COLOURS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#fade2a"]
COLOURS += ["#37872d", "#e0b400", "#1f60c4", "#c4162a"]


def shown(value: float, unit: str) -> str:
    """A number as Grafana writes it in a unit."""
    if not math.isfinite(value):
        return "–"
    if unit == "s":
        for factor, name in [(1, "s"), (1e-3, "ms"), (1e-6, "µs")]:
            if value >= factor or name == "µs":
                return f"{value / factor:.3g} {name}"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    text = f"{value / 1000:.3g} K" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} req/s" if unit == "reqps" else text


def legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def series(live: Live, panel: dict) -> list[tuple[str, list[float], list[float]]]:
    """Name, times since the start, and values of every line of a panel."""
    found = []
    for target in panel["targets"]:
        answer = live.query(filled_in(target["expr"]))
        for one in sorted(answer, key=lambda one: json.dumps(one["metric"])):
            times = [at - live.began for at, _ in one["values"]]
            values = [float(value) for _, value in one["values"]]
            found.append((legend(target["legendFormat"], one["metric"]), times, values))
    return found


def draw_timeseries(axes, panel, lines):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    stacked = "stacking" in panel["fieldConfig"]["defaults"]["custom"]
    # Lines that are zero throughout would only fill the legend.
    busy = [line for line in lines if any(value > 0 for value in line[2])] or lines[:1]
    base = {}
    for number, (name, times, values) in enumerate(busy):
        colour = COLOURS[number % len(COLOURS)]
        under = [base.get(at, 0) if stacked else 0 for at in times]
        above = [low + value for low, value in zip(under, values, strict=True)]
        base |= dict(zip(times, above, strict=True))
        axes.fill_between(times, under, above, color=colour, alpha=0.35 if stacked else 0.08, lw=0)
        axes.plot(times, above, color=colour, lw=1.1, label=name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.xaxis.set_major_formatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}")
    axes.grid(color=LINES, lw=0.6)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.08, -0.12), ncols=3, fontsize=6.5, frameon=False,
        labelcolor=TEXT, handlelength=1, columnspacing=1, borderaxespad=0,
    )


def draw_stat(axes, panel, lines):
    defaults = panel["fieldConfig"]["defaults"]
    _, times, values = lines[0]
    finite = [value for value in values if math.isfinite(value)]
    steps = defaults.get("thresholds", {}).get("steps", [])
    red = steps and finite[-1] >= steps[-1]["value"]
    colour = "#f2495c" if red else COLOURS[0]
    axes.fill_between(times, values, color=colour, alpha=0.18, lw=0)
    axes.plot(times, values, color=colour, lw=1)
    axes.set_ylim(0, (max(finite) or 1) * 2.2)
    axes.axis("off")
    text = shown(finite[-1], defaults["unit"])
    axes.text(0.5, 0.62, text, color=colour, fontsize=19, ha="center", transform=axes.transAxes)


def draw_heatmap(axes, panel, lines):
    lines = sorted(lines, key=lambda line: float(line[0]))
    times = lines[0][1]
    counts = [[max(value, 0) for value in values] for _, _, values in lines]
    rows = [counts[0], *[[b - a for a, b in zip(low, high, strict=True)] for low, high in zip(counts, counts[1:], strict=False)]]
    last = max(number for number, row in enumerate(rows) if any(value > 0.5 for value in row))
    rows = [[value if value > 0.5 else math.nan for value in row] for row in rows[: last + 2]]
    axes.pcolormesh(times, range(len(rows)), rows, cmap="Oranges_r", norm=LogNorm(), shading="nearest")
    axes.set_yticks(range(len(rows)), [shown(float(line[0]), "s") for line in lines[: len(rows)]])
    axes.xaxis.set_major_formatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}")


def draw_table(axes, live, panel):
    (target,) = panel["targets"]
    rows = [one["metric"] for one in live.query(filled_in(target["expr"]))]
    columns = [name for name in rows[0] if name not in {"__name__", "job"}]
    axes.axis("off")
    table = axes.table(
        [[row[name] for name in columns] for row in rows], colLabels=columns, loc="upper left",
        cellLoc="left", edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor(LINES)
        cell.get_text().set_color(DIM if row == 0 else TEXT)
        cell.set_height(0.22)


def draw(live: Live, path: Path) -> None:
    dashboard = json.loads(path.read_text())
    panels = dashboard["panels"]
    high = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 1.4
    wide = 24
    figure = plt.figure(figsize=(wide * UNIT_WIDE, high * UNIT_HIGH), dpi=DPI, facecolor=BACK)
    figure.text(0.008, 1 - 0.75 / high, dashboard["title"], color=TEXT, fontsize=13, weight="bold")
    note = "a server on 2 shared cores under a short load; drawn from the dashboard's queries, not by Grafana"
    figure.text(0.992, 1 - 0.75 / high, note, color=DIM, fontsize=8, ha="right")
    for panel in panels:
        box = panel["gridPos"]
        left, bottom = box["x"] / wide, 1 - (box["y"] + box["h"] + 1.4) / high
        if panel["type"] == "row":
            figure.text(left + 0.008, bottom + 0.3 / high, f"▾ {panel['title']}", color=TEXT, fontsize=9.5)
            continue
        frame = figure.add_axes([left + 0.003, bottom + 0.12 / high, box["w"] / wide - 0.006, (box["h"] - 0.24) / high])
        frame.set_facecolor(PANEL)
        frame.set(xticks=[], yticks=[])
        frame.spines[:].set_color(LINES)
        frame.text(0.015, 1 - 0.35 / box["h"], panel["title"], color=TEXT, fontsize=8.5, va="top", transform=frame.transAxes)
        low, top = (0.2, 1.2) if panel["type"] in {"stat", "table"} else (2.0, 1.3)
        margin = 0.008 if panel["type"] in {"stat", "table"} else 0.045
        axes = figure.add_axes([left + margin, bottom + low / high, box["w"] / wide - margin - 0.012, (box["h"] - low - top) / high])
        axes.set_facecolor(PANEL)
        axes.tick_params(colors=DIM, labelsize=6.5, length=0)
        axes.spines[:].set_visible(False)
        if panel["type"] == "table":
            draw_table(axes, live, panel)
        else:
            {"timeseries": draw_timeseries, "stat": draw_stat, "heatmap": draw_heatmap}[panel["type"]](
                axes, panel, series(live, panel)
            )
    target = IMAGES / f"dashboard-{path.stem}.png"
    figure.savefig(target, facecolor=BACK)
    Image.open(target).convert("RGB").quantize(160, method=Image.Quantize.FASTOCTREE).save(target, optimize=True)
    print(target, target.stat().st_size)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        live = Live(Path(scratch))
        try:
            for seconds in [30, 50, 20]:
                live.load(seconds)
            live.ended = time.time() - 3  # while the load still ran
            for path in sorted((HERE / "dashboards").glob("*.json")):
                draw(live, path)
        finally:
            live.stop()


if __name__ == "__main__":
    main()
