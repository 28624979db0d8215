"What the project stands on: tested versions and their hashes, licences, the bill of materials, every promised Python."

import hashlib
import random
import re
import subprocess
import zipfile
from configparser import ConfigParser

import pytest
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
    lines = [r for r in constraints() if marked(r)]
    have = {re.split("==|[+]", k)[0] for k in known}
    wanted = {supply.plain_name(r.name) for r in lines} & set(supply.needed())
    assert not (missing := wanted - have), missing
    return True


def archives_for_all(tmp):
    "requirements-hashes.txt: everything that is needed, in the tested version, one hash each, and nothing else."
    stored, needed = supply.stored_archives(), supply.needed()
    wanted = {supply.plain_name(r.name): str(r.specifier)[2:] for r in constraints() if marked(r)}
    wanted = {n: v for n, v in wanted.items() if n in needed}
    differs = {n: v for n, (v, _) in stored.items() if v.split("+")[0] != wanted.get(n)}
    assert not differs and set(wanted) == set(stored), (differs, set(wanted) ^ set(stored))
    return len({digest for _, digest in stored.values()}) == len(stored)


def marked(requirement):
    "Whether a line is for the platform of requirements-hashes.txt."
    here = dict(python_version="3.11", python_full_version="3.11.7", sys_platform="linux", platform_system="Linux")
    return requirement.marker is None or requirement.marker.evaluate(here | dict(os_name="posix"))


OFFLINE = "NewConnectionError|connection broken|Failed to establish|Name or service|ConnectTimeout|ProxyError"


def fetched(work, *given):
    "Let pip fetch something; skipped where no index is in reach, or none with this torch, but never for a wrong hash."
    try:
        return work(*given)
    except subprocess.CalledProcessError as e:
        said = e.stderr.decode(errors="replace") if isinstance(e.stderr, bytes) else str(e.stderr)
        if not re.search(f"{OFFLINE}|No matching distribution found for torch", said):
            raise AssertionError(f"{' '.join(map(str, e.cmd))[:200]}: {said[-500:]}") from None
        pytest.skip(f"pip reaches no index here: {said[-200:]}")


def archives_fetched(tmp):
    "Five small ones, as pip gets them today."
    small = ("idna", "six", "tqdm", "mpmath", "wcwidth", "traitlets", "pyparsing", "parso", "certifi", "click")
    return fetched(supply.check_archives, random.Random().sample(small, 5)) == 5


def another_archive_refused(tmp):
    "pip installs the archive whose hash is written down, and stops at another of the same name and version."
    wheel = tmp / "small_thing-1.0-py3-none-any.whl"
    about = {"METADATA": "Metadata-Version: 2.1\nName: small-thing\nVersion: 1.0\n", "RECORD": ""}
    about["WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    asked, said = tmp / "asked.txt", []
    for text in ("good = 1", "evil = 1"):
        with zipfile.ZipFile(wheel, "w") as z:
            z.writestr("small_thing.py", text)
            for name, content in about.items():
                z.writestr(f"small_thing-1.0.dist-info/{name}", content)
        if not asked.exists():
            asked.write_text(f"small-thing==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
        options = ["--dry-run", "--no-index", "--find-links", str(tmp), "--require-hashes", "-r", str(asked)]
        run = subprocess.run([supply.sys.executable, "-m", "pip", "install", *options], capture_output=True, text=True)
        said.append((run.returncode, "DO NOT MATCH" in run.stderr))
    assert said == [(0, False), (1, True)], said
    return True


def quickstart_from_the_wheel(tmp):
    "In an empty environment, outside the repository."
    return fetched(supply.quickstart)


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


QUICK = (
    pinned,
    hashed,
    hashes_for_all,
    archives_for_all,
    licensed,
    bill,
    notebook_extra,
    no_other_index,
    within_ranges,
)
CASES = [Case("supply", f.__name__.replace("_", " "), f) for f in QUICK]
SLOW = (untouched_files, archives_fetched, another_archive_refused, every_python, quickstart_from_the_wheel)
CASES += [Case("supply", f.__name__.replace("_", " "), f, slow=True) for f in SLOW]
