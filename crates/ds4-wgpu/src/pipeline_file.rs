//! What the driver made of the kernels, in a file: the next start reads it instead of compiling.
//!
//! One file for each card and version of its driver. It begins with a mark and a checksum: what is damaged, cut off or of another
//! format is ignored, because drivers trust what they are given. That it comes from another card or version, the driver itself sees.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::gpu::Gpu;

const MARK: &[u8; 8] = b"ds4pipe2";
const CHECKSUM: usize = 32;
/// A larger file is not ours.
const MOST: u64 = 256 << 20;

/// The file that the driver's results are kept in.
pub(crate) struct PipelineFile {
    path: PathBuf,
    /// Checksum of what the file had.
    known: Option<[u8; CHECKSUM]>,
}

impl PipelineFile {
    /// The file for this card in `folder`, which need not exist, and what it has.
    pub fn open(gpu: &Gpu, folder: &Path) -> (Self, Option<Vec<u8>>) {
        let path = folder.join(file_name(&format!("{} {} {}", gpu.report.api, gpu.report.name, gpu.report.driver)));
        let (known, data) = read(&path).unzip();
        (Self { path, known }, data)
    }

    /// Writes the file, if `data` are not what it had. Failing is no harm: the next start compiles.
    pub fn save(&self, data: &[u8]) {
        if self.known != Some(checksum(data)) {
            let _ = write(&self.path, data);
        }
    }
}

/// A name made of what a card and its driver are called.
fn file_name(key: &str) -> String {
    let readable: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(60).collect();
    let digest = Sha256::digest(key.as_bytes());
    let number = digest[..8].iter().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    format!("{readable}-{number:016x}.bin")
}

fn checksum(data: &[u8]) -> [u8; CHECKSUM] {
    Sha256::digest(data).into()
}

/// The data of a file with their checksum; `None` if there is no file or not all of it is right.
fn read(path: &Path) -> Option<([u8; CHECKSUM], Vec<u8>)> {
    if fs::metadata(path).ok()?.len() > MOST {
        return None;
    }
    let mut bytes = fs::read(path).ok()?;
    let header = MARK.len() + CHECKSUM;
    if bytes.len() < header || &bytes[..MARK.len()] != MARK {
        return None;
    }
    let expected: [u8; CHECKSUM] = bytes[MARK.len()..header].try_into().ok()?;
    bytes.drain(..header);
    (checksum(&bytes) == expected).then_some((expected, bytes))
}

/// Writes beside the file and renames, so that nobody reads half of it.
fn write(path: &Path, data: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::File::create(&unfinished).and_then(|mut file| {
        file.write_all(MARK)?;
        file.write_all(&checksum(data))?;
        file.write_all(data)
    });
    let renamed = written.and_then(|()| fs::rename(&unfinished, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep").join(file_name("vulkan Some Card 1.2/3"));
        assert!(read(&path).is_none(), "there is none");
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        write(&path, &data).expect("room");
        let (sum, found) = read(&path).expect("as written");
        assert_eq!((sum, &found), (checksum(&data), &data));
        let whole = fs::read(&path).expect("a file");
        // Every kind of damage: cut off, other mark, other bytes, something behind.
        for length in [0, 7, 8, 39, 40, whole.len() - 1] {
            fs::write(&path, &whole[..length]).expect("room");
            assert!(read(&path).is_none(), "{length} bytes of it");
        }
        for at in [0, 9, 45, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            fs::write(&path, damaged).expect("room");
            assert!(read(&path).is_none(), "byte {at}");
        }
        fs::write(&path, [&whole[..], b"!"].concat()).expect("room");
        assert!(read(&path).is_none(), "a byte more");
        assert_eq!(
            fs::read_dir(path.parent().expect("a folder")).expect("a folder").count(),
            1,
            "nothing is left beside"
        );
    }

    #[test]
    fn cards_have_files_of_their_own() {
        let names = ["vulkan A 1", "vulkan A 2", "metal A 1", "vulkan A/1"].map(file_name);
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))));
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
