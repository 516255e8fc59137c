//! Numbers for people.

/// A number of bytes with a binary unit and three significant digits.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    scaled(n as f64 / 1024.0, 1024.0, &UNITS)
}

/// A count with a decimal unit and three significant digits.
pub fn count(n: u64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "B", "T", "P", "E"];
    if n < 1000 {
        return n.to_string();
    }
    scaled(n as f64 / 1000.0, 1000.0, &UNITS)
}

/// A whole number with its digits in groups of three.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A rate per second with three significant digits.
pub fn rate(per_second: f64) -> String {
    format!("{per_second:.*}", decimals(per_second))
}

/// `1 token`, `2 tokens`.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // What would be rounded up to the next unit is written in it.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{value:.*} {}", decimals(value), units[unit])
}

/// Decimals that make three significant digits.
fn decimals(value: f64) -> usize {
    match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_the_right_unit() {
        assert_eq!([0, 1023, 1024, 86_714_775_900].map(bytes), ["0 B", "1023 B", "1.00 KiB", "80.8 GiB"]);
        assert_eq!(bytes((1 << 20) - 1), "1.00 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!([7, 999, 22_799_287, 284_334_567_511].map(count), ["7", "999", "22.8 M", "284 B"]);
        assert_eq!(count(999_950), "1.00 M");
    }

    #[test]
    fn digits_stand_in_groups() {
        assert_eq!([0, 999, 1000, 1_048_576].map(grouped), ["0", "999", "1 000", "1 048 576"]);
        assert_eq!([0, 1, 2000].map(|n| counted(n, "token")), ["0 tokens", "1 token", "2 000 tokens"]);
    }
}
