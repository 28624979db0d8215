"Texts, names, facts, prompts, and the other things that are typed: seeds, devices, number formats, paths."

import os
from pathlib import Path

import numpy as np
import torch

from omnipersona.arguments import as_device, as_dtype, as_path, as_seed, as_text, parse_json, printable, read_json
from omnipersona.basics import atomic_dir, atomic_write, check_name, compute_dtype, seed_all
from omnipersona.concept.concept import TextPrompt
from omnipersona.concept.learn import learn
from omnipersona.concept.learner import Learner
from omnipersona.concept.requests import replace_brackets
from omnipersona.data import ConceptData
from omnipersona.model.loading import load_backbone

from .cases_pictures import photo
from .corpus import Case
from .material import bb, concept, data, persona

CASES: list[Case] = []


def accepted(name, run):
    CASES.append(Case("texts", name, run))


def refused(name, run, *words):
    CASES.append(Case("texts", name, run, "refused", words))


def facts(key="toy", value="a red kite"):
    return ConceptData([photo()], facts={key: value}).facts


# ---- texts of every script, everywhere where a text is taken -------------------------------------------------------
SCRIPTS = {
    "accents": "Zoë's café, naïve",
    "composed otherwise": "cafe\u0301",
    "German": "Größenwahn ẞ",
    "Turkish": "İstanbul ılık",
    "Hebrew": "הכלב של <sks>",
    "Arabic": "كلب <sks> في الحديقة",
    "Chinese": "<sks>的狗",
    "Japanese": "名前は<sks>です",
    "Korean": "<sks>의 개",
    "Hindi": "<sks> का कुत्ता",
    "Thai": "หมาของ <sks>",
    "emoji": "a dog 🐕‍🦺 of <sks>",
    "joined emoji": "👩‍👩‍👧‍👦",
    "Gothic": "𐌲𐌿𐍄",
    "mathematics": "𝒽𝑒𝓁𝓁ℴ",
    "right-to-left marks": "a\u202eb\u202c",
    "no width": "a\u200bb",
    "no-break spaces": "a\u00a0b",
    "line breaks": "a\nb\r\nc",
    "a tab": "a\tb",
    "markup": "<b>a</b> & \"b\" 'c'",
    "a formula": "=SUM(A1:A9)",
    "braces": "{} {0} %s %(x)s {sks}",
    "backslashes": r"C:\new\table \u0041",
    "a climbing path": "../../etc",
    "10,000 letters": "x" * 10_000,
    "a byte-order mark inside": "a\ufeffb",
    "private use": "\ue000",
    "not a character": "\uffff",
}
ODD = {
    "an empty text": ("", "empty"),
    "spaces": ("  \n ", "empty"),
    "a null": ("a\0b", "U+0000"),
    "a bell": ("a\x07", "U+0007"),
    "an escape": ("\x1b[31mred", "U+001B"),
    "a delete": ("a\x7f", "U+007F"),
    "a C1 control": ("a\x9b", "U+009B"),
    "half a character": ("\ud83d", "U+D83D"),
    "the other half": ("\udc15", "U+DC15"),
    "10,001 letters": ("x" * 10_001, "10,000"),
    "ten million letters": ("x" * 10_000_000, "10,000"),
    "None": (None, "None"),
    "a number": (3, "3"),
    "bytes": (b"maeve", "text"),
    "a list": (["maeve"], "text"),
    "a path": (Path("maeve"), "text"),
    "an array": (np.zeros(3), "text"),
}
for _name, _text in SCRIPTS.items():
    accepted(
        f"text: {_name}",
        lambda tmp, t=_text: as_text(t) == t and facts("toy", t)["toy"] == t and facts(t)[t] == "a red kite",
    )
    accepted(f"caption: {_name}", lambda tmp, t=_text: ConceptData([photo()], [t]).captions == [t])
