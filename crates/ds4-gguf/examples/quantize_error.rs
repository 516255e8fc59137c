//! Error and speed of the encoders: `cargo run --release -p ds4-gguf --example quantize_error`
//!
//! Without arguments on reproducible Gaussian noise; with `FILE [IMPORTANCE]` on raw little-endian
//! `f32` data. Prints per format the root mean square error relative to that of the data (with
//! importance: both weighted), and the times of encoding and decoding per element on one core.

use std::error::Error;
use std::time::Instant;

use ds4_gguf::{TensorType, quant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let x = match args.next() {
        Some(path) => read(&path)?,
        None => gaussian(256 * 512),
    };
    let importance = args.next().map(|path| read(&path)).transpose()?;
    let n = x.len() / 256 * 256;
    let x = &x[..n];
    println!("{:8} {:>10} {:>12} {:>12}", "format", "rel. RMSE", "encode ns", "decode ns");
    for ty in TensorType::ALL.into_iter().filter(|ty| ty.is_block_format()) {
        let mut blocks = vec![0; ty.row_bytes(n).ok_or("no whole blocks")?];
        let weights = importance.as_deref().map(|w| &w[..n]);
        let begin = Instant::now();
        quant::quantize_row(ty, x, weights, &mut blocks)?;
        let ns = begin.elapsed().as_nanos() as f64 / n as f64;
        let mut y = vec![0.0; n];
        let begin = Instant::now();
        quant::dequantize_row(ty, &blocks, &mut y);
        let decode_ns = begin.elapsed().as_nanos() as f64 / n as f64;
        let (mut error, mut power) = (0.0, 0.0);
        for i in 0..n {
            let w = weights.map_or(1.0, |w| f64::from(w[i]));
            error += w * (f64::from(x[i]) - f64::from(y[i])).powi(2);
            power += w * f64::from(x[i]).powi(2);
        }
        let rmse = (error / power).sqrt();
        println!("{ty:8} {rmse:>10.6} {ns:>12.1} {decode_ns:>12.2}");
    }
    Ok(())
}

fn read(path: &str) -> Result<Vec<f32>, std::io::Error> {
    let bytes = std::fs::read(path)?;
    let (raw, _) = bytes.as_chunks::<4>();
    Ok(raw.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

/// Sums of uniform noise, which are Gaussian enough.
fn gaussian(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}
