//! Durations as gdn's options have them: Go's notation, `1h30m`, `1.5s`, `300ms`.

use std::time::Duration;

/// Reads a duration.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 1h30m, 15s or 300ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds_per_unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    // The protocol counts nanoseconds in 63 bits.
    if total.as_nanos() > i64::MAX as u128 { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_notation_is_read() {
        for (text, milliseconds) in
            [("0", 0), ("0s", 0), ("15s", 15_000), ("1h30m", 5_400_000), ("1.5s", 1_500), ("10m0s", 600_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1d", "1s5", "1..s", "9999999999h", "1 s"] {
            parse(text).unwrap_err();
        }
    }

    proptest::proptest! {
        #[test]
        fn a_duration_in_two_units_is_their_sum(minutes in 0u64..100_000, milliseconds in 0u64..1_000_000) {
            let wanted = Duration::from_secs(minutes * 60) + Duration::from_millis(milliseconds);
            proptest::prop_assert_eq!(parse(&format!("{minutes}m{milliseconds}ms")), Ok(wanted));
        }

        #[test]
        fn any_text_is_a_duration_that_the_protocol_can_count_or_an_error(text in "[0-9.a-zµ -]{0,12}") {
            if let Ok(duration) = parse(&text) {
                proptest::prop_assert!(i64::try_from(duration.as_nanos()).is_ok());
            }
        }
    }
}
