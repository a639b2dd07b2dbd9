//! Line charts as SVG: axes from zero with round ticks, and a line for each series.

use std::fmt::Write as _;

/// A chart over the seconds of a run.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    /// Of the values.
    pub(crate) unit: &'a str,
    pub(crate) lines: &'a [Line<'a>],
}

/// One line of a chart.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    /// Seconds and values.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 30.0;
const TICKS: f64 = 5.0;

/// Where values lie on the picture.
struct Scale {
    x_max: f64,
    y_max: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + seconds / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.y_max * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart<'_> {
    /// The chart as an `svg` element. Its texts are ours and hold nothing to escape.
    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a String does not fail.
        let _written = self.write(&mut svg);
        svg
    }

    fn write(&self, svg: &mut String) -> std::fmt::Result {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x_max = points().map(|point| point.0).fold(1.0, f64::max);
        let y_step = round_step(points().map(|point| point.1).fold(0.0, f64::max));
        let highest = points().map(|point| point.1).fold(0.0, f64::max);
        let scale = Scale {
            x_max,
            y_max: y_step * (highest / y_step).ceil().max(1.0),
        };
        writeln!(
            svg,
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
            self.title
        )?;
        writeln!(
            svg,
            r#"<text class="title" x="{LEFT}" y="16">{} ({})</text>"#,
            self.title, self.unit
        )?;
        axes(svg, &scale, y_step)?;
        for (number, line) in self.lines.iter().enumerate() {
            line.write(svg, &scale, number)?;
        }
        writeln!(svg, "</svg>")
    }
}

fn axes(svg: &mut String, scale: &Scale, y_step: f64) -> std::fmt::Result {
    let ticks = (scale.y_max / y_step).round() as u32;
    for tick in 0..=ticks {
        let value = f64::from(tick) * y_step;
        let y = scale.y(value);
        writeln!(
            svg,
            r#"<path class="grid" d="M{LEFT} {y:.1}H{:.0}"/><text class="y" x="{:.0}" y="{:.1}">{}</text>"#,
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            short(value)
        )?;
    }
    let x_step = round_step(scale.x_max);
    for tick in 0..=(scale.x_max / x_step) as u32 {
        let seconds = f64::from(tick) * x_step;
        writeln!(
            svg,
            r#"<text class="x" x="{:.1}" y="{:.0}">{} s</text>"#,
            scale.x(seconds),
            HEIGHT - BOTTOM + 18.0,
            short(seconds)
        )?;
    }
    Ok(())
}

impl Line<'_> {
    fn write(&self, svg: &mut String, scale: &Scale, number: usize) -> std::fmt::Result {
        let points: Vec<String> = self
            .points
            .iter()
            .map(|&(x, y)| format!("{:.1},{:.1}", scale.x(x), scale.y(y)))
            .collect();
        writeln!(
            svg,
            r#"<polyline class="line l{number}" points="{}"/>"#,
            points.join(" ")
        )?;
        writeln!(
            svg,
            r#"<text class="key l{number}" x="{:.0}" y="16">{}</text>"#,
            WIDTH - RIGHT - 110.0 * number as f64,
            self.name
        )
    }
}

/// A step of 1, 2 or 5 times a power of ten that makes about five ticks.
fn round_step(max: f64) -> f64 {
    let raw = if max > 0.0 { max / TICKS } else { 0.2 };
    let power = 10.0_f64.powf(raw.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= raw);
    factor.unwrap_or(10.0) * power
}

/// A number without digits that say nothing.
fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{}M", value / 1e6)
    } else if value >= 1e4 {
        format!("{}k", value / 1e3)
    } else {
        // Steps are round, so rounding here takes away what arithmetic left.
        format!("{}", (value * 1e6).round() / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let steps: Vec<f64> = [0.0, 1.0, 7.0, 23.0, 1000.0].map(round_step).into();
        assert_eq!(steps, [0.2, 0.2, 2.0, 5.0, 200.0]);
        let texts = [0.1 + 0.2, 25_000.0, 2_000_000.0, 7.0].map(short);
        assert_eq!(texts, ["0.3", "25k", "2M", "7"]);
    }

    #[test]
    fn a_line_lies_within_its_picture() {
        let points = vec![(0.0, 0.0), (10.0, 97.0)];
        let lines = [Line { name: "a", points }];
        let svg = Chart {
            title: "t",
            unit: "u",
            lines: &lines,
        }
        .svg();
        assert!(svg.contains(r#"points="56.0,210.0 628.0,39.3""#), "{svg}");
    }
}