for _name, (_text, _word) in ODD.items():
    refused(f"text: {_name}", lambda tmp, t=_text: as_text(t), _word)
    refused(f"caption: {_name}", lambda tmp, t=_text: ConceptData([photo()], [t]), "captions[0]")
    refused(f"a fact's value: {_name}", lambda tmp, t=_text: facts("toy", t), "facts", "toy")
    refused(f"a question: {_name}", lambda tmp, t=_text: ConceptData([photo()], qa=[(0, t, "yes")]), "qa[0]")
    refused(f"an answer: {_name}", lambda tmp, t=_text: ConceptData([photo()], qa=[(0, "is it?", t)]), "qa[0]")
    refused(
        f"an instruction: {_name}",
        lambda tmp, t=_text: ConceptData([photo()], edits=[(photo(), t, photo())]),
        "edits[0]",
    )
    if not isinstance(_text, (list, np.ndarray)):
        refused(f"a fact's key: {_name}", lambda tmp, t=_text: facts(t), "facts")
    if _text is not None and not (isinstance(_text, str) and _text == ""):
        refused(f"a description: {_name}", lambda tmp, t=_text: ConceptData([photo()], description=t), "description")
    refused(f"a request: {_name}", lambda tmp, t=_text: replace_brackets(t, {}.get, []))

FACTS = {
    "a list": ["a red kite"],
    "a text": "toy: a red kite",
    "a set": {"toy"},
    "pairs": [("toy", "a red kite")],
    "a number": 3,
    "a dict in a dict": {"toy": {"a": "b"}},
    "a list in a dict": {"toy": ["a"]},
    "True": {"toy": True},
}
for _name, _value in FACTS.items():
    refused(f"facts: {_name}", lambda tmp, v=_value: ConceptData([photo()], facts=v), "facts")
refused(
    "facts: one key in two ways", lambda tmp: ConceptData([photo()], facts={"Toy": "a", "toy": "b"}), "Toy", "one key"
)
refused(
    "facts: one key, composed in two ways",
    lambda tmp: ConceptData([photo()], facts={"é": "a", "e\u0301": "b"}),
    "one key",
)
accepted("facts: none", lambda tmp: ConceptData([photo()], facts=None).facts == {})
for _index in (-1, 1, 2**70, True, "0", 0.0, None):
    refused(
        f"a question about picture {_index!r}",
        lambda tmp, i=_index: ConceptData([photo()], qa=[(i, "a", "b")]),
        "qa[0]",
    )
refused("two captions for one picture", lambda tmp: ConceptData([photo()], ["a", "b"]), "2 captions", "1 pictures")

# ---- names of concepts --------------------------------------------------------------------------------------------
for _good in ("maeve", "Maeve-2", "a", "0", "_", "x" * 32, "con", "null", "None", "true", "sks", "name_0"):
    accepted(f"name {_good!r:.40}", lambda tmp, n=_good: check_name(n) == n)
for _bad in (
    "",
    " ",
    "my dog",
    "<sks>",
    "maeve>",
    "../up",
    "a/b",
    "a\\b",
    "a.b",
    "..",
    "x" * 33,
    "a\n",
    "\na",
    "a\0",
    "maëve",
    "мaeve",
    "名前",
    "🐕",
    "a\u200b",
    "-" * 33,
    "<|im_end|>",
    "<script>",
    "a'b",
    'a"b',
    "a;b",
    "%s",
    "{}",
    "x" * 10_000_000,
    None,
    3,
    10**5000,
    b"maeve",
    ["maeve"],
    Path("maeve"),
    True,
    float("nan"),
):
    refused(
        f"name {printable(_bad, 30)!r} ({type(_bad).__name__}{f' of {len(_bad)}' if isinstance(_bad, str) else ''})",
        lambda tmp, n=_bad: check_name(n),
        "not a name",
        "maeve",
    )

