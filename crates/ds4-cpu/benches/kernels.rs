//! Speed of the matrix products beside the limits of the machine.
//!
//! `cargo bench -p ds4-cpu --bench kernels -- [--threads N] [--isa NAME] [--only gemv|gemm] [--type NAME] [--rows N,...] [--cpu-time]`
//!
//! - *decode*: one to eight activation rows over weights far larger than the caches; GB/s of weights read,
//!   next to what the same number of threads reads from memory doing nothing else.
//! - `--cpu-time` counts processor time instead of elapsed time: for one thread on a machine that others use.
//! - *prefill*: many activation rows; billions of multiply-adds per second, next to what the processor's
//!   dot-product instruction reaches on registers alone.

use ds4_cpu::kernels::{Isa, Matrix, QuantizedRows, Rows, matmul_f32_in, matmul_i8_in};
use ds4_cpu::pool::Pool;
use ds4_gguf::{TensorType, reserve_huge};
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Bytes of weights per measurement of a decode product: more than the last-level cache.
const DECODE_BYTES: usize = 768 << 20;

const TYPES: [TensorType; 6] =
    [TensorType::Q8_0, TensorType::Q4_K, TensorType::MXFP4, TensorType::Q2_K, TensorType::IQ2_XXS, TensorType::F16];

struct Options {
    threads: Vec<usize>,
    isas: Vec<Isa>,
    only: Option<String>,
    ty: Option<TensorType>,
    /// Activation rows of the prefill products.
    rows: Vec<usize>,
    cpu_time: bool,
}

fn options() -> Options {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options {
        threads: if processors > 1 { vec![1, processors] } else { vec![1] },
        isas: vec![Isa::detect()],
        only: None,
        ty: None,
        rows: vec![12, 48, 512],
        cpu_time: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--threads" => options.threads = vec![value().parse().expect("a number of threads")],
            "--isa" => options.isas = vec![value().parse().unwrap_or_else(|e| panic!("{e}"))],
            "--only" => options.only = Some(value()),
            "--rows" => options.rows = value().split(',').map(|n| n.parse().expect("a number of rows")).collect(),
            "--cpu-time" => options.cpu_time = true,
            "--type" => options.ty = Some(value().parse().unwrap_or_else(|e| panic!("{e}"))),
            _ => {} // cargo passes --bench
        }
    }
    options
}

static CPU_TIME: AtomicBool = AtomicBool::new(false);

/// Seconds on the chosen clock.
fn now() -> f64 {
    #[cfg(target_os = "linux")]
    if CPU_TIME.load(Ordering::Relaxed) {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for the result.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
        return time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
    }
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// The shortest of several runs, in seconds: what the machine does when nobody disturbs it.
fn fastest(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    (0..runs)
        .map(|_| {
            let start = now();
            f();
            now() - start
        })
        .fold(f64::INFINITY, f64::min)
}

/// Valid blocks of any content with scales of one half or so.
fn weights(ty: TensorType, n_bytes: usize) -> Vec<u8> {
    let mut state = 88172645463325252u64;
    let mut bytes = Vec::new();
    // On the large pages that the backend asks for, too.
    reserve_huge(&mut bytes, n_bytes).expect("memory");
    bytes.resize(n_bytes, 0u8);
    for word in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    let half = [0x00, 0x38];
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        match ty {
            TensorType::MXFP4 => block[0] = 126,
            TensorType::Q2_K => block[80..].copy_from_slice(&[half, half].concat()),
            TensorType::Q4_K => block[..4].copy_from_slice(&[half, half].concat()),
            _ => block[..2].copy_from_slice(&half),
        }
    }
    bytes
}

fn activations(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 255) as f32 / 100.0 - 1.2).collect()
}

/// GB/s that the pool's threads read from memory, adding up 64-bit words.
fn read_bandwidth(pool: &Pool) -> f64 {
    let mut data = Vec::new();
    reserve_huge(&mut data, DECODE_BYTES / 8).expect("memory");
    data.resize(DECODE_BYTES / 8, 1u64);
    let tasks = pool.threads() * 16;
    let time = fastest(5, || {
        pool.run(tasks, |task| {
            let part = &data[task * data.len() / tasks..(task + 1) * data.len() / tasks];
            let mut sums = [0u64; 32];
            for chunk in part.as_chunks::<32>().0 {
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(*x);
                }
            }
            black_box(sums);
        });
    });
    DECODE_BYTES as f64 / time / 1e9
}

