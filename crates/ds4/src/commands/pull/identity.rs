//! Which file an address leads to at the moment: so that two halves of different files are never joined.

use serde::{Deserialize, Serialize};

/// What a server says about a file's content. Everything may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// SHA-256 of the content, 64 lowercase hexadecimal digits.
    pub sha256: Option<String>,
    /// The strong entity tag, with its quotes.
    pub etag: Option<String>,
    /// When it was changed, as the server writes it.
    pub last_modified: Option<String>,
    /// Length of the whole file in bytes.
    pub length: Option<u64>,
}

/// Whether two answers are about the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// They are.
    Same,
    /// They are not.
    Different,
    /// Neither can be told.
    Unknown,
}

impl Identity {
    /// Compares by the strongest statement that both make.
    pub fn compare(&self, other: &Identity) -> Sameness {
        fn both<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> Option<bool> {
            Some(a.as_ref()? == b.as_ref()?)
        }
        if both(&self.length, &other.length) == Some(false) {
            return Sameness::Different;
        }
        let told = both(&self.sha256, &other.sha256)
            .or_else(|| both(&self.etag, &other.etag))
            .or_else(|| both(&self.last_modified, &other.last_modified));
        match told {
            Some(true) => Sameness::Same,
            Some(false) => Sameness::Different,
            None => Sameness::Unknown,
        }
    }

    /// What `If-Range` can carry: a server that has other content by now then sends all of it.
    pub fn validator(&self) -> Option<&str> {
        self.etag.as_deref().or(self.last_modified.as_deref())
    }
}

/// The tag without its quotes if it is a SHA-256, which is how content-addressed stores name a file.
pub fn sha256_of_tag(tag: &str) -> Option<String> {
    let digits = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
    (digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| digits.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(sha256: Option<&str>, etag: Option<&str>, length: Option<u64>) -> Identity {
        Identity { sha256: sha256.map(str::to_owned), etag: etag.map(str::to_owned), last_modified: None, length }
    }

    #[test]
    fn the_strongest_common_statement_decides() {
        use Sameness::*;
        let whole = identity(Some("aa"), Some("\"1\""), Some(10));
        assert_eq!(whole.compare(&identity(Some("aa"), Some("\"2\""), Some(10))), Same);
        assert_eq!(whole.compare(&identity(Some("bb"), Some("\"1\""), Some(10))), Different);
        assert_eq!(whole.compare(&identity(None, Some("\"1\""), Some(10))), Same);
        assert_eq!(whole.compare(&identity(None, Some("\"2\""), None)), Different);
        assert_eq!(whole.compare(&identity(Some("aa"), Some("\"1\""), Some(11))), Different);
        assert_eq!(whole.compare(&identity(None, None, Some(10))), Unknown);
    }

    #[test]
    fn only_a_tag_of_64_digits_is_a_checksum() {
        let digits = "0123456789ABCDEF".repeat(4);
        assert_eq!(sha256_of_tag(&format!("\"{digits}\"")), Some(digits.to_ascii_lowercase()));
        assert_eq!(sha256_of_tag("\"5d41402abc4b2a76b9719d911017c592\""), None);
        assert_eq!(sha256_of_tag(""), None);
    }
}
