"""Concept folders and checkpoints as they are passed around a class: whole, incomplete, cut off, changed, of others.

Each case makes a folder, does one harm to it, and loads it."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import torch
from helpers import SHORT, random_backbone
from PIL import Image
from safetensors.torch import load_file, save, save_file

from omnipersona.arguments import OmniError
from omnipersona.concept.adapter import KEY, PARTS
from omnipersona.concept.checkpoints import CHECKPOINT_FILE, resume, save_checkpoint
from omnipersona.concept.concept import Concept, Concepts
from omnipersona.concept.learner import Learner
from omnipersona.concept.persona import Persona
from omnipersona.data import ConceptData
from omnipersona.model.loading import load_backbone
from omnipersona.widgets.forms import concept_zip, open_concept
from trust.corpus import Case
from trust.material import bb, data

WIDTH = bb().model.config.hidden_size
WEIGHTS = PARTS[1]


def folder(tmp: Path, name="maeve") -> Path:
    return Concept(bb(), name, facts={"toy": "a red kite"}).save_pretrained(tmp / name)


def load(path, slot=None):
    return Concept.from_pretrained(path, bb(), slot)


# ---- concept.json -------------------------------------------------------------------------------------------------
WRONG = {  # {entry: {kind: value}}: what concept.json must not say
    "format": {"newer": 2, "zero": 0, "text": "1", "none": None, "true": True},
    "name": {"empty": "", "climbing": "../bo", "markup": "<b>", "number": 3, "none": None, "long": "x" * 33},
    "n_und": {"another": 3, "negative": -1, "text": "16", "half": 0.5, "huge": 10**30, "none": None},
    "n_gen": {"another": 3, "list": [16], "huge": 10**9},
    "routing": {"unknown": "both", "none": None, "list": []},
    "slot": {"far": 99, "negative": -1, "text": "0", "half": 0.5, "none": None},
    "backbone": {"number": 3, "none": None, "long": "x" * 2000},
    "fingerprint": {"another": "0123456789abcdef", "number": 3, "none": None, "empty": ""},
    "facts": {"list": ["a kite"], "text": "a kite", "numbers": {"age": 3}, "nested": {"toy": {"is": "a kite"}}},
    "summary": {"text": "440 steps", "list": [1]},
}


def _with(entry, value):
    def run(tmp):
        d = folder(tmp)
        about = json.loads((d / PARTS[0]).read_text())
        (d / PARTS[0]).write_text(json.dumps(about | {entry: value}))
        return load(d)

    return run


def _without(entry):
    def run(tmp):
        d = folder(tmp)
        about = json.loads((d / PARTS[0]).read_text())
        (d / PARTS[0]).write_text(json.dumps({k: v for k, v in about.items() if k != entry}))
        return load(d)

    return run


ABOUT_CASES = [
    *(
        Case("concepts", f"concept.json with {entry} {kind}", _with(entry, value), "refused", ("maeve",))
        for entry, values in WRONG.items()
        for kind, value in values.items()
    ),
    *(
        Case("concepts", f"concept.json without {entry}", _without(entry), "refused", ("maeve", entry))
        for entry in WRONG
    ),
    Case("concepts", "concept.json with an entry more", _with("colour", "red")),
    Case("concepts", "concept.json without a summary to speak of", _with("summary", None)),
    Case("concepts", "concept.json without facts to speak of", _with("facts", None)),
]

# ---- the files ----------------------------------------------------------------------------------------------------
BYTES = {  # {kind: what becomes of a file's bytes}
    "empty": lambda b: b"",
    "one byte": lambda b: b[:1],
    "half": lambda b: b[: len(b) // 2],
    "all but one byte": lambda b: b[:-1],
    "zeros": lambda b: bytes(len(b)),
    "noise": lambda b: np.random.default_rng(0).bytes(len(b)),
    "a page of a proxy": lambda b: b"<!DOCTYPE html><html><body>Please log in</body></html>",
    "a pointer of git lfs": lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 34088\n",
    "a zip": lambda b: b"PK\x03\x04" + b,
    "a program of pickle": lambda b: b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94",
    "twice": lambda b: b + b,
    "another's": lambda b: b"[1, 2, 3]",
    "70 MB": lambda b: b + bytes(70_000_000),
}


def _rewritten(file, change):
    def run(tmp):
        d = folder(tmp)
        (d / file).write_bytes(change((d / file).read_bytes()))
        return load(d)

    return run


def _table(entry):
    "A safetensors file with this table entry for the embeddings, and 33 rows of data."

    def change(old):
        header = json.dumps({KEY: entry}).encode()
        return struct.pack("<Q", len(header)) + header + bytes(33 * WIDTH * 4)

    return change


END = 33 * WIDTH * 4
TABLES = {
    "a shape of a yottabyte": dict(dtype="F32", shape=[2**40, 2**40], data_offsets=[0, END]),
    "a negative shape": dict(dtype="F32", shape=[-33, -WIDTH], data_offsets=[0, END]),
    "a place outside the file": dict(dtype="F32", shape=[33, WIDTH], data_offsets=[2**50, 2**50 + END]),
    "a place before the file": dict(dtype="F32", shape=[33, WIDTH], data_offsets=[-END, 0]),
    "a reversed place": dict(dtype="F32", shape=[33, WIDTH], data_offsets=[END, 0]),
    "an unknown dtype": dict(dtype="F7", shape=[33, WIDTH], data_offsets=[0, END]),
    "half a shape": dict(dtype="F32", shape="33", data_offsets=[0, END]),
    "no place": dict(dtype="F32", shape=[33, WIDTH]),
    "a text": "33 rows",
    "nothing": None,
    "fractions": dict(dtype="F32", shape=[33.0, WIDTH], data_offsets=[0, END]),
    "a shape of ten thousand sides": dict(dtype="F32", shape=[1] * 10**4, data_offsets=[0, 4]),
}
HEADERS = {
    "a header of an exabyte": lambda b: struct.pack("<Q", 2**60) + b[8:],
    "a header as long as the file": lambda b: struct.pack("<Q", len(b) - 8) + b[8:],
    "a header beyond the file": lambda b: struct.pack("<Q", len(b)) + b[8:],
    "a header of nothing": lambda b: struct.pack("<Q", 0) + b[8:],
    "a header nested 100,000 deep": lambda b: struct.pack("<Q", 10**5) + b"[" * 10**5 + b[8:],
}


def _tensors(make):
    "The weights file holds other tensors."
    return _rewritten(WEIGHTS, lambda old: save(make(torch.randn(33, WIDTH))))


def _spoilt(value):
    def make(rows):
        rows[5, 5] = value
        return {KEY: rows}

    return make


WRONG_TENSORS = {
    "another key": lambda rows: {"something.else": rows},
    "no tensor": lambda rows: {},
    "one row less": lambda rows: {KEY: rows[:32].clone()},
    "one row more": lambda rows: {KEY: torch.cat([rows, rows[:1]])},
    "no row": lambda rows: {KEY: rows[:0].clone()},
    "turned": lambda rows: {KEY: rows.T.contiguous()},
    "flat": lambda rows: {KEY: rows.flatten()},
    "one dimension more": lambda rows: {KEY: rows[None].clone()},
    "narrow": lambda rows: {KEY: rows[:, :8].clone()},
    "whole numbers": lambda rows: {KEY: rows.int()},
    "booleans": lambda rows: {KEY: rows > 0},
    "nan": _spoilt(float("nan")),
    "infinity": _spoilt(float("inf")),
    "beyond float32": lambda rows: {KEY: rows.double() * 1e300},
}
GOOD_TENSORS = {
    "float16": lambda rows: {KEY: rows.half()},
    "bfloat16": lambda rows: {KEY: rows.bfloat16()},
    "float64": lambda rows: {KEY: rows.double()},
    "a tensor more": lambda rows: {KEY: rows, "more": torch.zeros(3)},
}

FILE_CASES = [
    *(
        Case("concepts", f"{file} is {kind}", _rewritten(file, change), "refused", ("maeve",))
        for file in PARTS[:2]
        for kind, change in BYTES.items()
    ),
    *(
        Case("concepts", f"the table of the weights says {kind}", _rewritten(WEIGHTS, _table(e)), "refused", ("maeve",))
        for kind, e in TABLES.items()
    ),
    *(
        Case("concepts", f"the weights begin with {kind}", _rewritten(WEIGHTS, change), "refused", ("maeve",))
        for kind, change in HEADERS.items()
    ),
    *(
        Case("concepts", f"embeddings: {kind}", _tensors(make), "refused", ("maeve",))
        for kind, make in WRONG_TENSORS.items()
    ),
    *(
        Case(
            "concepts",
            f"embeddings of {kind}",
            lambda tmp, run=_tensors(make): run(tmp).embeddings.dtype == torch.float32,
        )
        for kind, make in GOOD_TENSORS.items()
    ),
    *(
        Case("concepts", f"concept.json in {code}", _rewritten(PARTS[0], lambda b, code=code: b.decode().encode(code)))
        for code in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32")
    ),
]


# ---- the folder ---------------------------------------------------------------------------------------------------
def _no_file(file):
    def run(tmp):
        d = folder(tmp)
        (d / file).unlink()
        return load(d)

    return run


def _as_folder(file):
    def run(tmp):
        d = folder(tmp)
        (d / file).unlink()
        (d / file).mkdir()
        return load(d)

    return run


def _pipe(file):
    "A named pipe in the place of a file: reading it would wait for ever."

    def run(tmp):
        d = folder(tmp)
        (d / file).unlink()
        os.mkfifo(d / file)
        return load(d)

    return run


def _device(tmp):
    d = folder(tmp)
    (d / WEIGHTS).unlink()
    (d / WEIGHTS).symlink_to("/dev/zero")
    return load(d)


def _loop(tmp):
    d = folder(tmp)
    (d / WEIGHTS).unlink()
    (d / WEIGHTS).symlink_to(WEIGHTS)
    return load(d)


def _linked(tmp):
    "As the hub's cache has it: links to the files."
    d = folder(tmp)
    for file in PARTS:
        (d / file).rename(tmp / file)
        (d / file).symlink_to(tmp / file)
    return load(d).facts == {"toy": "a red kite"}


def _sparse(tmp):
    "A terabyte by its size, and nothing on the disk."
    d = folder(tmp)
    with (d / WEIGHTS).open("r+b") as f:
        f.truncate(2**40)
    return load(d)


def _with_more_files(tmp):
    "What else lies there is neither read nor run."
    d = folder(tmp)
    (d / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/omnipersona-was-run'\ntR.")
    (d / "modeling.py").write_text("raise SystemExit('was run')")
    (d / "photo.jpg").write_bytes(b"...")
    return load(d).name == "maeve" and not os.path.exists("/tmp/omnipersona-was-run")


PLACES = {
    "no such folder": (lambda tmp: load(tmp / "nobody"), ("nobody", "missing", "no such folder")),
    "an empty folder": (lambda tmp: load(tmp), ("missing",)),
    "a name of 5000 letters": (lambda tmp: load("x" * 5000), ("concept",)),
    "an empty name": (lambda tmp: load(""), ("empty",)),
    "a name with a null": (lambda tmp: load("maeve\0"), ("null",)),
    "a number": (lambda tmp: load(3), ("concept",)),
    "nothing": (lambda tmp: load(None), ("concept",)),
    "a list": (lambda tmp: load(["maeve"]), ("concept",)),
    "an address": (lambda tmp: load("https://example.org/maeve"), ("download",)),
    "the folder above": (lambda tmp: load(folder(tmp).parent), ("did you mean", "maeve")),
    "swapped arguments": (lambda tmp: Concept.from_pretrained(bb(), folder(tmp)), ("folder comes first",)),
    "no backbone": (lambda tmp: Concept.from_pretrained(folder(tmp), "tiny"), ("backbone",)),
    "the folder of a backbone": (
        lambda tmp: load(Path(load_backbone.__code__.co_filename).parents[1] / "weights" / "tiny"),
        ("concept.json is missing",),
    ),
    "a revision of a folder": (
        lambda tmp: Concept.from_pretrained(folder(tmp), bb(), revision="main"),
        ("revision", "main"),
    ),
    "slot 99": (lambda tmp: load(folder(tmp), 99), ("slot 99",)),
    "slot of a text": (lambda tmp: load(folder(tmp), "0"), ("slot",)),
    "slot true": (lambda tmp: load(folder(tmp), True), ("slot",)),
    "a device as weights": (_device, ("maeve", "not a regular file")),
    "a link to itself": (_loop, ("maeve", "missing")),
    "a terabyte": (_sparse, ("maeve", "far more")),
    "another backbone": (
        lambda tmp: Concept.from_pretrained(folder(tmp), random_backbone(1)),
        ("maeve", "learn it again"),
    ),
    "another backbone of a persona": (
        lambda tmp: Persona(random_backbone(1), folder(tmp)),
        ("maeve", "learn it again"),
    ),
    "the same twice": (lambda tmp: Concepts(bb(), [folder(tmp), tmp / "maeve"]), ("two concepts", "maeve")),
}
PLACE_CASES = [
    *(Case("concepts", f"from {name}", run, "refused", words) for name, (run, words) in PLACES.items()),
    *(
        Case("concepts", f"{file} is missing", _no_file(file), "refused", ("maeve", file, "missing"))
        for file in PARTS[:2]
    ),
    *(Case("concepts", f"{file} is a folder", _as_folder(file), "refused", ("maeve", file)) for file in PARTS[:2]),
    *(Case("concepts", f"{file} is a pipe", _pipe(file), "refused", ("maeve", file)) for file in PARTS[:2]),
    Case("concepts", "adapter_config.json is missing, which only peft needs", _no_file(PARTS[2])),
    Case("concepts", "a folder of links", _linked),
    Case("concepts", "other files are neither read nor run", _with_more_files),
]


# ---- made by hand, and saved --------------------------------------------------------------------------------------
def _saved_over(other, **kw):
    "Another concept is saved over maeve's folder."

    def run(tmp):
        d = folder(tmp)
        old = [(d / f).read_bytes() for f in PARTS]
        try:
            other().save_pretrained(d, **kw)
        except OmniError:
            assert [(d / f).read_bytes() for f in PARTS] == old and len(list(tmp.iterdir())) == 1
            raise
        return load(d).name == other().name

    return run


def _over_damage(tmp):
    d = folder(tmp)
    (d / PARTS[0]).write_text("{")
    return Concept(bb(), "maeve").save_pretrained(d)


def _strings(value):
    "All texts in what JSON holds."
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in (k, *_strings(v))]
    return [s for v in value for s in _strings(v)] if isinstance(value, list) else [str(value)]


def _saved_without_facts(tmp):
    c = Concept(bb(), "maeve", facts={"toy": "a red kite"}, summary=dict(runs=[dict(facts={"toy": "a red kite"})]))
    d = c.save_pretrained(tmp / "maeve", facts=False)
    written = b"".join((d / f).read_bytes() for f in PARTS)
    return b"kite" not in written and load(d).facts == {} and torch.equal(load(d).embeddings, c.embeddings)


def _zipped_without_facts(tmp):
    c = Concept(bb(), "maeve", facts={"toy": "a red kite"})
    return open_concept(bb(), concept_zip(c, facts=False)).facts == {} and open_concept(bb(), concept_zip(c)).facts


def _no_pixels(tmp):
    "A learnt concept's folder, with and without facts, holds no picture's bytes, no EXIF, no path of a picture."
    picture = Image.fromarray(np.random.default_rng(7).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    exif = picture.getexif()
    exif[0x010E], exif[0x013B], exif[0x8825] = "in the garden of Zaphod", "Trillian", {1: "N", 2: (51.0, 30.0, 26.0)}
    file = tmp / "IMG_20260705_zaphod.jpg"
    picture.save(file, exif=exif, quality=95)
    from omnipersona.concept.learn import learn

    c = learn(bb(), ConceptData([file], facts={"toy": "a red kite"}), "maeve", recipe=SHORT, progress=False)
    pixels = np.asarray(Image.open(file).convert("RGB"))
    small = np.asarray(bb().vae_resize(Image.open(file).convert("RGB")))
    parts = [pixels.tobytes()[i : i + 24] for i in range(0, pixels.size, 512)] + [small.tobytes()[:24]]
    parts += [file.read_bytes()[i : i + 24] for i in range(0, file.stat().st_size - 24, 512)]
    words = [b"zaphod", b"Zaphod", b"Trillian", b"garden", b"JFIF", b"Exif", b"IMG_2026", str(tmp).encode()]
    c.save_pretrained(tmp / "with")
    c.save_pretrained(tmp / "without", facts=False)
    content = b"".join(p.read_bytes() for d in ("with", "without") for p in (tmp / d).rglob("*") if p.is_file())
    assert not [p for p in [*parts, *words] if p in content]
    texts = _strings(json.loads((tmp / "without" / PARTS[0]).read_text()))
    return not [s for s in texts if "kite" in s or s == "toy"]


HAND = {
    "a wrong shape": (lambda: Concept(bb(), "maeve", torch.zeros(20, WIDTH)), ("20",)),
    "a wrong width": (lambda: Concept(bb(), "maeve", torch.zeros(33, 8)), ("width 8",)),
    "nan": (lambda: Concept(bb(), "maeve", torch.full((33, WIDTH), float("nan"))), ("not finite",)),
    "a list": (lambda: Concept(bb(), "maeve", [1.0]), ("tensor",)),
    "facts that are a text": (lambda: Concept(bb(), "maeve", facts="a kite"), ("facts",)),
    "facts that are numbers": (lambda: Concept(bb(), "maeve", facts={"age": 3}), ("age",)),
    "minus one token": (lambda: Concept(bb(), "maeve", n_und=-1), ("n_und",)),
    "more tokens than room": (lambda: Concept(bb(), "maeve", n_und=10**4), ("at once",)),
    "tokens beyond memory": (lambda: Concept(bb(), "maeve", n_und=10**15), ("n_und",)),
    "an unknown routing": (lambda: Concept(bb(), "maeve", routing="both"), ("routing", "coupled")),
    "a name that climbs": (lambda: Concept(bb(), "../maeve"), ("name",)),
}
UNSAVABLE = {"an object": object(), "a picture": Image.new("RGB", (8, 8)), "bytes": b"...", "a set": {1}}
SAVE_CASES = [
    *(Case("concepts", f"made with {k}", lambda tmp, run=run: run(), "refused", w) for k, (run, w) in HAND.items()),
    *(
        Case(
            "concepts",
            f"saved with {k} in its summary",
            lambda tmp, v=v: Concept(bb(), "maeve", summary=dict(x=v)).save_pretrained(tmp / "c"),
            "refused",
            ("summary",),
        )
        for k, v in UNSAVABLE.items()
    ),
    Case(
        "concepts",
        "numbers of numpy and torch in its summary",
        lambda tmp: (
            load(
                Concept(
                    bb(), "maeve", summary=dict(a=np.float32(2), b=torch.tensor(3), c=np.arange(2))
                ).save_pretrained(tmp / "c")
            ).summary
            == dict(a=2.0, b=3, c=[0, 1])
        ),
    ),
    Case(
        "concepts",
        "saved over another concept",
        _saved_over(lambda: Concept(bb(), "bo")),
        "refused",
        ("<maeve>", "<bo>", "overwrite=True"),
    ),
    Case(
        "concepts",
        "saved over its namesake of another backbone",
        _saved_over(lambda: Concept(random_backbone(1), "maeve")),
        "refused",
        ("another backbone", "overwrite=True"),
    ),
    Case("concepts", "saved over a damaged one", _over_damage, "refused", ("overwrite=True",)),
    Case("concepts", "saved over another with overwrite", _saved_over(lambda: Concept(bb(), "bo"), overwrite=True)),
    Case("concepts", "saved over itself", _saved_over(lambda: Concept(bb(), "maeve"))),
    Case("concepts", "saved without facts", _saved_without_facts),
    Case("concepts", "zipped without facts", _zipped_without_facts),
    Case("concepts", "holds no pixels, no EXIF and no path", _no_pixels),
]


# ---- checkpoints --------------------------------------------------------------------------------------------------
def _learner(**kw):
    return Learner(bb(), data(), "maeve", recipe=SHORT, **kw)


def _checkpoint(tmp, change):
    "A checkpoint after one step, changed, then resumed."
    learner = _learner()
    learner.step()
    file = save_checkpoint(learner, tmp)
    change(file)
    second = resume(_learner(), tmp)
    return second.global_step == 1 and torch.equal(second.concept.embeddings, learner.concept.embeddings)


def _bytes(change):
    return lambda file: file.write_bytes(change(file.read_bytes()))


def _metadata(file):
    (n,) = struct.unpack("<Q", file.read_bytes()[:8])
    return json.loads(file.read_bytes()[8 : 8 + n])["__metadata__"]


def _tensor(key, make):
    def change(file):
        tensors, about = load_file(file), _metadata(file)
        save_file(tensors | {key: make(tensors[key])}, file, about)

    return change


def _said(key, value):
    "The checkpoint's metadata with another entry; None: without it."

    def change(file):
        tensors, about = load_file(file), _metadata(file)
        about = {k: v for k, v in about.items() if k != key} | ({} if value is None else {key: value})
        save_file(tensors, file, about)

    return change


CHECKPOINTS = {
    **{f"is {kind}": _bytes(change) for kind, change in BYTES.items()},
    **{f"begins with {kind}": _bytes(change) for kind, change in HEADERS.items()},
    **{
        f"has {k} {kind}": _tensor(k, make)
        for k in ("embeddings", "exp_avg", "exp_avg_sq")
        for kind, make in {
            "shorter": lambda t: t[:20].clone(),
            "with nan": lambda t: t * float("nan"),
            "of whole numbers": lambda t: t.int(),
        }.items()
    },
    "has rng shorter": _tensor("rng", lambda t: t[:100].clone()),
    "has rng of floats": _tensor("rng", lambda t: t.float()),
    "has rng of noise": _tensor("rng", lambda t: t + 77),
    "has step infinite": _tensor("step", lambda t: t + float("inf")),
    **{f"says {k} is {v!r}": _said(k, v) for k in ("step", "history") for v in (None, "", "many", "-1", "[1]", "7")},
    **{f"says {k} is another's": _said(k, "x") for k in ("recipe", "seed", "name", "fingerprint", "data")},
}
CHECKPOINT_CASES = [
    Case("concepts", "a checkpoint as it was saved", lambda tmp: _checkpoint(tmp, lambda file: None)),
    *(
        Case("concepts", f"a checkpoint {k}", lambda tmp, v=v: _checkpoint(tmp, v), "refused", (CHECKPOINT_FILE,))
        for k, v in CHECKPOINTS.items()
    ),
]


# ---- backbones ----------------------------------------------------------------------------------------------------
def _backbone(change):
    "A saved random backbone, changed, then loaded."

    def run(tmp):
        bb().save_pretrained(tmp / "b")
        change(tmp / "b")
        return load_backbone(tmp / "b", torch.float32, "cpu").fingerprint == bb().fingerprint

    return run


def _json(file, **entries):
    def change(d):
        about = json.loads((d / file).read_text())
        for k, v in entries.items():
            about[k] = v
        (d / file).write_text(json.dumps(about))

    return change


def _pointing_elsewhere(d):
    "transformers follows adapter_config.json to another repository, and diffusers falls back to pickled files."
    (d / "adapter_config.json").write_text(json.dumps(dict(peft_type="LORA", base_model_name_or_path="evil/repo")))
    (d / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    (d / "ae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    _json("config.json", auto_map={"AutoModel": "evil.Model"}, _attn_implementation="evil/kernels")(d)
    _json("ae/config.json", quantization_config=dict(quant_method="evil"), _class_name="Evil")(d)


def _only_pickles(d):
    f = d / "ae" / "diffusion_pytorch_model.safetensors"
    f.rename(f.with_suffix(".bin"))


BACKBONES = {
    "a billion layers": _json("config.json", num_hidden_layers=10**9),
    "a hidden size beyond memory": _json("config.json", hidden_size=10**12),
    "another hidden size": _json("config.json", hidden_size=32),
    "a text as a size": _json("config.json", hidden_size="many"),
    "an unknown activation": _json("config.json", connector_act="evil"),
    "no reserved names": _json("backbone.json", names=None),
    "names that are numbers": _json("backbone.json", names=[1, 2]),
    "another vocabulary": _json("backbone.json", vocab_size=10),
    "a spare row beyond the table": _json("backbone.json", spare=10**6),
    "an impossible preset": _json("backbone.json", presets=dict(draw=dict(num_timesteps=0))),
    "an impossible resize": _json("backbone.json", vae_resize=dict(longest=0)),
    "an unknown resize": _json("backbone.json", vae_resize=dict(longest=64, kernel="evil")),
    "an autoencoder of a billion blocks": _json("ae/config.json", num_encoder_blocks=[10**9]),
    "an autoencoder of another width": _json("ae/config.json", encoder_block_out_channels=[8]),
    "a refiner beyond memory": _json("ae/outer.json", refiner=dict(width=10**9, blocks=3, cell=2)),
    "only pickled weights": _only_pickles,
    "a tokenizer that is a list": lambda d: (d / "tokenizer.json").write_text("[]"),
    "a tokenizer cut off": lambda d: (d / "tokenizer.json").write_text((d / "tokenizer.json").read_text()[:300]),
    "a tokenizer of another model": lambda d: (d / "tokenizer.json").write_text(
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}'
    ),
    "weights with nan": lambda d: save_file(
        {k: v * float("nan") for k, v in load_file(d / "model.safetensors").items()}, d / "model.safetensors"
    ),
    "weights of whole numbers": lambda d: save_file(
        {k: v.short() for k, v in load_file(d / "model.safetensors").items()}, d / "model.safetensors"
    ),
    "a tensor less": lambda d: save_file(
        dict(list(load_file(d / "model.safetensors").items())[1:]), d / "model.safetensors"
    ),
    "a tensor more": lambda d: save_file(
        load_file(d / "model.safetensors") | {"evil": torch.zeros(3)}, d / "model.safetensors"
    ),
    "a header of an exabyte": lambda d: (d / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + bytes(99)),
}
BACKBONE_CASES = [
    Case("concepts", "a backbone as it was saved", _backbone(lambda d: None)),
    Case("concepts", "a backbone whose files point elsewhere", _backbone(_pointing_elsewhere)),
    *(
        Case("concepts", f"a backbone with {k}", _backbone(change), "refused", ("b: ", "backbone"))
        for k, change in BACKBONES.items()
    ),
]

CASES = [*ABOUT_CASES, *FILE_CASES, *PLACE_CASES, *SAVE_CASES, *CHECKPOINT_CASES, *BACKBONE_CASES]
