//! The kernels in compiled form: from the build, or compiled here at first use and kept in the user's cache.

use std::fs;
use std::path::PathBuf;

use cudarc::nvrtc;

use super::DeviceError;

// `PRECOMPILED`, `SOURCES` (kernel files) and `HEADERS` (what they include): the kernels' folder, as the build found it.
include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// One image per kernel file.
pub(super) struct Images(Vec<Vec<u8>>);

impl Images {
    /// The kernels for a device.
    pub fn for_device(capability: (u32, u32)) -> Result<Self, DeviceError> {
        if !PRECOMPILED.is_empty() {
            return Ok(Self(PRECOMPILED.iter().map(|image| image.to_vec()).collect()));
        }
        SOURCES
            .iter()
            .map(|(name, source)| compile(name, &flatten(source), capability))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub fn all(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// The source with its own headers in place of their includes, each once.
fn flatten(source: &str) -> String {
    fn add(source: &str, seen: &mut Vec<&'static str>, out: &mut String) {
        for line in source.lines() {
            let included = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
            match included.and_then(|name| HEADERS.iter().find(|(header, _)| *header == name)) {
                Some((name, text)) if !seen.contains(name) => {
                    seen.push(name);
                    add(text, seen, out);
                }
                Some(_) => {}
                None if line == "#pragma once" => {}
                None => {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
    }
    let mut out = String::new();
    add(source, &mut Vec::new(), &mut out);
    out
}

fn compile(name: &str, source: &str, (major, minor): (u32, u32)) -> Result<Vec<u8>, DeviceError> {
    let key = key_of(source);
    // Warpgroup instructions are of this architecture alone and have to be asked for.
    let special = if (major, minor) == (9, 0) { "a" } else { "" };
    let cached = cache_folder().map(|folder| folder.join(format!("{name}-{major}{minor}{special}-{key:016x}.ptx")));
    if let Some(image) = cached.as_ref().and_then(|path| fs::read(path).ok()).filter(|image| image.last() == Some(&0)) {
        return Ok(image);
    }
    // SAFETY: only looks for the library.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err(DeviceError::new(
            "this program was built without compiled CUDA kernels, and the CUDA runtime compiler (libnvrtc) was not found to \
             compile them now; install the CUDA toolkit, or a build of ds4 made where nvcc was available",
        ));
    }
    let options = nvrtc::CompileOptions {
        fmad: Some(false),
        options: vec![
            format!("--gpu-architecture=compute_{major}{minor}{special}"),
            "--std=c++17".to_owned(),
            // This compiler takes generic lambdas for functions of the host otherwise.
            "--device-as-default-execution-space".to_owned(),
        ],
        name: Some(name.to_owned()),
        ..nvrtc::CompileOptions::default()
    };
    let ptx = nvrtc::compile_ptx_with_opts(source, options)
        .map_err(|error| DeviceError::new(format!("the CUDA kernels of {name} could not be compiled: {error:?}")))?;
    // The driver wants a zero at the end; here it also tells a whole file.
    let mut image = ptx.to_src().into_bytes();
    image.push(0);
    if let Some(path) = cached {
        // A cache that cannot be written costs time, nothing else.
        let _ = store(&path, &image);
    }
    Ok(image)
}

fn store(path: &std::path::Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&unfinished, image)?;
    fs::rename(unfinished, path)
}

/// Where compiled kernels are kept: the user's cache folder.
fn cache_folder() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
    };
    Some(base.join("ds4").join("cuda"))
}

/// A number for the source (FNV-1a).
fn key_of(source: &str) -> u64 {
    source.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list was kept by hand once, and programs built without nvcc had no kernel to measure the bandwidth with.
    #[test]
    fn kernels_of_every_file_are_there_without_nvcc() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels");
        let files =
            fs::read_dir(folder).expect("the kernels' folder").map(|entry| entry.expect("an entry").file_name());
        let mut files: Vec<String> = files.map(|name| name.to_string_lossy().into_owned()).collect();
        let mut known: Vec<&str> = SOURCES.iter().chain(HEADERS).map(|(name, _)| *name).collect();
        files.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, files);
        assert!(SOURCES.iter().any(|(_, source)| source.contains("DS4_KERNEL(read_all,")));
    }

    #[test]
    fn every_header_is_found_and_included_once() {
        for (name, source) in SOURCES {
            let flat = flatten(source);
            assert!(flat.contains("struct CacheFormat"), "{name}: common.cuh is missing");
            assert_eq!(flat.matches("struct CacheFormat").count(), 1, "{name}");
            let left: Vec<_> = flat.lines().filter(|line| line.starts_with("#include")).collect();
            assert!(left.iter().all(|line| line.contains("cuda_emulation.h")), "{name}: {left:?}");
        }
    }
}