# ---- prompts to a persona -----------------------------------------------------------------------------------------
PROMPTS = {
    "no brackets": ("is maeve in the photo ?", "did you mean <maeve>"),
    "another name": ("is <bo2> in the photo ?", "no such concept"),
    "a misspelt name": ("is <mave> in the photo ?", "did you mean <maeve>"),
    "a null": ("is <maeve> here\0 ?", "U+0000"),
    "half a character": ("is <maeve> here \ud83d ?", "U+D83D"),
    "a bell": ("<maeve>\x07", "U+0007"),
    "nothing": ("", "empty"),
    "20,000 letters": ("<maeve> " + "is " * 7000, "10,000"),
    "an unknown word": ("is <maeve> quixotic ?", "quixotic"),
}
for _name, (_text, _word) in PROMPTS.items():
    refused(f"ask: {_name}", lambda tmp, t=_text: persona().ask(t), _word)
    refused(f"generate: {_name}", lambda tmp, t=_text: persona().generate(t), _word)
    refused(f"edit: {_name}", lambda tmp, t=_text: persona().edit(t, photo()), _word)
    refused(
        f"learn from a caption: {_name}",
        lambda tmp, t=_text: learn(bb(), ConceptData([photo()], [t]), "maeve", steps=1),
    )
for _value in (None, 3, b"is <maeve> here ?", ["is <maeve> here ?"], photo(), Path("a.png")):
    refused(f"ask({type(_value).__name__})", lambda tmp, v=_value: persona().ask(v))
    refused(f"generate({type(_value).__name__})", lambda tmp, v=_value: persona().generate(v))
refused("a description with a null", lambda tmp: TextPrompt(bb(), "maeve", "a dog\0"))
for _value in (3, None, "maeve", ["photos"], {"images": []}):
    refused(f"learn from {_value!r}", lambda tmp, v=_value: learn(bb(), v, "maeve", steps=1))


def undisturbed():
    "Drawing a seed uses no number of torch's."
    before = torch.manual_seed(0).get_state()
    as_seed(None)
    return torch.equal(before, torch.get_rng_state())


# ---- seeds --------------------------------------------------------------------------------------------------------
SEEDS = {
    "int": 3,
    "numpy": np.int64(3),
    "uint8": np.uint8(3),
    "a tensor": torch.tensor(3),
    "an array of no axis": np.array(3),
}
for _name, _seed in SEEDS.items():
    accepted(f"seed: {_name}", lambda tmp, s=_seed: as_seed(s) == 3 and seed_all(s).initial_seed() == 3)
accepted("seed: below zero", lambda tmp: seed_all(-1).initial_seed() >= -1)
accepted("seed: the largest", lambda tmp: seed_all(2**64 - 1).initial_seed() == 2**64 - 1)
accepted("seed: None draws another", lambda tmp: len({as_seed(None) for _ in range(4)}) > 1)
accepted(
    "seed: None leaves other numbers alone",
    lambda tmp: (
        torch.manual_seed(0),
        a := torch.rand(1),
        torch.manual_seed(0),
        as_seed(None),
        torch.equal(a, torch.rand(1)),
    )[-1],
)
accepted(
    "seed: None is in the result, and draws the same again",
    lambda tmp: (
        (r := (p := persona()).generate("a photo of <maeve>", seed=None)).seed >= 0
        and p.generate("a photo of <maeve>", seed=r.seed).image.tobytes() == r.image.tobytes()
    ),
)
accepted(
    "seed: None is in the summary",
    lambda tmp: learn(bb(), data(), "maeve", seed=None, steps=1, progress=False).summary["seed"] >= 0,
)
for _seed in (
    0.5,
    3.0,
    "7",
    True,
    [1],
    (1, 2),
    np.array([3]),
    torch.tensor([3]),
    torch.tensor(0.5),
    10**30,
    -(10**30),
    float("nan"),
    b"3",
    {},
):
    _label = f"{type(_seed).__name__} {printable(_seed, 30)}"
    refused(f"seed: {_label}", lambda tmp, s=_seed: as_seed(s), "seed")
    refused(
        f"generate with seed {_label}", lambda tmp, s=_seed: persona().generate("a photo of <maeve>", seed=s), "seed"
    )
    refused(f"learn with seed {_label}", lambda tmp, s=_seed: Learner(bb(), data(), "maeve", s), "seed")
