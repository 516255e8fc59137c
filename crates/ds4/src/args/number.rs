//! Numbers on the command line, refused with a sentence that says what would do.

use std::ops::{Bound, RangeBounds};

use crate::units::grouped;

/// A parser of whole numbers within `range`.
pub(super) fn whole<T: TryFrom<u64>>(
    range: impl RangeBounds<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    let least = match range.start_bound() {
        Bound::Included(&least) => least,
        Bound::Excluded(&least) => least.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let most = match range.end_bound() {
        Bound::Included(&most) => most,
        Bound::Excluded(&most) => most.saturating_sub(1),
        Bound::Unbounded => u64::MAX,
    };
    move |text| {
        let wanted = || match most {
            u64::MAX => format!("write a whole number, {least} or more"),
            most => format!("write a whole number from {} to {}", grouped(least), grouped(most)),
        };
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wanted());
        }
        // Nothing but digits: what cannot be read is too large.
        let number = text.parse::<u64>().ok().filter(|&number| number <= most);
        match number.map(|number| (number, T::try_from(number))) {
            Some((number, _)) if number < least => Err(wanted()),
            Some((_, Ok(number))) => Ok(number),
            _ if most == u64::MAX => Err("that is more than this program can count to".to_owned()),
            _ => Err(wanted()),
        }
    }
}

/// Reads a number with or without a fraction.
pub(super) fn fraction(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "write a number, such as 0.7".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_refused_with_what_would_do() {
        let threads = whole::<u16>(1..=1024);
        assert_eq!(threads("1"), Ok(1));
        assert_eq!(threads("1024"), Ok(1024));
        for text in ["0", "1025", "x", "", "-1", "+1", "1.5", "99999999999999999999", "１"] {
            assert_eq!(threads(text), Err("write a whole number from 1 to 1 024".to_owned()), "{text:?}");
        }
        let tokens = whole::<u32>(1..);
        assert_eq!(tokens("4294967295"), Ok(u32::MAX));
        assert_eq!(tokens("0"), Err("write a whole number, 1 or more".to_owned()));
        assert_eq!(tokens("4294967296"), Err("that is more than this program can count to".to_owned()));
        assert_eq!(whole::<u64>(..)("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn fractions_are_numbers() {
        assert_eq!(fraction("0.7"), Ok(0.7));
        assert_eq!(fraction("-1"), Ok(-1.0));
        assert_eq!(fraction("warm"), Err("write a number, such as 0.7".to_owned()));
    }
}
