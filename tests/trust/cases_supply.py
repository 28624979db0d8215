"What the project stands on: tested versions and their hashes, licences, the bill of materials, every promised Python."

import re
from configparser import ConfigParser

import supply
from packaging.requirements import Requirement
from packaging.version import Version

from .corpus import Case

ROOT = supply.ROOT
FREE = r"Apache|MIT|BSD|ISC|PSF|Python Software|MPL|Mozilla|0BSD|Zlib|CC0|HPND|CNRI|Unlicense|Public Domain|NVIDIA"


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and line[0] != "#"]


def pinned(tmp):
    "Everything that is needed has a line with one version."
    lines = [r for r in constraints() if r.marker is None or r.marker.evaluate()]
    names = {supply.plain_name(r.name) for r in lines}
    assert all(re.fullmatch(r"==[\w.]+", str(r.specifier)) for r in lines)
    missing = sorted(set(supply.needed()) - names - {"omnipersona", "pip"})
    assert not missing, missing
    return True


def hashed(tmp):
    "Every package here whose version was tested has the files that were tested."
    differs, _ = supply.check_hashes(files=False)
    assert not differs, differs
    return True


def untouched_files(tmp):
    differs, _ = supply.check_hashes()
    assert not differs, differs
    return True


def hashes_for_all(tmp):
    "No tested version is without its digest."
    import json

    known = json.loads(supply.HASHES.read_text(encoding="utf-8"))
    lines = [r for r in constraints() if r.marker is None or r.marker.evaluate({"python_version": "3.11"})]
    have = {re.split("==|[+]", k)[0] for k in known}
    wanted = {supply.plain_name(r.name) for r in lines} & set(supply.needed())
    assert not (missing := wanted - have), missing
    return True


def licensed(tmp):
    odd = {n: supply.licence(d) for n, d in supply.needed().items() if not re.search(FREE, supply.licence(d))}
    assert not {n: said for n, said in odd.items() if said != "not said"}, odd
    return True


def bill(tmp):
    "All that is needed, each once, with version, licence and hash."
    parts = supply.sbom()["components"]
    names = [p["name"] for p in parts]
    assert sorted(names) == sorted(set(supply.needed()) - {"omnipersona"}) and len(set(names)) == len(names)
    return all(p["version"] and p["licenses"] and len(p["hashes"][0]["content"]) == 64 for p in parts)


def notebook_extra(tmp):
    "pip install omnipersona[notebook] can open the quickstart, and the README says so."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    extra = config["DEFAULT"]["notebook_requirements"]
    said = "omnipersona[notebook]" in (ROOT / "README.md").read_text(encoding="utf-8")
    return {"jupyterlab", "ipykernel"} <= {Requirement(x).name for x in extra.split()} and said


def no_other_index(tmp):
    "No requirement comes from an address."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    lines = [x for k, v in config["DEFAULT"].items() if k.endswith("requirements") for x in v.split()]
    return not [x for x in [*lines, *map(str, constraints())] if Requirement(x).url]


def within_ranges(tmp):
    "The tested versions satisfy what settings.ini asks for."
    have = supply.installed()
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    asked = [Requirement(x) for k, v in config["DEFAULT"].items() if k.endswith("requirements") for x in v.split()]
    there = [(r, have[supply.plain_name(r.name)]) for r in asked if supply.plain_name(r.name) in have]
    return all(r.specifier.contains(Version(d.version), prereleases=True) for r, d in there)


def every_python(tmp):
    found = supply.pythons()
    assert not [v for v in found.values() if "FAILED" in v], found
    return True


QUICK = (pinned, hashed, hashes_for_all, licensed, bill, notebook_extra, no_other_index, within_ranges)
CASES = [Case("supply", f.__name__.replace("_", " "), f) for f in QUICK]
CASES += [Case("supply", f.__name__.replace("_", " "), f, slow=True) for f in (untouched_files, every_python)]
