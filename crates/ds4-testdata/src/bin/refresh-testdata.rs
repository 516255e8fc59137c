//! Rebuilds `testdata/` from a folder of fixtures: `refresh-testdata FIXTURES [TESTDATA]`.
//!
//! The repository is cloned whole by everyone, so this is a selection: what tells a right implementation from
//! a wrong one, at the least number of bytes. Sizes are printed at the end. Same fixtures, same bytes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ds4_testdata::codec;
use ds4_testdata::index::{self, Entry, Index};
use ds4_testdata::npy;

/// Files and folders (all files below them) that are taken as they are.
const WHOLE: &[&str] = &[
    "api",
    "dsml",
    "encoding",
    "tokenizer",
    "tiny/manifest.json",
    "tiny/tokens.json",
    "tiny/rounding",
    "tiny/s-f16.gguf",
    "tiny/s-mxfp4.gguf",
    "tiny/s-mtp.gguf",
    "tiny/m-q2.gguf",
    "tiny/m-q4.gguf",
];

/// Golden arrays by model file. `s-mxfp4` has the values of `s-f16`, so it shares the goldens.
///
/// Left out: `s-q8` (every Q8_0 role but the experts occurs in `m-q2`, those in `s-mtp`) and `s-hf`, for
/// their size; `hidden_40` without cache rounding, which the logits cover.
const GOLDEN: &[(&str, &[&str])] = &[
    ("s-f16/plain", &["logits_1", "logits_5", "logits_40", "logits_300", "mtp_logits_40", "l?.*"]),
    ("s-f16/rounded", &["logits_1", "logits_5", "logits_40", "hidden_40", "l2_in_300", "l2_out_300"]),
    ("m-q2/plain", &["logits_1", "logits_5", "logits_40", "logits_300", "l?.*"]),
    ("m-q2/rounded", &["logits_1", "logits_5", "logits_40", "hidden_40"]),
    ("m-q4/plain", &["logits_1", "logits_5", "logits_40", "logits_300"]),
    ("m-q4/rounded", &["logits_1", "logits_5", "logits_40"]),
];

/// Long sequences of which every [`STEP`]-th row is kept, as `<name>_every<STEP>`: an error in one position
/// reaches all later ones through the caches.
const SAMPLED: &[&str] = &["s-f16/plain/logits_700", "m-q2/plain/logits_700"];
const STEP: usize = 4;

/// Models stored as a difference to another one with the same non-expert tensors.
const BASES: &[(&str, &str)] = &[("tiny/m-q4.gguf", "tiny/m-q2.gguf"), ("tiny/s-mxfp4.gguf", "tiny/s-f16.gguf")];

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (fixtures, testdata) = match &arguments[..] {
        [fixtures] => (fixtures, repository.join("testdata")),
        [fixtures, testdata] => (fixtures, testdata.clone()),
        _ => {
            eprintln!("usage: refresh-testdata FIXTURES [TESTDATA]");
            return ExitCode::from(2);
        }
    };
    match refresh(fixtures, &testdata) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn refresh(fixtures: &Path, testdata: &Path) -> Result<(), Box<dyn Error>> {
    let files = select(fixtures)?;
    // Built beside the old folder and exchanged at the end: a failure half way leaves the old one.
    let building = testdata.with_extension("new");
    remove_dir(&building)?;
    let mut index = Index { files: Vec::new() };
    let mut total = 0;
    for (path, data) in &files {
        let base = BASES.iter().find(|(of, _)| of == path).map(|(_, base)| *base);
        let entry = Entry {
            path: path.clone(),
            bytes: data.len(),
            sha256: codec::sha256_hex(data),
            planes: if base.is_some() { 1 } else { planes(path) },
            base: base.map(str::to_owned),
        };
        let base = base.map(|name| files.get(name).ok_or(format!("{name} is not selected")));
        let base = base.transpose()?;
        let packed = codec::pack(data, entry.planes, base.map(Vec::as_slice))?;
        println!("{:>9} -> {:>8}  {path}", data.len(), packed.len());
        total += packed.len();
        let file = building.join(format!("{path}.zst"));
        fs::create_dir_all(file.parent().unwrap_or(&building))?;
        fs::write(file, packed)?;
        index.files.push(entry);
    }
    let mut text = serde_json::to_string_pretty(&index)?;
    text.push('\n');
    fs::write(building.join(index::FILE_NAME), text)?;
    remove_dir(testdata)?;
    fs::rename(&building, testdata)?;
    println!("{} files, {total} bytes in {}", files.len(), testdata.display());
    Ok(())
}

