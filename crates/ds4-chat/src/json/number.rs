//! Number spelling: what Python's `json.loads` followed by `json.dumps` makes of a JSON number.

/// `source` is a number in JSON's grammar. Integers come back digit for digit (`-0` is `0`), floats as the shortest
/// text that gives the same 64-bit float, with `.0` for integral values and an exponent from 1e16 up and below 1e-4.
pub(super) fn python_spelling(source: &str) -> String {
    if source.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        // The grammar was checked by the caller, so this cannot fail; too large exponents give infinity.
        return source.parse::<f64>().map_or_else(|_| source.to_owned(), float_spelling);
    }
    if source == "-0" { "0".to_owned() } else { source.to_owned() }
}

fn float_spelling(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = shortest(value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    if !(-4..16).contains(&exponent) {
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{mantissa}e{exponent_sign}{:02}", exponent.unsigned_abs());
    }
    let digits: String = mantissa.chars().filter(|digit| *digit != '.').collect();
    if exponent < 0 {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole_len = exponent as usize + 1;
    if digits.len() <= whole_len {
        return format!("{sign}{digits}{}.0", "0".repeat(whole_len - digits.len()));
    }
    format!("{sign}{}.{}", &digits[..whole_len], &digits[whole_len..])
}

/// The shortest digits that round-trip, as `d.ddde±x`. Where two of that length lie equally near, Python takes the even
/// one and Rust's `{:e}` the upper one, so the digits are rounded again from the exact value.
fn shortest(value: f64) -> String {
    let upper = format!("{value:e}");
    let digits = upper.split('e').next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count();
    let nearest = format!("{value:.precision$e}", precision = digits.saturating_sub(1));
    if nearest.parse() == Ok(value) { nearest } else { upper }
}

#[cfg(test)]
mod tests {
    use super::python_spelling;

    #[test]
    fn numbers_are_spelled_as_python_spells_them() {
        let cases = [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("0e5", "0.0"),
            ("1.0", "1.0"),
            ("1e5", "100000.0"),
            ("1E-7", "1e-07"),
            ("1.5e-7", "1.5e-07"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1e15", "1000000000000000.0"),
            ("9999999999999998.0", "9999999999999998.0"),
            ("1e16", "1e+16"),
            ("1.5e300", "1.5e+300"),
            ("12345678901234567890.0", "1.2345678901234567e+19"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("-18446744073709551617", "-18446744073709551617"),
            ("123456789.123456789", "123456789.12345679"),
            ("0.1", "0.1"),
            ("-2.50", "-2.5"),
            ("1e400", "Infinity"),
            ("-1e400", "-Infinity"),
            ("5e-324", "5e-324"),
            // A tie: exactly 2016391749092625.25.
            ("2016391749092625.2", "2016391749092625.2"),
            ("9007199254740993.5", "9007199254740994.0"),
        ];
        for (source, expected) in cases {
            assert_eq!(python_spelling(source), expected, "{source}");
        }
    }
}
