//! Tokenizer speed on one core: `cargo bench -p ds4-chat --bench tokenizer [file...]`
//!
//! Without files, the sources of this crate are encoded, repeated to 400 kB with a number in each line that keeps the
//! cache from knowing everything. Each figure is the fastest of several runs.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use ds4_chat::tokenizer::{StreamDecoder, Tokenizer};

/// The fastest of `runs` runs, and the last result.
fn fastest<R>(runs: usize, mut work: impl FnMut() -> R) -> (Duration, R) {
    let mut timed = || {
        let start = Instant::now();
        let result = black_box(work());
        (start.elapsed(), result)
    };
    let mut best = timed();
    for _ in 1..runs {
        let (time, result) = timed();
        best = (best.0.min(time), result);
    }
    best
}

fn report(what: &str, bytes: usize, ids: usize, time: Duration) {
    let rate = bytes as f64 / 1e6 / time.as_secs_f64();
    println!("{what:<40} {bytes:>9} bytes  {ids:>8} ids  {:>9.2} ms  {rate:>7.1} MB/s", time.as_secs_f64() * 1e3);
}

fn sources(folder: &Path, text: &mut String) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

fn main() {
    let (load, tokenizer) = fastest(10, || Tokenizer::official().expect("the embedded vocabulary"));
    println!("load the official vocabulary               {:>9.2} ms", load.as_secs_f64() * 1e3);

    let files: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let mut inputs: Vec<(String, String)> = files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
            (file, text)
        })
        .collect();
    if inputs.is_empty() {
        let mut code = String::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
        let lines: Vec<&str> = code.lines().collect();
        let mut text = String::new();
        for (number, line) in lines.iter().cycle().enumerate() {
            text.push_str(&format!("{line} // {number}\n"));
            if text.len() >= 400_000 {
                break;
            }
        }
        inputs.push(("Rust source".to_owned(), text));
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as u32
        };
        let words: String = (0..400_000).map(|_| b" abcdefghijklmnop"[random() as usize % 17] as char).collect();
        inputs.push(("random words".to_owned(), words));
        let letters = (0..200_000).map(|_| char::from(b'a' + (random() % 26) as u8)).collect();
        inputs.push(("one word of random letters".to_owned(), letters));
        let scalar = |_| char::from_u32(random() % 0x3_0000).unwrap_or('\u{fffd}');
        inputs.push(("random code points".to_owned(), (0..100_000).map(scalar).collect()));
        for (name, unit, repeat) in [("a", "a", 200_000), ("space", " ", 200_000), ("CJK", "测试", 40_000)] {
            inputs.push((format!("{name}, repeated"), unit.repeat(repeat)));
        }
        inputs.push(("a, repeated more".to_owned(), "a".repeat(2_000_000)));
    }
    for (name, text) in &inputs {
        let (first, ids) = {
            let fresh = Tokenizer::official().expect("the embedded vocabulary");
            fastest(1, || fresh.encode(text))
        };
        report(&format!("encode {name} (first call)"), text.len(), ids.len(), first);
        let (time, ids) = fastest(5, || tokenizer.encode(text));
        report(&format!("encode {name}"), text.len(), ids.len(), time);
        let (time, _) = fastest(5, || tokenizer.encode_with_special(text));
        report(&format!("encode {name}, control tokens"), text.len(), ids.len(), time);
        let (time, bytes) = fastest(5, || tokenizer.decode(&ids));
        assert_eq!(bytes, text.as_bytes());
        report(&format!("decode {name}"), text.len(), ids.len(), time);
        let (time, _) = fastest(3, || {
            let mut decoder = StreamDecoder::new(&tokenizer);
            ids.iter().map(|&id| decoder.push(id).len()).sum::<usize>()
        });
        report(&format!("stream {name}"), text.len(), ids.len(), time);
    }
}
