//! Compiles the kernels as plain C++.

use std::path::Path;

fn main() {
    let kernels = Path::new("../ds4-cuda/src/kernels");
    println!("cargo::rerun-if-changed={}", kernels.display());
    println!("cargo::rerun-if-changed=shim");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .include("shim")
        .include(kernels)
        .file("shim/emulator.cpp")
        .opt_level(2)
        // A formula has the same bits wherever it is inlined: no contraction, as for the device.
        .flag("-ffp-contract=off")
        // Kernels read registers as other types, which nvcc allows.
        .flag("-fno-strict-aliasing")
        // What this compiler has to say of code written for nvcc would hide what it says of other crates.
        .warnings(false)
        .flag("-Wno-unknown-pragmas")
        .flag("-Wno-enum-compare")
        // Threads of a block change over with longjmp, which the checked variant takes for a mistake.
        .flag("-U_FORTIFY_SOURCE");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        build.flag("-march=x86-64-v3");
    }
    let mut sources: Vec<_> = std::fs::read_dir(kernels)
        .expect("the kernels' folder")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    // One translation unit per kernel file; the compiler is told that they are C++.
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for source in sources {
        let name = source.file_stem().and_then(|stem| stem.to_str()).expect("a plain file name");
        let unit = Path::new(&out).join(format!("{name}.cpp"));
        std::fs::write(&unit, format!("#define DS4_EMULATION 1\n#include \"{name}.cu\"\n"))
            .expect("a writable OUT_DIR");
        build.file(unit);
    }
    // Kernels make themselves known by name when the program starts: every object has to be linked.
    build.link_lib_modifier("+whole-archive").compile("ds4_cuda_emulation");
}
