//! Numbers with units, as flags and reports have them. Time is whole nanoseconds.

/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Seconds as nanoseconds.
pub(crate) fn nanos(seconds: f64) -> u64 {
    (seconds * SECOND as f64).round() as u64
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / SECOND as f64
}

/// Reads a time such as `500us`, `20ms`, `1.5s`, `2m`; in nanoseconds.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        "" if number == "0" => 0.0,
        _ => return Err(format!("{text:?} is not a time as 20ms, 1.5s or 2m")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a time as 20ms, 1.5s or 2m"))?;
    let time = number * scale;
    // A year: nothing that is simulated lasts longer.
    if time > 3.2e16 {
        return Err(format!("{text} is too long"));
    }
    Ok(time.round() as u64)
}

/// Reads a number above 0.
pub(crate) fn parse_positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err(format!("{text:?} is not a number above 0")),
    }
}

/// A time for people.
pub(crate) fn shown(nanos: u64) -> String {
    match nanos {
        0 => "0s".to_owned(),
        1..1_000_000 => format!("{}us", nanos as f64 / 1e3),
        1_000_000..SECOND => format!("{}ms", nanos as f64 / 1e6),
        _ => format!("{}s", nanos as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown() {
        for (text, nanos, back) in [
            ("500us", 500_000, "500us"),
            ("20ms", 20_000_000, "20ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("2m", 120_000_000_000, "120s"),
            ("0", 0, "0s"),
        ] {
            assert_eq!(parse_time(text), Ok(nanos));
            assert_eq!(shown(nanos), back);
        }
        for text in ["", "5", "ms", "-1s", "1x", "1..2s", "99999999h", "nan"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        for text in ["0", "-1", "nan", "inf", "x"] {
            assert!(parse_positive(text).is_err(), "{text}");
        }
    }
}
