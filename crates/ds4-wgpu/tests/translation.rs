//! Every kernel becomes valid WGSL, Metal's language and SPIR-V, in each specialization: what cannot become Metal fails here.

use std::fs;
use std::process::Command;

use ds4_model::{Config, KvPrecision};
use ds4_wgpu::shader::{self, Kernel, Shape};
use naga::back::{msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};

/// The variable that makes a missing validator a failure: set where it must be there.
const REQUIRED: &str = "DS4_TEST_WGPU";

fn config() -> Config {
    let gguf = ds4_gguf::Gguf::open(ds4_testdata::path("tiny/m-q2.gguf")).expect("a valid fixture");
    Config::from_gguf(&gguf).expect("a valid fixture")
}

/// The published shape, which needs the most workgroup memory.
fn flash() -> Config {
    Config {
        n_embd: 4096,
        n_head: 64,
        head_dim: 512,
        idx_heads: 64,
        idx_topk: 512,
        n_expert: 256,
        n_expert_used: 6,
        n_ff: 2048,
        ..config()
    }
}

/// Kernels, specialized for devices with spans of these sizes, each with a name.
fn kernels(config: &Config, spans: &[u32], kv: KvPrecision, planes: bool) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for &span in spans {
        let mut shape = Shape::new(config, kv, span, planes);
        // Cards without subgroup operations stand for those that lack other things.
        shape.halves = span > 1;
        let mut kernels = shader::all(&[0, 4, 128], planes);
        if span > 1 {
            kernels.push(Kernel::Probe);
        }
        for kernel in kernels {
            let name = format!("{kernel:?}, span {span}, {kv}, planes {planes}, n_embd {}", config.n_embd);
            list.push((name, shader::source(kernel, &shape)));
        }
    }
    list
}

fn all() -> Vec<(String, String)> {
    let mut list = kernels(&config(), &[1, 8], KvPrecision::Model, true);
    list.extend(kernels(&config(), &[4], KvPrecision::Model, false));
    list.extend(kernels(&config(), &[1], KvPrecision::Exact, false));
    list.extend(kernels(&flash(), &[1], KvPrecision::Model, false));
    list.extend(kernels(&flash(), &[32], KvPrecision::Model, true));
    list
}

fn validated(name: &str, source: &str) -> (Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)));
    let capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)));
    (module, info)
}

/// At most what WebGPU guarantees: 16 KiB of workgroup memory, eight storage buffers.
#[test]
fn kernels_keep_the_smallest_limits() {
    for (name, source) in all() {
        let (module, _) = validated(&name, &source);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).expect("a valid module");
        let workgroup: u32 = module
            .global_variables
            .iter()
            .filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup)
            .map(|(_, variable)| layouter[variable.ty].size.next_multiple_of(16))
            .sum();
        assert!(workgroup <= 16 << 10, "{name}: {workgroup} bytes of workgroup memory");
        assert!(shader::bindings(&source).len() <= 8, "{name}: more than eight storage buffers");
    }
}

#[test]
fn kernels_become_metal() {
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    let pipeline = msl::PipelineOptions::default();
    for (name, source) in all() {
        let (module, info) = validated(&name, &source);
        let (text, translated) = msl::write_string(&module, &info, &options, &pipeline)
            .unwrap_or_else(|error| panic!("{name}: no Metal: {error}"));
        assert!(text.contains("kernel void"), "{name}: a kernel without an entry");
        translated.entry_point_names[0].as_ref().unwrap_or_else(|error| panic!("{name}: no Metal: {error}"));
    }
}

#[test]
fn kernels_become_valid_spirv() {
    let folder = std::env::temp_dir().join(format!("ds4-spirv-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for SPIR-V files");
    let mut files = Vec::new();
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    for (name, source) in all() {
        let (module, info) = validated(&name, &source);
        let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".to_owned() };
        let words = spv::write_vec(&module, &info, &options, Some(&pipeline))
            .unwrap_or_else(|error| panic!("{name}: no SPIR-V: {error}"));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let file = folder.join(format!("{}.spv", files.len()));
        fs::write(&file, bytes).expect("room for SPIR-V files");
        files.push((name, file));
    }
    let mut failed = Vec::new();
    for (name, file) in &files {
        match Command::new("spirv-val").args(["--target-env", "vulkan1.1"]).arg(file).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => failed.push(format!("{name}: {}", String::from_utf8_lossy(&output.stderr))),
            Err(error) if std::env::var_os(REQUIRED).is_none() => {
                eprintln!("skipped the validation: spirv-val (Debian's spirv-tools) cannot be run: {error}");
                break;
            }
            Err(error) => failed.push(format!("spirv-val (Debian's spirv-tools) cannot be run: {error}")),
        }
    }
    let _ = fs::remove_dir_all(&folder);
    assert!(failed.is_empty(), "{} of {} kernels: {}", failed.len(), files.len(), failed.join("\n"));
}
