//! Times and shares as they are typed.

use std::time::Duration;

/// Reads `500ms`, `30s`, `2m`, `1h`; a bare number is seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("{text:?} does not begin with a number"))?;
    let seconds = match unit.trim() {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        other => return Err(format!("{other:?} is no unit of time; use ms, s, m or h")),
    };
    if seconds > MAX_SECONDS {
        return Err("too long".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A year, so that no sum of times overflows.
const MAX_SECONDS: f64 = 31_536_000.0;

/// Reads a rate or a shape: a number above zero, within what times can be computed from.
pub(crate) fn parse_positive(text: &str) -> Result<f64, String> {
    match text.trim().parse() {
        Ok(number) if (1e-6..=1e6).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is not a number of 0.000001 to 1000000")),
    }
}

/// Reads a share of all requests: 0 to 1, or `5%`.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let (digits, factor) = match text.strip_suffix('%') {
        Some(digits) => (digits, 0.01),
        None => (text, 1.0),
    };
    match digits.trim().parse::<f64>().map(|number| number * factor) {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{text:?} is not a share; use 0 to 1, or 5%")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_read_with_their_units() {
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_mins(2)));
        for bad in ["", "s", "-1s", "1d", "1..2s", "99999h"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_share("0.25"), Ok(0.25));
        assert_eq!(parse_share("50%"), Ok(0.5));
        for bad in ["", "1.1", "-0.1", "nan", "101%"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_positive("0.5"), Ok(0.5));
        for bad in ["0", "-1", "inf", "nan", "x"] {
            assert!(parse_positive(bad).is_err(), "{bad}");
        }
    }
}