/// Billions of int8 multiply-adds per second and thread that dot-product instructions reach on registers.
fn peak_int8(isa: Isa, pool: &Pool) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        const ROUNDS: usize = 4_000_000;
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn avx512() {
            let x = black_box(_mm512_set1_epi8(1));
            let mut acc = [_mm512_setzero_si512(); 12];
            for _ in 0..ROUNDS / 12 {
                for acc in &mut acc {
                    *acc = _mm512_dpbusd_epi32(*acc, x, x);
                }
            }
            black_box(acc);
        }
        #[target_feature(enable = "avx2")]
        fn avx2() {
            let x = black_box(_mm256_set1_epi8(1));
            let ones = black_box(_mm256_set1_epi16(1));
            let mut acc = [_mm256_setzero_si256(); 6];
            for _ in 0..ROUNDS / 6 {
                for acc in &mut acc {
                    let x = black_box(x);
                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(x, x), ones);
                    *acc = _mm256_add_epi32(*acc, pairs);
                }
            }
            black_box(acc);
        }
        let (per_round, name) = match isa.to_string().as_str() {
            "avx512" => (64, "avx512"),
            "avx2" => (32, "avx2"),
            _ => return None,
        };
        let time = fastest(5, || {
            pool.run(pool.threads(), |_| match name {
                // SAFETY: `isa` exists, so the processor offers its instructions.
                "avx512" => unsafe { avx512() },
                // SAFETY: as above.
                _ => unsafe { avx2() },
            });
        });
        Some((ROUNDS * per_round * pool.threads()) as f64 / time / 1e9)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (isa, pool);
        None
    }
}

fn product(pool: &Pool, isa: Isa, w: &Matrix<'_>, q: &QuantizedRows, x: &[f32], y: &mut [f32]) {
    if w.ty().is_block_format() {
        matmul_i8_in(pool, isa, w, q, Rows::All, y, w.rows());
    } else {
        matmul_f32_in(pool, isa, w, x, Rows::All, y, w.rows());
    }
}

fn decode(pool: &Pool, isa: Isa, types: &[TensorType]) {
    let bandwidth = read_bandwidth(pool);
    println!("\ndecode, {} thread(s), {isa}; memory read {bandwidth:.1} GB/s", pool.threads());
    println!(
        "{:8} {:>6}  {:>9} {:>5}   {:>9}  {:>9}  {:>9}",
        "weights", "inputs", "1 row", "", "2 rows", "4 rows", "8 rows"
    );
    for &ty in types {
        for cols in [4096, 2048] {
            let row_bytes = cols / ty.block_len() * ty.block_bytes();
            let rows = DECODE_BYTES / row_bytes / 16 * 16;
            let bytes = weights(ty, rows * row_bytes);
            let w = Matrix::new(ty, rows, cols, &bytes).expect("a valid matrix");
            let x = activations(8 * cols);
            let speeds = [1, 2, 4, 8].map(|n| {
                let mut q = QuantizedRows::new();
                q.quantize(isa, &x[..n * cols], cols);
                let mut y = vec![0.0; n * rows];
                let time = fastest(4, || product(pool, isa, &w, &q, &x[..n * cols], black_box(&mut y)));
                bytes.len() as f64 / time / 1e9
            });
            let [one, two, four, eight] = speeds;
            let share = one / bandwidth * 100.0;
            println!(
                "{:8} {cols:>6}  {one:>4.1} GB/s {share:>4.0}%   {two:>4.1} GB/s  {four:>4.1} GB/s  {eight:>4.1} GB/s",
                ty.to_string()
            );
        }
    }
}

fn prefill(pool: &Pool, isa: Isa, types: &[TensorType], batches: &[usize]) {
    let peak = peak_int8(isa, pool);
    print!("\nprefill, {} thread(s), {isa}", pool.threads());
    match peak {
        Some(peak) => println!("; dot-product peak {peak:.0} G multiply-adds/s"),
        None => println!(),
    }
    println!("{:8} {:>12}   G multiply-adds/s at {batches:?} rows", "weights", "shape");
    for &ty in types {
        let (rows, cols) = (2048, 4096);
        let row_bytes = cols / ty.block_len() * ty.block_bytes();
        let bytes = weights(ty, rows * row_bytes);
        let w = Matrix::new(ty, rows, cols, &bytes).expect("a valid matrix");
        print!("{:8} {:>12}  ", ty.to_string(), format!("{rows}x{cols}"));
        for &n in batches {
            let x = activations(n * cols);
            let mut q = QuantizedRows::new();
            q.quantize(isa, &x, cols);
            let mut y = vec![0.0; n * rows];
            let time = fastest(3.max(400 / n), || product(pool, isa, &w, &q, &x, black_box(&mut y)));
            let speed = (n * rows * cols) as f64 / time / 1e9;
            match peak {
                Some(peak) => print!(" {speed:>6.1} ({:>2.0}%)", speed / peak * 100.0),
                None => print!(" {speed:>6.1}"),
            }
        }
        println!();
    }
}

fn main() {
    let options = options();
    CPU_TIME.store(options.cpu_time, Ordering::Relaxed);
    let types: Vec<TensorType> = TYPES.into_iter().filter(|&ty| options.ty.is_none_or(|only| only == ty)).collect();
    for &isa in &options.isas {
        for &threads in &options.threads {
            let pool = Pool::new_bound(threads).expect("a thread pool");
            if options.only.as_deref() != Some("gemm") {
                decode(&pool, isa, &types);
            }
            if options.only.as_deref() != Some("gemv") {
                prefill(&pool, isa, &types, &options.rows);
            }
        }
    }
}