/// The selected files by their path in `testdata/`, sorted.
fn select(fixtures: &Path) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn Error>> {
    let all = walk(fixtures)?;
    let mut wanted: Vec<String> = Vec::new();
    for name in WHOLE {
        let folder = format!("{name}/");
        let hits = all.iter().filter(|p| *p == name || p.starts_with(&folder));
        let hits: Vec<_> = hits.filter(|p| !p.ends_with("README.md")).cloned().collect();
        if hits.is_empty() {
            return Err(format!("{} has no {name}", fixtures.display()).into());
        }
        wanted.extend(hits);
    }
    for (folder, names) in GOLDEN {
        for name in *names {
            let pattern = format!("tiny/golden/{folder}/{name}.npy");
            let hits: Vec<_> = all.iter().filter(|p| matches(&pattern, p)).cloned().collect();
            if hits.is_empty() {
                return Err(format!("{} has no {pattern}", fixtures.display()).into());
            }
            wanted.extend(hits);
        }
    }
    let read =
        |path: &str| fs::read(fixtures.join(path)).map_err(|e| format!("{}: {e}", fixtures.join(path).display()));
    let mut files = BTreeMap::new();
    for path in wanted {
        let data = read(&path)?;
        files.insert(path, data);
    }
    for name in SAMPLED {
        let rows = npy::every_nth_row(&read(&format!("tiny/golden/{name}.npy"))?, STEP)
            .map_err(|e| format!("{name}.npy: {e}"))?;
        files.insert(format!("tiny/golden/{name}_every{STEP}.npy"), rows);
    }
    Ok(files)
}

/// How many byte planes suit a file: arrays are mostly f32, the models hold much F16. The tokenizer has none
/// and no base either, so that its packed form is a plain Zstandard file that other programs can read.
fn planes(path: &str) -> usize {
    match path.rsplit_once('.') {
        Some((_, "npy")) if path.contains("experts") || path.contains(".sel_") => 1,
        Some((_, "npy")) => 4,
        Some((_, "gguf")) => 2,
        _ => 1,
    }
}

/// Whether `path` fits `pattern`, where `?` stands for one character and `*` for any within a folder.
fn matches(pattern: &str, path: &str) -> bool {
    let mut rest = pattern.chars();
    match (rest.next(), path.chars().next()) {
        (None, None) => true,
        (Some('*'), next) => {
            matches(rest.as_str(), path) || next.is_some_and(|c| c != '/' && matches(pattern, &path[c.len_utf8()..]))
        }
        (Some(p), Some(c)) => (p == '?' && c != '/' || p == c) && matches(rest.as_str(), &path[c.len_utf8()..]),
        _ => false,
    }
}

/// Paths of all files below `root`, relative to it, with `/`.
fn walk(root: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    fn visit(folder: &Path, prefix: &str, found: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
        for item in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
            let item = item?;
            let name = item.file_name();
            let name = name.to_str().ok_or(format!("{:?} is not UTF-8", item.path()))?;
            if item.file_type()?.is_dir() {
                visit(&item.path(), &format!("{prefix}{name}/"), found)?;
            } else {
                found.push(format!("{prefix}{name}"));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    visit(root, "", &mut found)?;
    Ok(found)
}

fn remove_dir(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stay_within_a_folder() {
        assert!(matches("golden/l?.*", "golden/l2.sel_rows.npy"));
        assert!(!matches("golden/l?.*", "golden/l2_in_300.npy"));
        assert!(!matches("golden/l?.*", "golden/l2.x/y"));
        assert!(matches("a*c", "abbc") && matches("a*c", "ac") && !matches("a*c", "ab"));
    }
}
