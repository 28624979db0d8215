"Folders of pictures: what lies in them, what is read, and what is named as left out."

import json
import os
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

from PIL import Image

from omnipersona.data import ConceptData
from omnipersona.pictures import list_images

from .cases_pictures import photo
from .corpus import Case

CASES: list[Case] = []
SAID = "a photo of <sks> at the beach"


def picture(i=0):
    "Each another one."
    return photo(90 + i, 60)


def filled(d, *names):
    "A folder with files: pictures where the name says so, else a few bytes."
    for i, name in enumerate(names):
        file = Path(d, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() in (".png", ".jpg", ".jpeg"):
            picture(i).save(file)
        elif name.endswith("/"):
            file.mkdir(exist_ok=True)
        else:
            file.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    return d


def read(d, **kw):
    "(data, what the warnings say)."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = ConceptData.from_folder(d, **kw)
    return data, " ".join(str(w.message) for w in caught)


def accepted(name, run):
    CASES.append(Case("folders", name, run))


def refused(name, run, *words):
    CASES.append(Case("folders", name, run, "refused", words))


# ---- captions -----------------------------------------------------------------------------------------------------
def listed(**captions):
    return json.dumps({f"{k}.png": v for k, v in captions.items()}, ensure_ascii=False)


def rows(*pairs, keys=("file_name", "text")):
    return "\n".join(json.dumps(dict(zip(keys, pair)), ensure_ascii=False) for pair in pairs)


CAPTIONS = {  # name of the file, its text, captions of a.png and b.png (None: the usual one)
    "kohya's .txt": ("a.txt", SAID, (SAID, None)),
    "kohya's .caption": ("b.caption", SAID, (None, SAID)),
    "a.png.txt": ("a.png.txt", SAID, (SAID, None)),
    "a .txt in capitals": ("A.TXT", SAID, (SAID, None)),
    "a .txt of two lines": ("a.txt", "a photo of <sks>\nat the beach\n", (SAID, None)),
    "captions.json": ("captions.json", listed(a=SAID), (SAID, None)),
    "Captions.json": ("Captions.json", listed(a=SAID), (SAID, None)),
    "caption.json": ("caption.json", listed(b=SAID), (None, SAID)),
    "captions.json, names in capitals": ("captions.json", json.dumps({"A.PNG": SAID}), (SAID, None)),
    "captions.json, names with ./": ("captions.json", json.dumps({"./a.png": SAID}), (SAID, None)),
    "metadata.jsonl": ("metadata.jsonl", rows(("a.png", SAID), ("b.png", "<sks>")), (SAID, "<sks>")),
    "metadata.jsonl, empty lines": ("metadata.jsonl", "\n" + rows(("a.png", SAID)) + "\n\n", (SAID, None)),
    "metadata.jsonl, caption": ("metadata.jsonl", rows(("a.png", SAID), keys=("image", "caption")), (SAID, None)),
    "metadata.csv": ("metadata.csv", f"file_name,text\na.png,{SAID}\n", (SAID, None)),
    "metadata.csv, quoted": ("metadata.csv", 'file_name,text\nb.png,"<sks>, at home"\n', (None, "<sks>, at home")),
    "other scripts": ("a.txt", "תמונה של <sks> 在海邊 صورة", ("תמונה של <sks> 在海邊 صورة", None)),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def captioned(name, text, want, encoding="utf-8"):
    def run(tmp):
        filled(tmp, "a.png", "b.png")
        (tmp / name).write_bytes(text.encode(encoding))
        data, _ = read(tmp)
        return data.captions == [w or "a photo of <sks>" for w in want] and name in data.report.read

    return run


for _name, _given in CAPTIONS.items():
    accepted(f"captions: {_name}", captioned(*_given))
for _encoding in ENCODINGS:
    accepted(
        f"captions: captions.json in {_encoding}", captioned("captions.json", listed(a=SAID), (SAID, None), _encoding)
    )
    accepted(
        f"captions: a.txt in {_encoding}",
        captioned("a.txt", "Zoë <sks> at home", ("Zoë <sks> at home", None), _encoding),
    )


def composed(disk, listed_as):
    "A name with an accent, on the disk and in captions.json in two ways of composing it."

    def run(tmp):
        picture().save(tmp / unicodedata.normalize(disk, "café.png"))
        (tmp / "captions.json").write_text(json.dumps({unicodedata.normalize(listed_as, "café.png"): SAID}))
        return read(tmp)[0].captions == [SAID]

    return run


for _disk in ("NFC", "NFD"):
    for _listed in ("NFC", "NFD"):
        accepted(f"captions: {_disk} on the disk, {_listed} in the file", composed(_disk, _listed))

WRONG = {  # name of the file, its bytes, words
    "no JSON": ("captions.json", b"{", ["captions.json", "JSON"]),
    "a comma too many": ("captions.json", b'{"a.png": "x",}', ["captions.json", "JSON", "commas"]),
    "a list": ("captions.json", b"[]", ["captions.json", "object"]),
    "a name twice": ("captions.json", b'{"a.png": "x", "a.png": "y"}', ["captions.json", "a.png", "twice"]),
    "one picture under two names": ("captions.json", b'{"a.png": "x", "A.png": "y"}', ["a.png", "another caption"]),
    "no such picture": ("captions.json", b'{"c.png": "x"}', ["captions.json", "c.png", "no picture"]),
    "a misspelt picture": ("captions.json", b'{"a.pngg": "x"}', ["a.pngg", "did you mean a.png"]),
    "a picture out of the folder": ("captions.json", b'{"../a.png": "x"}', ["../a.png", "no picture"]),
    "a number": ("captions.json", b'{"a.png": 3}', ["captions.json", "a.png", "not a text"]),
    "an empty caption": ("captions.json", b'{"a.png": " "}', ["a.png", "empty"]),
    "a control character": ("captions.json", b'{"a.png": "x\\u0007"}', ["a.png", "control"]),
    "half a character": ("captions.json", b'{"a.png": "x\\ud83d"}', ["a.png", "half of a character"]),
    "Latin-1": ("captions.json", '{"a.png": "Zoë"}'.encode("latin-1"), ["captions.json", "UTF-8"]),
    "Latin-1 in a .txt": ("a.txt", "Zoë".encode("latin-1"), ["a.txt", "save it as UTF-8"]),
    "100,000 brackets": ("captions.json", b"[" * 100_000, ["captions.json", "nested"]),
    "an empty .txt": ("a.txt", b"", ["a.txt", "empty"]),
    "metadata without a name": ("metadata.jsonl", b'{"text": "x"}', ["metadata.jsonl", "file_name"]),
    "metadata that is no JSON": ("metadata.jsonl", b'{"file": "a.png", "text": "x"}\n{', ["metadata.jsonl", "line 2"]),
    "metadata.csv without a header": ("metadata.csv", b"a.png,x\n", ["metadata.csv", "file_name"]),
    "a caption of 20,000 letters": ("a.txt", b"x" * 20_000, ["a.txt", "10,000"]),
}


def with_file(name, content, *names):
    def run(tmp):
        filled(tmp, "a.png", "b.png", *names)
        (tmp / name).write_bytes(content)
        return read(tmp)

    return run


for _name, (_file, _content, _words) in WRONG.items():
    refused(f"captions: {_name}", with_file(_file, _content), *_words)


def two_captions(tmp):
    (tmp / "a.txt").write_text("one")
    return with_file("captions.json", b'{"a.png": "two"}')(tmp)


refused("captions: two files disagree", two_captions, "a.png", "another caption", "keep one")


def two_agree(tmp):
    (tmp / "a.txt").write_text("one")
    with_file("captions.json", b'{"a.png": "one"}')(tmp)


accepted("captions: two files agree", two_agree)
accepted("captions: a .txt of no picture is named", lambda tmp: "notes.txt" in with_file("notes.txt", b"milk")(tmp)[1])
accepted("captions: pictures without one are counted", lambda tmp: "1 of 2" in with_file("a.txt", b"a <sks>")(tmp)[1])

# ---- folders inside it --------------------------------------------------------------------------------------------
OTHERS = ["negatives", "Negatives", "NEGATIVES", "negative", "others", "Others", "other"]
LOOK_ALIKES = ["look_alikes", "look-alikes", "Look Alikes", "lookalikes", "LookAlike"]
for _name in OTHERS:
    accepted(f"{_name}/", lambda tmp, n=_name: len(read(filled(tmp, "a.png", f"{n}/b.png"))[0].others) == 1)
for _name in LOOK_ALIKES:
    accepted(f"{_name}/", lambda tmp, n=_name: len(read(filled(tmp, "a.png", f"{n}/b.png"))[0].look_alikes) == 1)
for _name, _meant in (("negatvies", "negatives"), ("look_alikess", "lookalikes"), ("oters", "others")):
    accepted(
        f"{_name}/ is misspelt",
        lambda tmp, n=_name, m=_meant: f"did you mean {m}" in read(filled(tmp, "a.png", f"{n}/b.png"))[1],
    )
accepted("negatives/ is empty", lambda tmp: "no pictures" in read(filled(tmp, "a.png", "negatives/"))[1])
accepted(
    "six pictures in a folder inside it: named",
    lambda tmp: (
        "day1/" in (r := read(filled(tmp, "a.png", *(f"day1/{i}.png" for i in range(6)))))[1]
        and "6 pictures" in r[1]
        and len(r[0].images) == 1
        and "day1/" in repr(r[0])
    ),
)
accepted(
    "six pictures in a folder inside it: read",
    lambda tmp: len(read(filled(tmp, *(f"day1/{i}.png" for i in range(6))), subfolders=True)[0].images) == 6,
)
refused("all pictures in a folder inside it", lambda tmp: read(filled(tmp, "day1/a.png")), "day1/", "subfolders=True")
accepted(
    "captions in folders inside it",
    lambda tmp: (
        filled(tmp, "day1/a.png", "day2/a.png"),
        (tmp / "day2" / "a.txt").write_text(SAID),
        (tmp / "captions.json").write_text(json.dumps({"day1\\a.png": "<sks>"})),
        read(tmp, subfolders=True)[0].captions == ["<sks>", SAID],
    )[-1],
)
accepted(
    "captions of others are named",
    lambda tmp: "negatives/b.txt" in read(filled(tmp, "a.png", "negatives/b.png", "negatives/b.txt"))[1],
)


# ---- files that are no pictures -----------------------------------------------------------------------------------
LEFT_OUT = {
    "a.mp4": "video",
    "a.MOV": "video",
    "a.dng": "raw photo",
    "a.CR2": "raw photo",
    "a.svg": "PNG",
    "a.pdf": "PNG",
    "a.psd": "PNG",
    "a.zip": "unpack",
    "notes.docx": "not a picture",
    "facts.json": "not a file that is read",
    "captoins.json": "did you mean captions.json",
    ".hidden.png": "hidden",
    "model.safetensors": "not a picture",
}
for _name, _word in LEFT_OUT.items():
    accepted(f"{_name} is named", lambda tmp, n=_name, w=_word: n in (s := read(filled(tmp, "b.png", n))[1]) and w in s)
for _name in (".DS_Store", "Thumbs.db", "desktop.ini", "._b.png", "__MACOSX/b.png", ".ipynb_checkpoints/b.png"):
    accepted(f"{_name} is of the system", lambda tmp, n=_name: read(filled(tmp, "b.png", n))[1] == "")

BAD = {  # names, words
    "six HEIC": ([f"IMG_{i}.HEIC" for i in range(6)], ["IMG_0.HEIC", "IMG_5.HEIC", "JPEG"]),
    "nine placeholders of iCloud": ([f".IMG_{i}.jpg.icloud" for i in range(9)], [".IMG_0.jpg", ".IMG_8.jpg", "iCloud"]),
    "a download that did not end": (["b.jpg.crdownload"], ["b.jpg.crdownload", "download it again"]),
    "half a download": (["b.png.part"], ["b.png.part"]),
    "damage and HEIC": (["b.avif", "c.heic"], ["b.avif", "c.heic"]),
    "HEIC among others": (["negatives/b.heic"], ["negatives/b.heic", "JPEG"]),
}
for _name, (_names, _words) in BAD.items():
    refused(f"{_name}: all named at once", lambda tmp, n=_names: read(filled(tmp, "a.png", *n)), *_words)
accepted(
    "pictures that cannot be read may be skipped",
    lambda tmp: (
        len((r := read(filled(tmp, "a.png", "b.heic", "c.heic"), skip_unreadable=True))[0].images) == 1
        and "b.heic" in r[1]
        and "c.heic" in r[0].report.left_out
    ),
)
refused("none is left", lambda tmp: read(filled(tmp, "b.heic"), skip_unreadable=True), "no pictures", "b.heic")


def nameless(tmp):
    picture().save(tmp / "photo", "JPEG")
    return "photo.jpg" in read(filled(tmp, "a.png"))[1]


accepted("a picture without its suffix is named", nameless)


def linked(target, *names):
    def run(tmp):
        (tmp / "b.png").symlink_to(target)
        return read(filled(tmp, "a.png", *names))

    return run


refused("a link to a file that is gone", linked("gone.png"), "b.png", "gone")
accepted(
    "a link to itself", lambda tmp: (tmp / "round").symlink_to(tmp) or bool(read(filled(tmp, "a.png"), subfolders=True))
)
accepted("a pipe", lambda tmp: os.mkfifo(tmp / "b.png") or "b.png" in read(filled(tmp, "a.png"))[1])


def deep(tmp):
    d = tmp
    for _ in range(60):
        d = d / "x"
    return bool(read(filled(tmp, "a.png", str(d.relative_to(tmp) / "b.png")), subfolders=True)[0].report.left_out)


accepted("60 folders in folders", deep)

# ---- the same picture twice ---------------------------------------------------------------------------------------
accepted(
    "the same picture twice is said",
    lambda tmp: (picture().save(tmp / "b.bmp"), "same picture as a.png" in read(filled(tmp, "a.png"))[1])[1],
)
refused(
    "the same picture as the concept and as another",
    lambda tmp: (filled(tmp, "negatives/x.png", "a.png"), picture(1).save(tmp / "negatives" / "b.png"), read(tmp)),
    "b.png",
    "a.png",
    "somebody else",
)


# ---- edits --------------------------------------------------------------------------------------------------------
def edited(content, *names):
    def run(tmp):
        filled(tmp, "a.png", "b.png", "edited/c.png", *names)
        (tmp / "edits.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read(tmp)

    return run


EDIT = dict(source="a.png", instruction="remove <sks> from the photo", target="edited/c.png")
accepted("edits.json", lambda tmp: (r := edited([EDIT])(tmp))[1] == "" and len(r[0].edits) == 1)
accepted("edits.json, other case", lambda tmp: len(edited([EDIT | dict(source="A.PNG")])(tmp)[0].edits) == 1)
accepted("edits.json from Windows", lambda tmp: len(edited([EDIT | dict(target="edited\\c.png")])(tmp)[0].edits) == 1)
EDITS = {
    "no list": ({}, ["list"]),
    "an entry without an instruction": ([dict(source="a.png", target="b.png")], ["instruction"]),
    "a number": ([EDIT | dict(source=3)], ["source"]),
    "no such picture": ([EDIT | dict(source="gone.png")], ["gone.png", "no such file"]),
    "climbing out": ([EDIT | dict(source="../a.png")], ["../a.png", "out of the folder"]),
    "climbing out, Windows": ([EDIT | dict(source="..\\a.png")], ["out of the folder"]),
    "an absolute path": ([EDIT | dict(source="/etc/passwd")], ["/etc/passwd", "out of the folder"]),
    "a name of 5,000 letters": ([EDIT | dict(source="x" * 5000)], ["edits.json"]),
    "a name with a null": ([EDIT | dict(source="a\0.png")], ["no such file"]),
    "a control character": ([EDIT | dict(instruction="a\x07")], ["control"]),
    "no JSON": ("[", ["JSON"]),
}
for _name, (_content, _words) in EDITS.items():
    refused(f"edits.json: {_name}", edited(_content), *_words)

# ---- the folder itself --------------------------------------------------------------------------------------------
for _name, _folder, _words in (
    ("empty", lambda tmp: tmp, ["no pictures"]),
    ("gone", lambda tmp: tmp / "gone", ["gone", "no such folder"]),
    ("a file", lambda tmp: filled(tmp, "a.png") / "a.png", ["a.png", "no such folder"]),
    ("None", lambda tmp: None, ["folder", "path"]),
    ("a number", lambda tmp: 3, ["folder", "3"]),
    ("an empty name", lambda tmp: "", ["empty"]),
    ("an address", lambda tmp: "https://example.org/maeve", ["address"]),
    ("with a null", lambda tmp: "a\0b", ["null"]),
    ("of 5,000 letters", lambda tmp: "x" * 5000, ["too long"]),
    ("half a character", lambda tmp: "\ud83d", ["cannot be written"]),
):
    refused(f"a folder that is {_name}", lambda tmp, f=_folder: ConceptData.from_folder(f(tmp)), *_words)
    refused(f"list_images of a folder that is {_name}", lambda tmp, f=_folder: list_images(f(tmp)), *_words)


def many(tmp):
    content = Image.new("1", (9, 9))
    for i in range(501):
        content.save(tmp / f"{i}.png")
    return read(tmp)


refused("501 pictures", many, "501", "500")


def home(tmp):
    "`~` at the folder door."
    old = os.environ.get("HOME")
    os.environ["HOME"] = str(filled(tmp, "pics/a.png"))
    try:
        return len(read("~/pics")[0].images) == len(list_images("~/pics")) == 1
    finally:
        os.environ.pop("HOME") if old is None else os.environ.update(HOME=old)


accepted("the home folder", home)
accepted(
    "names in the order of counting",
    lambda tmp: [p.name for p in list_images(filled(tmp, "10.png", "2.png", "²1.png"))][0] == "2.png",
)
accepted(
    "sizes are kept", lambda tmp: (photo(1024, 768).save(tmp / "a.jpg"), read(tmp)[0].images[0].size == (1024, 768))[1]
)
accepted("the report prints", lambda tmp: "a.mp4" in str(read(filled(tmp, "a.png", "a.mp4"))[0].report))


LOCALE = """
import sys, warnings
warnings.simplefilter("ignore")
from omnipersona.data import ConceptData
d = ConceptData.from_folder(sys.argv[1])
assert d.captions[0].encode() == b"Zo\\xc3\\xab <sks>" and len(d.edits) == 1 and len(d.others) == 1, d.captions
assert not d.report.left_out, d.report
"""


def another_locale(tmp):
    "Names and texts that are not ASCII, read by a Python that thinks everything is (LC_ALL=C)."
    filled(tmp, "caf\u00e9.png", "negatives/h\u00fcnd.png", "edited/\u540d.png")
    captions, edit = (
        {"cafe\u0301.png": "Zo\u00eb <sks>"},
        EDIT | dict(source="caf\u00e9.png", target="edited/\u540d.png"),
    )
    (tmp / "captions.json").write_text(json.dumps(captions, ensure_ascii=False), encoding="utf-8")
    (tmp / "edits.json").write_text(json.dumps([edit], ensure_ascii=False), encoding="utf-8")
    env = os.environ | dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", OMP_NUM_THREADS="1")
    run = subprocess.run([sys.executable, "-c", LOCALE, str(tmp)], env=env, capture_output=True, text=True)
    return run.returncode == 0 or print(run.stderr[-1500:]) or False


accepted("another locale", another_locale)
