"""Mutated concepts at the concept loader and the zip reader: `python -m trust.fuzz_concepts 600` in tests/ (seconds).

A concept is damaged byte by byte, entry by entry of its JSON and of its table of tensors, and in the archive around it.
Each is loaded, or refused with an OmniError that names it. Anything else is counted as raw, and memory is watched."""

import json
import random
import resource
import struct
import sys
import time
import zipfile
from collections import Counter

import torch

from omnipersona.arguments import OmniError
from omnipersona.concept.adapter import PARTS
from omnipersona.concept.concept import Concept
from trust.cases_archives import files, packed
from trust.fuzz_pictures import mutated
from trust.material import bb

ODD = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        0.5,
        1e308,
        float("nan"),
        float("inf"),
        2**31,
        2**63,
        -(2**63),
        10**30,
        "",
        "x",
        "../x",
    ),
    *(
        "\0",
        "\ud83d",
        "<|im_end|>",
        "x" * 10_000,
        [],
        [1],
        [[]],
        {},
        {"a": 1},
        {"toy": None},
        [2**40, 2**40],
        "F32",
        "I64",
    ),
)


def places(value, path=()):
    "Paths to all entries of a JSON value."
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in inner for p in places(v, (*path, k)))]


def changed_json(value, r):
    "A JSON value with one to three entries replaced, removed or added."
    value = json.loads(json.dumps(value))
    for _ in range(r.choice((1, 1, 2, 3))):
        path = r.choice(places(value))
        if not path:
            continue
        at = value
        for k in path[:-1]:
            at = at[k]
        way = r.randrange(4)
        if way == 0:
            del at[path[-1]]
        elif way == 1 and isinstance(at, dict):
            at[r.choice(("x", "__metadata__", "", "name", "\0"))] = r.choice(ODD)
        else:
            at[path[-1]] = r.choice(ODD)
    return value


def dumped(value):
    return json.dumps(value).encode()


def changed_table(data, r):
    "A safetensors file whose table says something else; sometimes the length of the table is wrong, too."
    (n,) = struct.unpack("<Q", data[:8])
    header = dumped(changed_json(json.loads(data[8 : 8 + n]), r))
    length = r.choice((len(header), len(header), len(header), n, len(data), 2**40, 2**63, 0, r.randrange(len(data))))
    return struct.pack("<Q", length) + header + data[8 + n :]


def changed_archive(parts, r):
    "A zip file around the parts, with other names, other entries, other methods, then damaged byte by byte."
    names = (
        "",
        "maeve/",
        "a/b/",
        "maeve\\",
        "../",
        "/tmp/x/",
        "./",
        "C:\\",
        "__MACOSX/",
        "maeve/maeve/",
        "ä/",
        "\u202e/",
    )
    entries = [(r.choice(names) * (r.random() < 0.7) + f, b) for f, b in parts.items() if r.random() < 0.95]
    entries += [(r.choice(names) + r.choice(("x", *PARTS, "x.zip")), b"x") for _ in range(r.choice((0, 0, 1, 3)))]
    r.shuffle(entries)
    method = r.choice(
        (zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    data = packed(entries, method)
    return mutated(data, r) if data and r.random() < 0.7 else data


def one(parts, r):
    "(kind, content of a zip file) of one mutated concept."
    kind = r.choice(("bytes of the archive", "the archive", "JSON", "bytes of JSON", "table", "bytes of weights"))
    parts = dict(parts)
    if kind == "bytes of the archive":
        return kind, mutated(packed(parts), r)
    if kind == "the archive":
        return kind, changed_archive(parts, r)
    if kind == "JSON":
        parts[PARTS[0]] = dumped(changed_json(json.loads(parts[PARTS[0]]), r))
    if kind == "bytes of JSON":
        parts[PARTS[0]] = mutated(parts[PARTS[0]], r)
    if kind == "table":
        parts[PARTS[1]] = changed_table(parts[PARTS[1]], r)
    if kind == "bytes of weights":
        parts[PARTS[1]] = mutated(parts[PARTS[1]], r)
    return kind, packed(parts, zipfile.ZIP_STORED)


def memory():
    "Bytes that this process took at most."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(n=None, seconds=None, seed=0, examples=None):
    "Counts of n mutated concepts, or of as many as fit into the seconds: accepted, refused, raw, and megabytes grown."
    r, parts, counts, begun, before = random.Random(seed), files(), Counter(), time.time(), memory()
    i = 0
    while i < n if n is not None else time.time() - begun < seconds:
        i += 1
        kind, data = one(parts, r)
        try:
            c = Concept.from_pretrained(data, bb(), name="maeve.zip")
            assert torch.isfinite(c.embeddings).all() and all(isinstance(v, str) for v in c.facts.values())
            counts["accepted"] += 1
        except OmniError as e:
            assert "maeve.zip" in str(e), e
            counts["refused"] += 1
        except BaseException as e:  # a panic of a Rust library is no Exception
            if isinstance(e, KeyboardInterrupt):
                raise
            counts["raw"] += 1
            if examples is not None:
                examples.append((kind, data, e))
    counts["MB"] = (memory() - before) // 10**6
    return counts


def main(seconds=600, seed=1):
    examples = []
    counts = fuzz(seconds=seconds, seed=seed, examples=examples)
    cpu = f"{time.process_time():.0f} s of a processor"
    print(f"{sum(v for k, v in counts.items() if k != 'MB'):,} mutated concepts in {seconds} s, {cpu}: {dict(counts)}")
    for kind, data, e in examples[:10]:
        print(f"raw: {kind}, {len(data)} bytes: {type(e).__name__}: {e}"[:300])
    return counts


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:]))["raw"] > 0)