refused("noise of a seed that is none", lambda tmp: bb().initial_noise([0.5]), "seed")

# ---- devices and number formats -----------------------------------------------------------------------------------
for _device in ("cpu", "CPU", " cpu ", "cpu:0", torch.device("cpu"), None, "auto"):
    accepted(f"device {_device!r}", lambda tmp, d=_device: as_device(d).type in ("cpu", "cuda"))
for _device in (
    "gpu",
    "cuda:99",
    "cuda:x",
    "meta",
    "tpu",
    "",
    "cpu:-1",
    99,
    3.5,
    [],
    b"cpu",
    True,
    "c" * 10_000,
    "cpu\0",
):
    _label = f"{type(_device).__name__} {printable(_device, 30)}"
    refused(f"device {_label!r}", lambda tmp, d=_device: as_device(d), "device", "'cpu'")
    refused(f"load_backbone on {_label!r}", lambda tmp, d=_device: load_backbone("tiny", device=d), "device")
    refused(f"move to {_label!r}", lambda tmp, d=_device: bb().to(d), "device")
accepted("the format of a GPU that is not here", lambda tmp: compute_dtype("mps", measure=False) is torch.float32)
FORMATS = {
    torch.float32: ["float32", "fp32", "FLOAT32", "torch.float32", torch.float32, np.float32],
    torch.float16: ["float16", "fp16", "half", torch.half, np.float16],
    torch.bfloat16: ["bfloat16", "bf16", "torch.bfloat16", torch.bfloat16],
}
for _want, _given in FORMATS.items():
    for _dtype in _given:
        accepted(f"dtype {_dtype!r}", lambda tmp, d=_dtype, w=_want: as_dtype(d) is w)
accepted("dtype auto", lambda tmp: as_dtype("auto") is as_dtype(None) is None)
accepted(
    "load_backbone in 'bfloat16'",
    lambda tmp: load_backbone("tiny", dtype="bfloat16", device="cpu").dtype is torch.bfloat16,
)
for _dtype in (
    "int8",
    "nf4",
    "fp8",
    "float12",
    "",
    "complex64",
    torch.int64,
    torch.bool,
    torch.complex64,
    int,
    16,
    [],
    b"float16",
    "x" * 10_000,
):
    _label = f"{type(_dtype).__name__} {printable(_dtype, 30)}"
    refused(f"dtype {_label!r}", lambda tmp, d=_dtype: as_dtype(d), "dtype", "'float32'")
    refused(f"load_backbone in {_label!r}", lambda tmp, d=_dtype: load_backbone("tiny", dtype=d), "dtype")


# ---- paths --------------------------------------------------------------------------------------------------------
def at_home(work):
    "`work` with `~` and the working directory in tmp; nothing called ~ may appear."

    def run(tmp):
        home, old, here = tmp / "home", os.environ.get("HOME"), os.getcwd()
        home.mkdir()
        try:
            os.environ["HOME"] = str(home)
            os.chdir(tmp)
            return bool(work(home)) and not Path("~").exists() and [p.name for p in tmp.iterdir()] == ["home"]
        finally:
            os.chdir(here)
            os.environ.pop("HOME") if old is None else os.environ.update(HOME=old)

    return run


def kept(folder):
    with atomic_dir("~/c") as d:
        (d / "x").write_text("1")
    return (folder / "c" / "x").exists()


