"""Zip files as they come: from the studio, from Windows and macOS, packed twice, of two concepts, built to do harm.

Each is made in memory and opened; afterwards nothing may lie outside the case's own folder."""

import io
import os
import stat
import struct
import warnings
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from omnipersona.concept.adapter import PARTS
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.widgets.forms import concept_zip, open_concept
from trust.corpus import Case
from trust.material import bb

MAEVE, BO = Concept(bb(), "maeve", facts={"toy": "a red kite"}), Concept(bb(), "bo")


@cache
def _zipped(concept):
    return concept_zip(concept)


def files(concept=MAEVE) -> dict[str, bytes]:
    "{file name: content} of a saved concept."
    with zipfile.ZipFile(io.BytesIO(_zipped(concept))) as z:
        return {Path(n).name: z.read(n) for n in z.namelist()}


def packed(entries, method=zipfile.ZIP_DEFLATED) -> bytes:
    "A zip file of {name or ZipInfo: content}, or of a list of such pairs."
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as z:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            z.writestr(name, content, compress_type=method)
    return out.getvalue()


def inside(prefix, concept=MAEVE) -> dict[str, bytes]:
    return {prefix + name: content for name, content in files(concept).items()}


def kind(name, mode, content=b"/etc/passwd") -> tuple:
    "An entry that is a link, a device or a pipe."
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    return info, content


def raw_name(data: bytes, name: str, other: str) -> bytes:
    "The archive with a name that zipfile itself would not write."
    assert len(name) == len(other)
    return data.replace(name.encode(), other.encode())


def declared(data: bytes, size: int) -> bytes:
    "The archive whose table says another size of the first entry."
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def encrypted(data: bytes) -> bytes:
    "The archive whose entries say that they have a password."
    out, at = bytearray(data), -1
    while (at := out.find(b"PK\x01\x02", at + 1)) >= 0:
        out[at + 8] |= 1
    return bytes(out)


def corrupt(data: bytes) -> bytes:
    "The archive with a changed byte in the middle of its largest entry."
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


