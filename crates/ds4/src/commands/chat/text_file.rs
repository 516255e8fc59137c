//! Files that are put into messages.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};

use crate::units::bytes;

/// Largest file that is read into a message, in bytes: with about four bytes to a token, twice what the longest
/// context holds.
const LARGEST: u64 = 8 << 20;

/// A text file in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFile {
    /// Its name, without the folder.
    pub name: String,
    /// What it holds.
    pub text: String,
}

impl TextFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Not a file, too large, empty, or not text.
    pub fn read(path: &Path) -> anyhow::Result<TextFile> {
        let shown = path.display();
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
        if metadata.is_dir() {
            bail!("{shown} is a directory; /read takes a text file");
        }
        // A pipe or a device may never end, and a terminal's is the one that is being typed on.
        if !metadata.is_file() {
            bail!("{shown} is not an ordinary file; /read takes a text file");
        }
        let too_large = |size: u64| {
            format!("{shown} is too large: {}, and a message takes files of at most {}", bytes(size), bytes(LARGEST))
        };
        if metadata.len() > LARGEST {
            bail!(too_large(metadata.len()));
        }
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let mut content = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut content).with_context(|| format!("cannot read {shown}"))?;
        if content.len() as u64 > LARGEST {
            bail!(too_large(content.len() as u64));
        }
        if content.is_empty() {
            bail!("{shown} is empty");
        }
        if let Some(offset) = content.iter().position(|&byte| byte == 0) {
            bail!("{shown} is not text: byte {offset} is zero, as in binary files; /read takes text files in UTF-8");
        }
        let text = String::from_utf8(content).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            anyhow::anyhow!(
                "{shown} is not UTF-8 text: byte {offset} does not begin or continue a character; convert it first"
            )
        })?;
        let name = path.file_name().map_or_else(|| shown.to_string(), |name| name.to_string_lossy().into_owned());
        Ok(TextFile { name, text })
    }

    /// The file as a message has it: the form that the model's makers recommend for uploaded files.
    pub fn in_message(&self) -> String {
        let TextFile { name, text } = self;
        format!("[file name]: {name}\n[file content begin]\n{text}\n[file content end]\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_text_files_of_a_reasonable_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("notes.txt"), "Größe\n").unwrap();
        fs::write(path("zero"), b"ab\0").unwrap();
        fs::write(path("latin"), b"Gr\xf6\xdfe").unwrap();
        fs::write(path("empty"), b"").unwrap();
        File::create(path("large")).unwrap().set_len(LARGEST + 1).unwrap();
        assert_eq!(
            TextFile::read(&path("notes.txt")).unwrap(),
            TextFile { name: "notes.txt".to_owned(), text: "Größe\n".to_owned() }
        );
        for (name, reason) in [
            ("zero", "is not text: byte 2 is zero"),
            ("latin", "is not UTF-8 text: byte 2"),
            ("empty", "is empty"),
            ("large", "is too large: 8.00 MiB, and a message takes files of at most 8.00 MiB"),
            ("missing", "cannot read"),
            (".", "is a directory"),
        ] {
            let error = format!("{:#}", TextFile::read(&path(name)).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }
}