DOORS = {
    "as_path": lambda home: as_path("~/a") == home / "a" and as_path(Path("~/a")) == home / "a",
    "atomic_write": lambda home: atomic_write("~/a.txt", "1") == home / "a.txt" and (home / "a.txt").exists(),
    "atomic_dir": kept,
    "read_json": lambda home: atomic_write("~/a.json", "{}") and read_json("~/a.json") == {},
    "save_pretrained": lambda home: concept().save_pretrained("~/maeve") and (home / "maeve" / "concept.json").exists(),
    "learn(output_dir)": lambda home: (
        learn(bb(), data(), "maeve", steps=1, progress=False, output_dir="~/run") and any((home / "run").iterdir())
    ),
    "learn(folder)": lambda home: (
        photo().save(home / "a.png") is None and learn(bb(), "~", "maeve", steps=1, progress=False) is not None
    ),
}
for _name, _work in DOORS.items():
    accepted(f"~ at {_name}", at_home(_work))
for _path in (
    "",
    "  ",
    "a\0b",
    None,
    3,
    3.5,
    [],
    {},
    b"\0",
    "https://example.org/a",
    "s3://bucket/a",
    "hf://datasets/a",
    True,
):
    _label = f"{type(_path).__name__} {printable(_path, 30)}"
    refused(f"path {_label!r}", lambda tmp, p=_path: as_path(p), "path")
    refused(f"load_backbone({_label!r})", lambda tmp, p=_path: load_backbone(p))
    refused(f"output_dir={_label!r}", lambda tmp, p=_path: Learner and atomic_write(p, "x"), "path")
accepted("a path in bytes", lambda tmp: as_path(os.fsencode(tmp)) == tmp)
accepted("a Windows drive is no address", lambda tmp: str(as_path("C:/photos")) == "C:/photos")

# ---- JSON ---------------------------------------------------------------------------------------------------------
for _name, _text, _word in (
    ("nothing", "", "JSON"),
    ("a comma too many", "[1,]", "commas"),
    ("one quote", "{'a': 1}", "quotes"),
    ("a key twice", '{"a":1,"a":2}', "twice"),
    ("a key twice, inside", '[{"a":1,"a":2}]', "twice"),
    ("100,000 brackets", "[" * 100_000, "nested"),
    ("100,000 braces", '{"a":' * 100_000, "nested"),
    ("a number alone", "3", "object"),
    ("5,000 digits", "[" + "9" * 5000 + "]", "JSON"),
    ("a text alone", '"a"', "object"),
):
    refused(f"JSON: {_name}", lambda tmp, t=_text: parse_json(t, name="maeve.json"), "maeve.json", _word)
for _name, _content, _word in (
    ("Latin-1", '["Zoë"]'.encode("latin-1"), "UTF-8"),
    ("Windows-1252", '["“a”"]'.encode("cp1252"), "UTF-8"),
    ("Shift-JIS", '["名前"]'.encode("shift-jis"), "UTF-8"),
    ("half a UTF-16", '["a"]'.encode("utf-16")[:-1], "UTF-16"),
    ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(range(128, 255)), "UTF-8"),
    ("overlong UTF-8", b'["\xc0\x80"]', "UTF-8"),
):
    refused(
        f"JSON in {_name}",
        lambda tmp, c=_content: (atomic_write(tmp / "maeve.json", c), read_json(tmp / "maeve.json")),
        "maeve.json",
        _word,
    )
refused(
    "JSON of 33 MB",
    lambda tmp: (atomic_write(tmp / "big.json", b" " * 33_000_000), read_json(tmp / "big.json")),
    "big.json",
    "32 MB",
)
refused("JSON that is a folder", lambda tmp: read_json(tmp), "no such file")


def goes_on(tmp):
    "A run with any seed, stopped and begun again, keeps the seed that it drew."
    first = learn(bb(), data(), "maeve", seed=None, steps=2, progress=False, output_dir=tmp / "run")
    again = learn(bb(), data(), "maeve", seed=None, steps=2, progress=False, output_dir=tmp / "run")
    return first.summary["seed"] == again.summary["seed"] and torch.equal(first.embeddings, again.embeddings)


accepted("seed: None goes on with its own", goes_on)
