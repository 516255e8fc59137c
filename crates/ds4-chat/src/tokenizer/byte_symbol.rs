//! The printable spelling of raw bytes in a byte-level vocabulary.
//!
//! Vocabulary files are text, so each byte is written as one printable character: bytes 33–126, 161–172 and 174–255
//! stand for themselves, and the other 68 take U+0100, U+0101, … in ascending order (space is `Ġ`, newline is `Ċ`).

/// Number of code points below which every byte symbol lies.
const SYMBOLS: usize = 256 + 68;

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// Byte of each symbol's code point, or -1.
const BYTE_OF: [i16; SYMBOLS] = {
    let mut table = [-1i16; SYMBOLS];
    let mut next = 256;
    let mut byte = 0usize;
    while byte < 256 {
        if stands_for_itself(byte as u8) {
            table[byte] = byte as i16;
        } else {
            table[next] = byte as i16;
            next += 1;
        }
        byte += 1;
    }
    table
};

/// The byte that a symbol stands for.
pub(super) fn byte_of(symbol: char) -> Option<u8> {
    let byte = *BYTE_OF.get(symbol as usize)?;
    u8::try_from(byte).ok()
}

/// The symbol that a byte is written as.
pub(super) fn symbol_of(byte: u8) -> char {
    let mut symbols = (0..SYMBOLS as u32).filter_map(char::from_u32);
    symbols.find(|&symbol| byte_of(symbol) == Some(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Appends the bytes that `spelling` stands for, or returns the first character that is not a byte symbol
/// (`bytes` then holds the part before it).
pub(super) fn append_bytes(spelling: &str, bytes: &mut Vec<u8>) -> Result<(), char> {
    for symbol in spelling.chars() {
        bytes.push(byte_of(symbol).ok_or(symbol)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_symbol() {
        for byte in 0..=255 {
            assert_eq!(byte_of(symbol_of(byte)), Some(byte));
        }
        assert_eq!(symbol_of(b' '), 'Ġ');
        assert_eq!(symbol_of(b'\n'), 'Ċ');
        assert_eq!(symbol_of(0xad), '\u{143}');
        assert_eq!(symbol_of(b'a'), 'a');
    }

    #[test]
    fn other_characters_are_named() {
        let mut bytes = Vec::new();
        assert_eq!(append_bytes("Ġa b", &mut bytes), Err(' '));
        assert_eq!(byte_of('\u{144}'), None);
        assert_eq!(byte_of('\u{ad}'), None);
    }
}
