//! The published model files that ds4 knows by name.
//!
//! Sizes and checksums are those that the hub states for each file (a file there is stored under its SHA-256, which the
//! server repeats in the `X-Linked-ETag` header of every answer).

/// Where published files are, unless the user names a mirror.
pub const ENDPOINT: &str = "https://huggingface.co";

/// The repository with the files of [`PUBLISHED`].
const REPOSITORY: &str = "antirez/deepseek-v4-gguf";

/// One published file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// What the command line calls it.
    pub name: &'static str,
    /// How it is stored, for people.
    pub about: &'static str,
    /// Name of the file.
    pub file: &'static str,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: &'static str,
    /// How many of the layers keep their experts as `recipe` says, and the recipe of the others.
    pub experts: Experts,
}

/// How the routed experts of a file are stored, by names of `ds4_synth::Shape`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experts {
    /// All layers alike.
    Uniform(&'static str),
    /// Some of the last layers in a larger format.
    Mixed {
        /// Of most layers.
        most: &'static str,
        /// Of the last layers.
        last: &'static str,
        /// How many those are.
        layers: usize,
    },
}

/// Release 0731 of DeepSeek V4 Flash, smallest file first.
pub const PUBLISHED: [Published; 4] = [
    Published {
        name: "q2",
        about: "2-bit experts; the one to begin with",
        file: "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix-0731.gguf",
        bytes: 86_720_111_488,
        sha256: "ca22ae2f838e14077c22bc1c1417b71b45b5e5a3687bd96c2ac6e17fdb6261c0",
        experts: Experts::Uniform("v4-flash-q2"),
    },
    Published {
        name: "q2-q4",
        about: "2-bit experts, 4-bit in the last 6 layers",
        file: "DeepSeek-V4-Flash-Layers37-42Q4KExperts-OtherExpertLayersIQ2XXSGateUp-Q2KDown-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix-fixed-0731.gguf",
        bytes: 97_591_747_456,
        sha256: "659e22fbd01c9e13ea37a57c8d9c41e0a8819dffa3473d3c5286ee44b2d3398f",
        experts: Experts::Mixed { most: "v4-flash-q2", last: "v4-flash-q4", layers: 6 },
    },
    Published {
        name: "mxfp4",
        about: "4-bit experts as they were trained",
        file: "DeepSeek-V4-Flash-MXFP4Experts-F16HC-F16Compressor-F16Indexer-Q8Attn-Q8Shared-Q8Out-chat-v2-mxfp4-0731.gguf",
        bytes: 155_976_458_848,
        sha256: "0e3a161b670f686128ec5f92a601dfde616a37bf5e7e48999fa2d32471b57ec6",
        experts: Experts::Uniform("v4-flash-mxfp4"),
    },
    Published {
        name: "q4",
        about: "4-bit experts, quantized again",
        file: "DeepSeek-V4-Flash-Q4KExperts-F16HC-F16Compressor-F16Indexer-Q8Attn-Q8Shared-Q8Out-chat-v2-imatrix-0731.gguf",
        bytes: 164_633_502_592,
        sha256: "6bb77b5ddcbc2d974c687cfb63d644ecfb295581b4a53fa4c1d810aea538254a",
        experts: Experts::Uniform("v4-flash-q4"),
    },
];

impl Published {
    /// The file of that name.
    pub fn by_name(name: &str) -> Option<&'static Published> {
        PUBLISHED.iter().find(|file| file.name == name)
    }

    /// Its address below an endpoint, whose slash at the end does not matter.
    pub fn url(&self, endpoint: &str) -> String {
        format!("{}/{REPOSITORY}/resolve/main/{}", endpoint.trim_end_matches('/'), self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shape's data and a published file's differ by the header (vocabulary and tensor table, some 5 MB) only.
    #[test]
    fn lengths_agree_with_the_shapes() {
        let data = |name: &str| {
            let shape = ds4_synth::Shape::by_name(name).expect("a shape of that name");
            ds4_synth::data_bytes(&ds4_synth::SynthOptions { shape, layers: None, alias: false, seed: 0 }).unwrap()
        };
        for file in PUBLISHED {
            let expected = match file.experts {
                Experts::Uniform(name) => data(name),
                Experts::Mixed { most, last, layers } => {
                    let n_layer = ds4_synth::Shape::V4_FLASH.n_layer as u64;
                    data(most) + (data(last) - data(most)) / n_layer * layers as u64
                }
            };
            let header = file.bytes.checked_sub(expected).expect("a file longer than its data");
            assert!((1 << 20..16 << 20).contains(&header), "{}: {header}", file.name);
        }
    }

    #[test]
    fn addresses_do_not_double_the_slash() {
        let file = Published::by_name("q2").expect("q2");
        assert_eq!(file.url("http://localhost:1/"), file.url("http://localhost:1"));
        assert!(file.url(ENDPOINT).ends_with(".gguf"));
    }
}
