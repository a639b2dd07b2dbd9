//! Values as they are typed: whole numbers, bytes and times, each with the range it may have. What is
//! outside is refused with that range.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest time there is: a year, so that no sum of times overflows.
pub const TIME_MAX: Duration = Duration::from_hours(365 * 24);

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {kind}, {allowed}")]
pub struct Expected {
    kind: &'static str,
    allowed: String,
}

impl Expected {
    fn new(kind: &'static str, low: &impl fmt::Display, high: &impl fmt::Display) -> Self {
        let allowed = format!("{low} to {high}");
        Self { kind, allowed }
    }

    /// The range, as `1 to 65536`.
    pub fn allowed(&self) -> &str {
        &self.allowed
    }
}

/// Reads a whole number of a range.
pub fn whole<T>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, Expected> + Clone
where
    T: TryFrom<u64>,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Expected::new("a whole number", range.start(), range.end()))
    }
}

/// Reads `1GiB`, `512MiB`, `4096`, of a range.
pub fn bytes(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, Expected> + Clone {
    move |text| {
        parse_bytes(text)
            .filter(|bytes| range.contains(bytes))
            .ok_or_else(|| {
                let (low, high) = (Bytes(*range.start()), Bytes(*range.end()));
                Expected::new("bytes such as 512MiB", &low, &high)
            })
    }
}

/// Reads `90s`, `10m`, `500ms`, from a shortest time on; a bare number is seconds.
pub fn time(shortest: Duration) -> impl Fn(&str) -> Result<Duration, Expected> + Clone {
    move |text| {
        parse_time(text)
            .filter(|time| (shortest..=TIME_MAX).contains(time))
            .ok_or_else(|| Expected::new("a time such as 90s", &Time(shortest), &Time(TIME_MAX)))
    }
}

/// The shortest time that bounds something.
pub const MOMENT: Duration = Duration::from_millis(1);

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" | "k" | "K" => 1 << 10,
        "MiB" | "m" | "M" => 1 << 20,
        "GiB" | "g" | "G" => 1 << 30,
        "TiB" | "t" | "T" => 1 << 40,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn parse_time(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim()))
}

/// Bytes, written with the largest unit that is exact.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let exact = units
            .iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A time, written with the largest unit that is exact.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        match units.iter().find(|(factor, _)| ms.is_multiple_of(*factor)) {
            Some(_) if ms == 0 => f.write_str("0s"),
            Some((factor, unit)) => write!(f, "{}{unit}", ms / factor),
            None => write!(f, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_units() {
        let bytes = bytes(1..=1 << 40);
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("3 MiB"), Ok(3 << 20));
        assert_eq!(bytes("4096"), Ok(4096));
        let time = time(MOMENT);
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(whole::<u16>(1..=9)("9"), Ok(9));
    }

    #[test]
    fn what_is_outside_is_told_the_range() {
        let long = "99999999999999999999";
        for bad in ["", "GiB", "1XB", long, "18446744073709551615GiB", "0", "-1"] {
            let error = bytes(1..=1 << 30)(bad).unwrap_err();
            assert_eq!(
                error.to_string(),
                "must be bytes such as 512MiB, 1B to 1GiB"
            );
        }
        for bad in ["", "s", "1w", "8761h", "0s", long] {
            let error = time(MOMENT)(bad).unwrap_err();
            assert_eq!(
                error.to_string(),
                "must be a time such as 90s, 1ms to 8760h"
            );
        }
        for bad in ["", "x", "0", "65537", "-1", "1.5", "1e3", long] {
            let error = whole::<u32>(1..=65_536)(bad).unwrap_err();
            assert_eq!(error.to_string(), "must be a whole number, 1 to 65536");
        }
        assert_eq!(
            time(Duration::ZERO)("8761h").unwrap_err().allowed(),
            "0s to 8760h"
        );
    }
}
