"""Mutated pictures at the picture door: `python -m trust.fuzz_pictures 600` in tests/ (seconds).

JPEG, PNG, WebP, AVIF, GIF and TIFF (where this Pillow can write them) are mutated in the ways in which
files are damaged. Each is read, or refused with an OmniError that names it. Anything else is counted as raw."""

import io
import random
import sys
import time
import warnings
from collections import Counter
from itertools import count

import numpy as np
from PIL import Image

from omnipersona.arguments import OmniError
from omnipersona.pictures import load_image


def seeds(side=48):
    "{name: content} of small sound files in every kind that this Pillow can write."
    noise = np.random.default_rng(0).random((4, 4, 3))
    im = Image.fromarray((noise * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a phone"
    second = im.transpose(Image.Transpose.ROTATE_90)
    ways = {
        "plain.jpg": (im, dict(quality=80, exif=exif)),
        "progressive.jpg": (im, dict(quality=80, progressive=True)),
        "cmyk.jpg": (im.convert("CMYK"), dict(quality=80)),
        "plain.png": (im, dict(exif=exif)),
        "palette.png": (im.quantize(16), dict(transparency=3)),
        "animated.png": (im, dict(save_all=True, append_images=[second])),
        "deep.png": (Image.fromarray(np.asarray(im.convert("L")).astype(np.uint16) * 257), {}),
        "lossy.webp": (im, dict(quality=80, exif=exif)),
        "lossless.webp": (im.convert("RGBA"), dict(lossless=True)),
        "animated.webp": (im, dict(save_all=True, append_images=[second])),
        "plain.avif": (im, dict(quality=60, speed=10, exif=exif)),
        "animated.gif": (im, dict(save_all=True, append_images=[second])),
        "plain.tif": (im, {}),
    }
    found = {}
    for name, (image, options) in ways.items():
        buffer = io.BytesIO()
        try:
            image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rsplit(".")[-1].upper()), **options)
        except (KeyError, OSError, ValueError):  # this Pillow cannot write it
            continue
        found[name] = buffer.getvalue()
    return found


def mutated(content, r):
    "One of the ways in which a file is damaged, once to four times."
    b = bytearray(content)
    for _ in range(r.choice((1, 1, 2, 4))):
        at, n = r.randrange(len(b)), min(r.choice((1, 1, 2, 4, 16, 64)), max(1, len(b) // 2))
        if r.random() < 0.4:
            at = r.randrange(min(len(b), 160))  # headers matter more
        way = r.randrange(8)
        if way == 0:
            b[at] ^= 1 << r.randrange(8)
        elif way == 1:
            b[at : at + n] = r.randbytes(n)
        elif way == 2:
            b[at : at + n] = bytes([r.choice((0, 255))]) * n
        elif way == 3 and len(b) > 2 * n:
            del b[at : at + n]
        elif way == 4:
            b[at:at] = r.randbytes(n)
        elif way == 5 and len(b) > 40:
            del b[r.randrange(20, len(b)) :]
        elif way == 6:
            b[at:at] = b[at : at + n]
        else:
            other = r.randrange(len(b))
            b[at : at + n], b[other : other + n] = b[other : other + n], b[at : at + n]
    return bytes(b)


def fuzz(n=None, seed=0, examples=None, seconds=None):
    """Counts of n mutated files, or of as many as fit into the seconds: accepted, refused, raw.

    `examples` collects (name, content, error) of raw ones."""
    r, files, counts, begun = random.Random(seed), seeds(), Counter(accepted=0, refused=0, raw=0), time.time()
    names = sorted(files)
    for i in count():
        if i >= n if n is not None else time.time() - begun >= seconds:
            return counts
        name = names[i % len(names)]
        file = io.BytesIO(mutated(files[name], r))
        file.name = name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = load_image(file)
            assert image.mode == "RGB" and not image.info, f"{image.mode} with {list(image.info)}"
            counts["accepted"] += 1
        except OmniError as e:
            assert name in str(e) and "\n" not in str(e), f"{name}: {e}"
            counts["refused"] += 1
        except BaseException as e:  # a panic of a library is no Exception
            if isinstance(e, KeyboardInterrupt):
                raise
            counts["raw"] += 1
            if examples is not None:
                examples.append((name, file.getvalue(), e))


def main(seconds=600, seed=1):
    examples = []
    counts = fuzz(seconds=seconds, seed=seed, examples=examples)
    cpu = f"{time.process_time():.0f} s of a processor"
    kinds = ", ".join(sorted(seeds()))
    print(f"{sum(counts.values()):,} mutated files ({kinds}) in {seconds} s, {cpu}: {dict(counts)}")
    for name, content, e in examples[:10]:
        print(f"raw: {name}, {len(content)} bytes: {type(e).__name__}: {e}")
    return counts


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:]))["raw"] > 0)
