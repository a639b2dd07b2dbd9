//! Plots as SVG.

use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{Circle, PathElement};
use plotters::prelude::SVGBackend;
use plotters::series::LineSeries;
use plotters::style::{Color as _, RGBColor, WHITE};

use crate::args::Metric;
use crate::report::{Point, Report};
use crate::sweep::{Sweep, figure};

/// The size of one chart.
const WIDTH: u32 = 420;
const HEIGHT: u32 = 300;

/// Charts in a row.
const COLUMNS_MAX: usize = 3;

/// Values that differ by more than this are drawn by their logarithm.
const LOGARITHM_ABOVE: f64 = 30.0;

/// Told apart also by those who see no red or no green.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
];

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// One chart.
struct Chart {
    title: String,
    below: String,
    /// What stands at x = 0, 1, ...; empty if x is a number.
    marks: Vec<String>,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// A run, moment by moment.
pub(crate) fn run(report: &Report) -> Result<String, Box<dyn std::error::Error>> {
    let line = |name: &str, of: fn(&Point) -> f64| Line {
        name: name.to_owned(),
        points: report
            .series
            .iter()
            .map(|point| (point.begin, of(point)))
            .collect(),
    };
    let chart = |title: &str, lines: Vec<Line>| Chart {
        title: title.to_owned(),
        below: "seconds".to_owned(),
        marks: Vec::new(),
        lines,
    };
    draw(&[
        chart(
            "output tokens/s",
            vec![line("", |point| point.output_tokens)],
        ),
        chart(
            "requests",
            vec![
                line("running", |point| point.running),
                line("longest queue", |point| point.waiting_max as f64),
            ],
        ),
        chart(
            "first token, ms",
            vec![
                line("p50", |point| point.ttft_p50),
                line("p99", |point| point.ttft_p99),
            ],
        ),
        chart(
            "KV cache held, %",
            vec![line("", |point| 100.0 * point.kv_use)],
        ),
    ])
}

/// Several runs: a chart for each metric, from left to right what was varied first.
pub(crate) fn sweep(
    sweep: &Sweep,
    metrics: &[Metric],
) -> Result<String, Box<dyn std::error::Error>> {
    let value = |at: usize| {
        let mut found: Vec<String> = Vec::new();
        for run in &sweep.runs {
            if !found.contains(&run.values[at]) {
                found.push(run.values[at].clone());
            }
        }
        found
    };
    let marks = value(0);
    let names = if sweep.varied.len() > 1 {
        value(1)
    } else {
        vec![String::new()]
    };
    let chart = |metric: &Metric| {
        let line = |name: &String| Line {
            name: name.clone(),
            points: sweep
                .runs
                .iter()
                .filter(|run| run.values.get(1).is_none_or(|value| value == name))
                .enumerate()
                .map(|(at, run)| (at as f64, metric.of(&run.report)))
                .collect(),
        };
        Chart {
            title: metric.title().to_owned(),
            below: sweep.varied.join(", lines by "),
            marks: marks.clone(),
            lines: names.iter().map(line).collect(),
        }
    };
    let charts: Vec<Chart> = metrics.iter().map(chart).collect();
    draw(&charts)
}

fn draw(charts: &[Chart]) -> Result<String, Box<dyn std::error::Error>> {
    let columns = charts.len().clamp(1, COLUMNS_MAX);
    let columns = if charts.len() == 4 { 2 } else { columns };
    let rows = charts.len().div_ceil(columns).max(1);
    let mut text = String::new();
    {
        let size = (WIDTH * columns as u32, HEIGHT * rows as u32);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, chart) in root.split_evenly((rows, columns)).iter().zip(charts) {
            chart.draw(area)?;
        }
        root.present()?;
    }
    Ok(text)
}

impl Chart {
    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
        let scale = Scale::of(&self.lines);
        let far = self.lines.iter().flat_map(|line| &line.points);
        let far = far.map(|point| point.0).fold(0.0, f64::max).max(1e-9);
        let margin = if self.marks.is_empty() { 0.0 } else { 0.3 };
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(52)
            .build_cartesian_2d(-margin..far + margin, scale.bottom..scale.top)?;
        let mark = |x: &f64| {
            let near = (x - x.round()).abs() < 0.01 && *x > -0.5;
            match self.marks.get(x.round().max(0.0) as usize) {
                _ if self.marks.is_empty() => format!("{x:.0}"),
                Some(mark) if near => mark.clone(),
                _ => String::new(),
            }
        };
        let value = |y: &f64| label(scale.back(*y));
        chart
            .configure_mesh()
            .x_desc(&self.below)
            .x_labels(self.marks.len().max(6))
            .x_label_formatter(&mark)
            .y_labels(6)
            .y_label_formatter(&value)
            .max_light_lines(1)
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .label_style(("sans-serif", 12))
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<(f64, f64)> =
                line.points.iter().map(|&(x, y)| (x, scale.to(y))).collect();
            let series = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
            let drawn = chart.draw_series(series)?;
            if !line.name.is_empty() {
                let key = move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 14, y)], colour.stroke_width(2))
                };
                drawn.label(&line.name).legend(key);
            }
            if !self.marks.is_empty() {
                chart.draw_series(points.iter().map(|&at| Circle::new(at, 3, colour.filled())))?;
            }
        }
        if self.lines.iter().any(|line| !line.name.is_empty()) {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.8))
                .label_font(("sans-serif", 11))
                .draw()?;
        }
        Ok(())
    }
}

/// Where values stand from bottom to top.
#[derive(Clone, Copy)]
struct Scale {
    logarithm: bool,
    bottom: f64,
    top: f64,
}

impl Scale {
    fn of(lines: &[Line]) -> Self {
        // The names of lines stand above them.
        let names = lines.iter().filter(|line| !line.name.is_empty()).count() as f64;
        let values = || {
            lines
                .iter()
                .flat_map(|line| &line.points)
                .map(|point| point.1)
        };
        let most = values().fold(0.0, f64::max);
        let least = values().fold(f64::INFINITY, f64::min);
        if least > 0.0 && most / least > LOGARITHM_ABOVE {
            return Self {
                logarithm: true,
                bottom: least.log10() - 0.1,
                top: most.log10() + 0.1 + 0.08 * names * (most / least).log10(),
            };
        }
        Self {
            logarithm: false,
            bottom: 0.0,
            top: if most > 0.0 {
                most * (1.08 + 0.07 * names)
            } else {
                1.0
            },
        }
    }

    fn to(self, value: f64) -> f64 {
        if self.logarithm { value.log10() } else { value }
    }

    fn back(self, at: f64) -> f64 {
        if self.logarithm { 10_f64.powf(at) } else { at }
    }
}

/// A number as short as can be.
fn label(value: f64) -> String {
    let value = if value.abs() < 1e-9 { 0.0 } else { value };
    if value.abs() >= 10_000.0 {
        return format!("{:.0}k", value / 1e3);
    }
    let text = figure(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
