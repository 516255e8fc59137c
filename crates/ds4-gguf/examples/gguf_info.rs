//! Prints what a GGUF file holds: `cargo run -p ds4-gguf --example gguf_info -- model.gguf`

use std::error::Error;

use ds4_gguf::{Gguf, quant, truncation_guard};

fn main() -> Result<(), Box<dyn Error>> {
    truncation_guard::install()?;
    let path = std::env::args().nth(1).ok_or("usage: gguf_info FILE.gguf")?;
    let gguf = Gguf::open(&path)?;
    println!("{path}: {} bytes, alignment {}", gguf.file_len(), gguf.alignment());
    for (key, value) in gguf.metadata().iter() {
        println!("  {key}: {}", value.kind());
    }
    for tensor in gguf.tensors() {
        let verdict = match quant::validate(tensor.ty, gguf.data(tensor)) {
            Ok(()) => String::new(),
            Err(bad) => format!("  ({bad})"),
        };
        println!("  {} {:?} {}{verdict}", tensor.name, tensor.dims(), tensor.ty);
    }
    Ok(())
}
