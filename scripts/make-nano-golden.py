#!/usr/bin/env python3
"""Makes nano/golden.json: logits of nano that an independent implementation computed.

    make-nano-golden.py --reference FOLDER nano/nano.gguf nano/golden.json

FOLDER holds `numpy_ref.py`, an implementation of the model in numpy that shares no code with ds4: a class
`Engine(path, num=Num())` whose `step(tokens)` returns logits [tokens, vocabulary], all arithmetic in float32 and no
rounding of activations or cached rows; `Num(wide=True)` computes in float64 instead.

The tokens are a fixed pseudo-random sequence. It is long enough for every kind of attention: past the window, past
several pages of ratio 128, and past the length from which the indexer chooses among the rows of ratio 4. A choice
that float32 and float64 make differently would make a golden value of chance, so both are computed and must agree.
"""
import argparse
import hashlib
import json
import sys

import numpy as np

COUNT = 640       # the indexer chooses from token 4 * (128 + 1) on
EVERY = 16        # positions kept: each 16th and the last
TOP = 8           # logits kept at each
CHUNK = 64
AGREE = 1e-4      # float32 against float64, relative to the root mean square of the logits


def tokens(vocab):
    """BOS, then SplitMix64 from a fixed seed."""
    mask, state, out = (1 << 64) - 1, 4, [0]
    while len(out) < COUNT:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append((z ^ (z >> 31)) % vocab)
    return out


def run(reference, path, ids, wide):
    engine = reference.Engine(path, num=reference.Num(wide=wide))
    return np.concatenate([engine.step(ids[i:i + CHUNK]) for i in range(0, len(ids), CHUNK)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", required=True, help="folder of numpy_ref.py")
    parser.add_argument("gguf")
    parser.add_argument("out")
    args = parser.parse_args()
    sys.path.insert(0, args.reference)
    import numpy_ref as reference

    ids = tokens(reference.Gguf(args.gguf).meta["deepseek4.vocab_size"])
    logits = run(reference, args.gguf, ids, wide=False).astype(np.float64)
    exact = run(reference, args.gguf, ids, wide=True)
    rms = np.sqrt((exact ** 2).mean(-1))
    error = np.sqrt(((logits - exact) ** 2).mean(-1)) / rms
    print(f"float32 against float64: worst position {error.argmax()}, relative error {error.max():.2e}")
    if error.max() > AGREE:
        sys.exit("a choice hangs on rounding: use another seed")

    kept = sorted({*range(EVERY - 1, COUNT, EVERY), COUNT - 1})
    golden = {
        "model_sha256": hashlib.sha256(open(args.gguf, "rb").read()).hexdigest(),
        "numerics": "float32, rows of the cache not rounded",
        "tokens": ids,
        "positions": [
            {
                "position": p,
                "rms": float(f"{rms[p]:.6g}"),
                "top": [[int(i), float(f"{exact[p][i]:.6g}")] for i in np.argsort(-exact[p])[:TOP]],
            }
            for p in kept
        ],
    }
    with open(args.out, "w") as file:
        file.write("{\n")
        file.write(f'"model_sha256": "{golden["model_sha256"]}",\n"numerics": "{golden["numerics"]}",\n')
        file.write(f'"tokens": {json.dumps(ids)},\n"positions": [\n')
        file.write(",\n".join(json.dumps(p) for p in golden["positions"]))
        file.write("\n]\n}\n")


if __name__ == "__main__":
    main()