ZEROS = bytes(70_000_000)
GOOD = {
    "as Download writes it": lambda: concept_zip(MAEVE),
    "without a folder": lambda: packed(files()),
    "stored, not compressed": lambda: packed(files(), zipfile.ZIP_STORED),
    "in folders three deep": lambda: packed(inside("class/2026/maeve/")),
    "with backslashes, as old Windows packs": lambda: packed(inside("class\\maeve\\")),
    "with ./ before its names": lambda: packed(inside("./maeve/")),
    "with entries for its folders": lambda: packed({"maeve/": b"", "maeve/empty/": b""} | inside("maeve/")),
    "with what macOS adds": lambda: packed(
        inside("maeve/")
        | {"__MACOSX/maeve/._concept.json": b"?", "__MACOSX/maeve/concept.json": b"?", ".DS_Store": b"?"}
    ),
    "with photographs beside it": lambda: packed(inside("maeve/") | {"photos/1.jpg": b"...", "Thumbs.db": b"..."}),
    "with a folder of another name": lambda: packed(inside("Änderungen (Kopie 2)/")),
    "without peft's file": lambda: packed({f: files()[f] for f in PARTS[:2]}),
    "behind a program that unpacks it": lambda: b"MZ" + bytes(1000) + packed(files()),
    "with a comment": lambda: packed(files())[:-2] + struct.pack("<H", 4) + b"from",
    "beside a bomb that is never opened": lambda: packed(inside("maeve/") | {"photos/bomb.bin": ZEROS}),
}
BAD = {  # {kind: (archive, words)}
    "is empty": (lambda: b"", ("zip",)),
    "is text": (lambda: b"not a zip file", ("zip",)),
    "is a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(500), ("zip",)),
    "is a tar file": (lambda: b"maeve/concept.json" + bytes(500) + b"ustar" + bytes(500), ("zip",)),
    "is a rar file": (lambda: b"Rar!\x1a\x07\x01\x00" + bytes(500), ("zip",)),
    "is a page of a proxy": (lambda: b"<!DOCTYPE html><html>Please log in</html>", ("zip",)),
    "is cut off": (lambda: concept_zip(MAEVE)[:-100], ("zip",)),
    "is half": (lambda: concept_zip(MAEVE)[: len(concept_zip(MAEVE)) // 2], ("zip",)),
    "has no entry": (lambda: packed({}), ("concept.json is missing",)),
    "has photographs only": (lambda: packed({"1.jpg": b"..."}), ("concept.json is missing",)),
    "has no weights": (lambda: packed({"maeve/concept.json": b"{}"}), ("adapter_model.safetensors is missing",)),
    "has no concept.json": (lambda: packed({"maeve/" + PARTS[1]: b""}), ("concept.json is missing",)),
    "has its files in two folders": (
        lambda: packed({"a/concept.json": files()[PARTS[0]], "b/" + PARTS[1]: files()[PARTS[1]]}),
        ("missing",),
    ),
    "has two concepts": (lambda: packed(inside("maeve/") | inside("bo/", BO)), ("2 folders", "maeve", "bo")),
    "has a concept in a concept": (
        lambda: packed(inside("maeve/") | inside("maeve/bo/", BO)),
        ("2 folders", "maeve/bo"),
    ),
    "has thirty concepts": (
        lambda: packed({f"c{i}/concept.json": b"{}" for i in range(30)}),
        ("30 folders", "unpack it"),
    ),
    "has another zip in it": (lambda: packed({"maeve.zip": concept_zip(MAEVE)}), ("another archive", "maeve.zip")),
    "has a name twice": (
        lambda: packed([*inside("maeve/").items(), ("maeve/concept.json", b"{}")]),
        ("twice",),
    ),
    "has a name twice, once with a backslash": (
        lambda: packed(inside("maeve/") | {"maeve\\concept.json": b"{}"}),
        ("twice",),
    ),
    "has a bomb as concept.json": (lambda: packed(files() | {PARTS[0]: ZEROS}), ("far more",)),
    "has a bomb as weights": (lambda: packed(files() | {PARTS[1]: ZEROS}), ("far more",)),
    "says less than a bomb holds": (
        lambda: declared(packed(dict(reversed((files() | {PARTS[0]: ZEROS}).items()))), 1000),
        ("zip",),
    ),
    "says four gigabytes": (lambda: declared(packed(files()), 2**32 - 2), ("far more",)),
    "has 2000 entries": (
        lambda: packed(inside("maeve/") | {f"{i}": b"" for i in range(2000)}),
        ("files are in it", "1,000"),
    ),
    "has a password": (lambda: encrypted(concept_zip(MAEVE)), ("password",)),
    "is compressed with lzma": (lambda: packed(files(), zipfile.ZIP_LZMA), ("rare",)),
    "is compressed with bzip2": (lambda: packed(files(), zipfile.ZIP_BZIP2), ("rare",)),
    "has a changed byte": (lambda: corrupt(packed(files())), ("zip",)),
    "has a concept of a newer format": (
        lambda: packed(files() | {PARTS[0]: files()[PARTS[0]].replace(b'"format": 1', b'"format": 9')}),
        ("format 9",),
    ),
    "has damaged JSON": (lambda: packed(files() | {PARTS[0]: b"{"}), ("JSON",)),
}
CLIMBING = {
    "up": "../../escaped.txt",
    "up on Windows": "..\\..\\escaped.txt",
    "up from a folder": "maeve/../../escaped.txt",
    "from the root": "/tmp/omnipersona-escaped.txt",
    "from a drive": "C:/escaped.txt",
    "from a drive, with a backslash": "C:\\escaped.txt",
    "from a share": "\\\\server\\share\\escaped.txt",
    "up, as the concept itself": "../concept.json",
    "up, as the weights": "../adapter_model.safetensors",
}
ODD = {
    "a link": stat.S_IFLNK,
    "a pipe": stat.S_IFIFO,
    "a device": stat.S_IFCHR,
    "a disk": stat.S_IFBLK,
    "a socket": stat.S_IFSOCK,
}


def _opens(make, through=open_concept):
    "The concept comes back equal, from content and from a file."

    def run(tmp):
        data = make()
        (tmp / "maeve.zip").write_bytes(data)
        loaded = [
            open_concept(bb(), data, "maeve.zip"),
            open_concept(bb(), tmp / "maeve.zip"),
            Concept.from_pretrained(tmp / "maeve.zip", bb()),
            Persona(bb(), str(tmp / "maeve.zip")).concepts["maeve"],
        ]
        same = all(torch.equal(c.embeddings, MAEVE.embeddings) and c.facts == MAEVE.facts for c in loaded)
        return same and [p.name for p in tmp.iterdir()] == ["maeve.zip"]

    return run


def _refused(make, as_file):
    "Refused; nothing is left behind but the archive."

    def run(tmp):
        data, place = make(), tmp / "a" / "b" / "c"
        place.mkdir(parents=True)
        (place / "maeve.zip").write_bytes(data)
        here = os.getcwd()
        os.chdir(place)
        try:
            return open_concept(bb(), Path("maeve.zip") if as_file else data, "maeve.zip")
        finally:
            os.chdir(here)
            left = sorted(p.name for p in tmp.rglob("*"))
            assert left == ["a", "b", "c", "maeve.zip"] and not os.path.exists("/tmp/omnipersona-escaped.txt"), left

    return run


def _noise(tmp):
    "Bytes without any sense behind a zip's first bytes."
    return open_concept(
        bb(), b"PK\x03\x04" + np.random.default_rng(0).bytes(10_000) + b"PK\x05\x06" + bytes(18), "maeve.zip"
    )


def _too_long(tmp):
    with (tmp / "maeve.zip").open("wb") as f:
        f.truncate(2**40)
    return open_concept(bb(), tmp / "maeve.zip")


CASES = [
    *(Case("archives", f"a zip file {name}", _opens(make)) for name, make in GOOD.items()),
    *(
        Case("archives", f"a zip file that {name}{how}", _refused(make, as_file), "refused", ("maeve.zip", *words))
        for name, (make, words) in BAD.items()
        for as_file, how in ((False, ""), (True, ", on disk"))
    ),
    *(
        Case(
            "archives",
            f"a whole concept and a name that climbs {name}",
            _refused(lambda entry=entry: packed(inside("maeve/") | {entry: b"x"}), False),
            "refused",
            ("climbs out",),
        )
        for name, entry in CLIMBING.items()
    ),
    *(
        Case(
            "archives",
            f"nothing but a name that climbs {name}",
            _refused(lambda entry=entry: packed({entry: b"{}"}), True),
            "refused",
            ("missing", "climbs out"),
        )
        for name, entry in CLIMBING.items()
    ),
    Case(
        "archives",
        "a name with a null",
        _refused(lambda: raw_name(packed(inside("maeve/") | {"a/bXc": b"x"}), "a/bXc", "a/b\0c"), False),
        "refused",
        ("climbs out",),
    ),
    *(
        Case(
            "archives",
            f"{part} is {name}",
            _refused(
                lambda part=part, mode=mode: packed([*(i for i in files().items() if i[0] != part), kind(part, mode)]),
                False,
            ),
            "refused",
            ("link or a device",),
        )
        for name, mode in ODD.items()
        for part in PARTS[:2]
    ),
    Case("archives", "noise between a zip's marks", _noise, "refused", ("maeve.zip",)),
    Case("archives", "a file of a terabyte", _too_long, "refused", ("maeve.zip", "far more")),
    Case("archives", "no such file", lambda tmp: open_concept(bb(), tmp / "nobody.zip"), "refused", ("nobody.zip",)),
    Case("archives", "a name that is none", lambda tmp: open_concept(bb(), 3), "refused", ("concept",)),
    Case(
        "archives",
        "another backbone's concept",
        lambda tmp: open_concept(
            bb(), packed(files() | {PARTS[0]: files()[PARTS[0]].replace(bb().fingerprint.encode(), b"0" * 16)})
        ),
        "refused",
        ("learn it again",),
    ),
]
