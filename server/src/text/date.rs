//! Dates for chat templates: `strftime` over a given moment, in UTC.

/// A moment, split into the parts a calendar shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Days since Thursday, 1970-01-01.
    days: i64,
    /// Seconds of the day.
    seconds: i64,
}

impl Moment {
    /// The moment this many seconds after 1970-01-01 00:00 UTC.
    pub(super) fn from_unix(seconds: i64) -> Self {
        Self {
            days: seconds.div_euclid(86_400),
            seconds: seconds.rem_euclid(86_400),
        }
    }

    /// The moment in a `strftime` format. What is not known of it stays as it is.
    pub(super) fn format(self, format: &str) -> String {
        let mut text = String::new();
        let mut rest = format.chars();
        while let Some(one) = rest.next() {
            if one != '%' {
                text.push(one);
                continue;
            }
            match rest.next() {
                // `%-d` is `%d` without its leading zero.
                Some('-') => match rest.next() {
                    Some(kind) => match self.part(kind) {
                        Some(part) => {
                            let short = part.trim_start_matches('0');
                            text.push_str(if short.is_empty() { "0" } else { short });
                        }
                        None => text.extend(['%', '-', kind]),
                    },
                    None => text.push_str("%-"),
                },
                Some(kind) => match self.part(kind) {
                    Some(part) => text.push_str(&part),
                    None => text.extend(['%', kind]),
                },
                None => text.push('%'),
            }
        }
        text
    }

    fn part(self, kind: char) -> Option<String> {
        let (year, month, day) = self.civil();
        let weekday = WEEKDAYS[(self.days + 4).rem_euclid(7) as usize];
        let month_name = MONTHS[month as usize - 1];
        let (hour, minute, second) = (
            self.seconds / 3600,
            self.seconds / 60 % 60,
            self.seconds % 60,
        );
        let hour12 = (hour + 11) % 12 + 1;
        Some(match kind {
            'Y' => format!("{year:04}"),
            'y' => format!("{:02}", year.rem_euclid(100)),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'B' => month_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => format!("{hour:02}"),
            'I' => format!("{hour12:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'F' => format!("{year:04}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }

    /// Year, month and day. Years are counted from March, so that the leap day is the last of its year.
    fn civil(self) -> (i64, i64, i64) {
        let from_march_0000 = self.days + 719_468;
        let era = from_march_0000.div_euclid(146_097);
        let day_of_era = from_march_0000.rem_euclid(146_097);
        let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        (era * 400 + year_of_era + i64::from(month <= 2), month, day)
    }
}

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_format_as_a_calendar_shows_them() {
        let check = |unix: i64, format: &str, expect: &str| {
            assert_eq!(
                Moment::from_unix(unix).format(format),
                expect,
                "{unix} {format}"
            );
        };
        check(
            0,
            "%A %d %B %Y, %T %p",
            "Thursday 01 January 1970, 00:00:00 AM",
        );
        check(-1, "%F %T", "1969-12-31 23:59:59");
        check(951_782_400, "%a %-d %b %y", "Tue 29 Feb 00");
        check(1_709_164_800 + 86_399, "%F %I:%M %p", "2024-02-29 11:59 PM");
        check(4_107_542_400, "%F", "2100-03-01");
        check(
            1_721_952_000,
            "%d %b %Y %q 100%% %",
            "26 Jul 2024 %q 100% %",
        );
    }
}
