//! Compiles the kernels with `nvcc` where there is one; otherwise the program does it at its first use of a GPU.
//!
//! `DS4_NVCC` names another compiler, or `none`. `DS4_CUDA_ARCHS` limits the devices to compile for, for example `90a`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compute capabilities with machine code of their own; others get the oldest one's intermediate code.
const ARCHITECTURES: &[&str] = &["80", "86", "89", "90a", "100", "120"];

fn main() {
    let kernels = Path::new("src/kernels");
    println!("cargo::rerun-if-changed={}", kernels.display());
    for variable in ["DS4_NVCC", "DS4_CUDA_ARCHS", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sources = files(kernels, "cu");
    let mut list = String::from(
        "/// Fat binaries of the kernel files; none if there was no nvcc.\nconst PRECOMPILED: &[&[u8]] = &[\n",
    );
    if let Some(nvcc) = nvcc() {
        for source in &sources {
            let image = out.join(source.file_stem().expect("a file name")).with_extension("fatbin");
            compile(&nvcc, source, &image);
            writeln!(list, "    include_bytes!({:?}),", image).expect("strings can be written");
        }
    }
    list.push_str("];\n");
    for (name, files) in [("SOURCES", sources), ("HEADERS", files(kernels, "cuh"))] {
        writeln!(list, "const {name}: &[(&str, &str)] = &[").expect("strings can be written");
        for file in &files {
            let path = file.canonicalize().expect("a file that was just listed");
            let name = file.file_name().expect("a file name");
            writeln!(list, "    ({name:?}, include_str!({path:?})),").expect("strings can be written");
        }
        list.push_str("];\n");
    }
    std::fs::write(out.join("images.rs"), list).expect("a writable OUT_DIR");
}

/// The folder's files with this extension, in order.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the kernels' folder");
    let paths = entries.map(|entry| entry.expect("a folder entry").path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

fn nvcc() -> Option<PathBuf> {
    if let Some(chosen) = std::env::var_os("DS4_NVCC") {
        return (chosen != "none").then(|| PathBuf::from(chosen));
    }
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os).map(|home| PathBuf::from(home).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    homes.chain(std::env::split_paths(&path)).map(|folder| folder.join("nvcc")).find(|program| program.is_file())
}

fn compile(nvcc: &Path, source: &Path, image: &Path) {
    let mut command = Command::new(nvcc);
    // Without contraction a formula has the same bits in every kernel.
    command.args(["-std=c++17", "-O3", "--fmad=false", "-lineinfo", "-fatbin", "-o"]).arg(image).arg(source);
    if std::env::var_os("CARGO_FEATURE_TIMELINE").is_some() {
        command.arg("-DDS4_TIMELINE");
    }
    let chosen = std::env::var("DS4_CUDA_ARCHS").ok();
    let all: Vec<&str> = match &chosen {
        Some(list) => list.split([',', ' ']).filter(|arch| !arch.is_empty()).collect(),
        None => ARCHITECTURES.to_vec(),
    };
    for arch in &all {
        command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    if chosen.is_none() {
        command.arg("-gencode=arch=compute_80,code=compute_80");
    }
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {}: {error}", nvcc.display()));
    assert!(
        output.status.success(),
        "{} refused {}:\n{}",
        nvcc.display(),
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}
