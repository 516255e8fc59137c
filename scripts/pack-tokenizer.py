#!/usr/bin/env python3
"""Packs the official tokenizer.json into the vocabulary file that the program embeds.

    scripts/pack-tokenizer.py tokenizer.json crates/ds4-chat/data/deepseek-v4-vocabulary.zst

Needs the `zstd` command. The format is described in docs/tokenizer.md; everything that the format takes for
granted about the vocabulary is checked here.
"""

import hashlib
import json
import struct
import subprocess
import sys

SHA256 = "8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf"


def byte_symbols():
    """The characters that stand for bytes, in ascending order."""
    own = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(256 - len(own))]


def main(source, target):
    data = open(source, "rb").read()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        sys.exit(f"{source}: sha256 is {digest}, expected {SHA256}")
    tokenizer = json.loads(data)
    vocabulary = tokenizer["model"]["vocab"]
    merges = [merge.split(" ") for merge in tokenizer["model"]["merges"]]
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}

    before = 0
    while before in added:
        before += 1
    first = before + 256
    for i, symbol in enumerate(byte_symbols()):
        assert vocabulary[symbol] == before + i, f"byte symbol {symbol!r} has another id"
    for rank, (left, right) in enumerate(merges):
        assert vocabulary[left + right] == first + rank, f"merge {rank} makes another id"
    end = first + len(merges)
    after = len(added) - before
    assert set(added) == set(range(before)) | set(range(end, end + after)), "added tokens are elsewhere"
    assert len(vocabulary) == end, "the vocabulary has tokens that no merge makes"

    def spelled(ids):
        assert not any("\n" in added[i] for i in ids)
        return b"".join(added[i].encode() + b"\n" for i in ids)

    sides = [[vocabulary[merge[side]] for merge in merges] for side in (0, 1)]
    planes = [bytes(i >> shift & 255 for i in ids) for ids in sides for shift in (0, 8, 16)]
    packed = struct.pack("<III", before, len(merges), after)
    packed += spelled(range(before)) + b"".join(planes) + spelled(range(end, end + after))
    command = ["zstd", "--ultra", "-22", "--force", "--quiet", "-", "-o", target]
    subprocess.run(command, input=packed, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
