"""What the project stands on, for the tests and for those who must know:

python tools/supply.py sbom [file] | licences | audit | pythons | wheel
python tools/supply.py archives | check-archives | hashes | check-hashes"""

import base64
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHIVES = ROOT / "requirements-hashes.txt"  # before installing: what pip may download
HASHES = ROOT / "constraints-hashes.json"  # after installing: {name==version: {platform tag: digest}}


def plain_name(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def installed():
    "{name: distribution} of this environment."
    return {plain_name(d.metadata["Name"]): d for d in distributions() if d.metadata["Name"]}


def settings() -> dict:
    "{extra: what settings.ini asks for with it}; '': always."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    tail = "requirements"
    return {k[: -len(tail)].rstrip("_"): v.split() for k, v in config["DEFAULT"].items() if k.endswith(tail)}


def needed(extras=("dev", "notebook", "bagel")):
    "What omnipersona needs here, the extras included: {name: distribution}."
    from packaging.requirements import Requirement

    have, found, todo = installed(), {}, [("omnipersona", e) for e in ("", *extras)]
    done = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in done or name not in have:
            continue
        done.add((name, extra))
        found[name] = have[name]
        own = settings()[extra] if name == "omnipersona" else have[name].requires or []
        for r in map(Requirement, own):
            if r.marker is None or r.marker.evaluate({"extra": extra}):
                todo += [(plain_name(r.name), e) for e in ("", *r.extras)]
    return dict(sorted(found.items()))


def licence(d: Distribution) -> str:
    "As the package says it: the expression, the classifiers, or the first line of the field."
    m = d.metadata
    said = [c.split(" :: ")[-1] for c in m.get_all("Classifier") or [] if c.startswith("License :: ")]
    text = (m.get("License-Expression") or ", ".join(said) or m.get("License") or "not said").strip()
    return text.splitlines()[0][:80] if text else "not said"


def digest(d: Distribution) -> str:
    "SHA-256 over what an installed package lists in its RECORD: paths and hashes, without what pip itself adds."
    record = d.read_text("RECORD") or ""
    rows = sorted((r[0], r[1]) for r in csv.reader(record.splitlines()) if len(r) > 1 and r[1])
    own = [r for r in rows if not re.search(r"(^|/)(INSTALLER|REQUESTED|direct_url\.json|.*\.pyc)$|^\.\./", r[0])]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()


def wrong_files(d: Distribution) -> list:
    "Files of an installed package that are not as its RECORD says."
    bad = []
    for row in csv.reader((d.read_text("RECORD") or "").splitlines()):
        if len(row) < 2 or not row[1].startswith("sha256="):
            continue
        file = Path(str(d.locate_file(row[0])))
        got = file.is_file() and base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip(
            "="
        )
        if got != row[1][7:]:
            bad.append(row[0])
    return bad


def wheel_tag(d: Distribution) -> str:
    return re.search(r"^Tag: (\S+)", d.read_text("WHEEL") or "Tag: none", re.M)[1]


def key(d: Distribution) -> str:
    return f"{plain_name(d.metadata['Name'])}=={d.version}"


def sbom() -> dict:
    "A bill of materials in CycloneDX 1.5."
    parts = []
    for name, d in needed().items():
        purl = f"pkg:pypi/{name}@{d.version.split('+')[0]}"
        part = dict(type="library", name=name, version=d.version, purl=purl)
        part["bom-ref"] = purl
        part["licenses"] = [dict(license=dict(name=licence(d)))]
        part["hashes"] = [dict(alg="SHA-256", content=digest(d))]
        parts.append(part)
    own = next(p for p in parts if p["name"] == "omnipersona")
    about = dict(component=own | dict(type="application"), tools=[dict(name="tools/supply.py")])
    rest = [p for p in parts if p is not own]
    return dict(bomFormat="CycloneDX", specVersion="1.5", version=1, metadata=about, components=rest)


def licences():
    "A table of what is needed, with the licence of each."
    rows = [(n, d.version, licence(d)) for n, d in needed().items() if n != "omnipersona"]
    for name, version, said in rows:
        print(f"{name:32}{version:18}{said}")
    return rows


def asked(extras=("", "dev", "notebook", "bagel")) -> list:
    "What settings.ini asks for, the extras included: ['torch>=2.4', ...]."
    return sorted({r for e in extras for r in settings()[e]})


HEAD = """# The archives that the demo and the tests stand on, one SHA-256 each: pip downloads no other.
#     pip install --require-hashes -r requirements-hashes.txt && pip install --no-deps --no-build-isolation -e .
# or: make venv HASHED=1
# For {where}, where it was tested; another platform has other archives.
# torch is the CPU build. PyPI does not hold it: pip needs the index of PyTorch's CPU builds, or a folder with the file
# (--find-links). Written by `make archives` from what pip took under constraints.txt; do not edit.
"""


def archives():
    "Write the hashes of the archives that pip takes here under constraints.txt. Installs nothing."
    constraints = ROOT / "constraints.txt"
    torch = re.search(r"^torch==\S+", constraints.read_text(encoding="utf-8"), re.M)[0]
    with tempfile.TemporaryDirectory() as tmp:
        report = Path(tmp) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(report)]
        pip("install", "-q", *options, "-c", str(constraints), torch, *asked())
        said = json.loads(report.read_text(encoding="utf-8"))
    here = said["environment"]
    where = f"{here['sys_platform']} {here['platform_machine']}, CPython {here['python_version']}"
    lines = []
    for part in said["install"]:
        digests = part["download_info"]["archive_info"]["hashes"]
        about = part["metadata"]
        lines.append(f"{plain_name(about['name'])}=={about['version']} --hash=sha256:{digests['sha256']}")
    ARCHIVES.write_text(HEAD.format(where=where) + "\n".join(sorted(lines)) + "\n", encoding="utf-8")
    return lines


def stored_archives() -> dict:
    "{name: (version, SHA-256)} of requirements-hashes.txt. Raises ValueError for a line that is something else."
    out = {}
    for line in ARCHIVES.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            m = re.fullmatch(r"([a-z0-9-]+)==([\w.+]+) --hash=sha256:([0-9a-f]{64})", line)
            if not m or m[1] in out:
                raise ValueError(f"{ARCHIVES.name}: {line[:80]!r}")
            out[m[1]] = (m[2], m[3])
    return out


def pip(*args, python=sys.executable, **kw):
    "Run pip. Raises CalledProcessError."
    env = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run([python, "-m", "pip", *args], check=True, env=env, **kw)


def check_archives(names=None) -> int:
    "Let pip download archives of requirements-hashes.txt (None: all) and compare them. Returns how many. Keeps none."
    stored = stored_archives()
    chosen = {n: stored[n] for n in names or stored}
    with tempfile.TemporaryDirectory() as tmp:
        lines = [f"{n}=={version} --hash=sha256:{digest}" for n, (version, digest) in chosen.items()]
        (Path(tmp) / "asked.txt").write_text("\n".join(lines), encoding="utf-8")
        options = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-d", f"{tmp}/got"]
        pip("download", "-q", *options, "-r", f"{tmp}/asked.txt", stderr=subprocess.PIPE)
        got = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (Path(tmp) / "got").iterdir()}
    assert got == {digest for _, digest in chosen.values()}, "pip took other archives"
    return len(got)


def hashes():
    "Write the digests of what is installed here, beside those that other platforms have written."
    known = json.loads(HASHES.read_text(encoding="utf-8")) if HASHES.exists() else {}
    for name, d in needed().items():
        if name != "omnipersona":
            known.setdefault(key(d), {})[wheel_tag(d)] = digest(d)
    HASHES.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")
    return known


def check_hashes(files=True):
    "What differs from the stored digests: [(package, what)]. Unknown platforms and versions are told apart."
    known, differs, unknown = json.loads(HASHES.read_text(encoding="utf-8")), [], []
    for name, d in needed().items():
        if name == "omnipersona":
            continue
        stored = known.get(key(d), {}).get(wheel_tag(d))
        if stored is None:
            unknown.append(key(d))
        elif stored != digest(d):
            differs.append((key(d), "another RECORD than the tested one"))
        if files and (bad := wrong_files(d)):
            differs.append((key(d), f"{bad[0]} is not what its RECORD says"))
    return differs, unknown


def audit():
    "pip-audit, where it is installed and finds its database."
    if not (shutil.which("pip-audit") or "pip-audit" in installed()):
        return print("pip-audit is not installed here: nothing was looked up. pip install pip-audit, then again")
    return subprocess.run([sys.executable, "-m", "pip_audit", "--local", "--skip-editable"], check=False).returncode


def copied(folder: Path) -> Path:
    "What the wheel is built from, in a folder of its own: nothing is left in the repository, nothing old is packed."
    shutil.copytree(ROOT / "omnipersona", folder / "omnipersona", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    return folder


def quickstart() -> str:
    """Build the wheel, install it with its extra `notebook` into an empty environment, and run the quickstart with it.

    Nothing of the repository is in reach. Returns where the package came from. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="omnipersona-wheel-") as tmp:
        home, folder, venv = Path(tmp) / "home", Path(tmp) / "empty", Path(tmp) / "venv"
        for place in (home, folder):
            place.mkdir()
        pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp, str(copied(Path(tmp) / "source")))
        wheel, python = next(Path(tmp).glob("*.whl")), venv / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        constraints = ROOT / "constraints.txt"
        torch = re.search(r"^torch==\S+", constraints.read_text(encoding="utf-8"), re.M)[0]
        options = ["-q", "-c", str(constraints), torch, f"{wheel}[notebook]"]
        pip("install", *options, python=python, cwd=folder, stderr=subprocess.PIPE)
        notebook = "01_quickstart.ipynb"
        shutil.copy(ROOT / "nbs" / "tutorials" / notebook, folder)
        own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JUPYTER", "IPYTHON", "OMNIPERSONA"))}
        own |= dict(HOME=str(home), PATH=f"{venv}/bin:/usr/bin:/bin", JUPYTER_PREFER_ENV_PATH="1")
        run = dict(cwd=folder, env=own, check=True, text=True)
        options = ["--log-level", "WARN", "--to", "notebook", "--execute", "--ExecutePreprocessor.timeout=3600"]
        subprocess.run([f"{venv}/bin/jupyter", "nbconvert", *options, "--output", "done", notebook], **run)
        done = json.loads((folder / "done.ipynb").read_text(encoding="utf-8"))
        assert all(c["execution_count"] for c in done["cells"] if c["cell_type"] == "code" and c["source"])
        where = subprocess.run([python, "-c", "import omnipersona as o; print(o.__file__)"], stdout=-1, **run).stdout
        assert where.startswith(str(venv)), where
        return where.strip().removeprefix(tmp)


# Where torch is missing: a thing that stands for it and for what needs it, so that each module's own lines still run.
STAND_IN = """
import importlib.abc, importlib.machinery, sys, types
class Kind(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Thing
    def __call__(cls, *given, **kw):
        if cls is Thing and len(given) == 1 and isinstance(given[0], types.FunctionType):
            return given[0]
        return super().__call__()
    def __iter__(cls):
        return iter(())
    def __add__(cls, other):
        return Thing
    __radd__ = __mul__ = __rmul__ = __sub__ = __truediv__ = __or__ = __ror__ = __getitem__ = __add__
class Thing(metaclass=Kind):
    def __call__(self, *given, **kw):
        return given[0] if given and isinstance(given[0], types.FunctionType) else Thing()
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Thing()
    def __add__(self, other):
        return Thing()
    __radd__ = __mul__ = __rmul__ = __sub__ = __truediv__ = __or__ = __ror__ = __getitem__ = __add__
class Module(types.ModuleType):
    __path__, __version__ = [], "2.13.0"
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Thing
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in ("torch", "diffusers", "transformers", "peft", "accelerate") or name == "safetensors.torch":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Module(spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Finder())
"""


# Run in the other Python, in the repository. Prints JSON: modules compiled and imported, what others need, what fails.
LOOK = """
import collections, importlib, importlib.util, json, pathlib, warnings
warnings.simplefilter("ignore")
files = sorted(p for p in pathlib.Path("omnipersona").rglob("*.py"))
said = dict(compiled=0, imported=0, needing={}, failed={}, loaded="")
for file in files:
    compile(file.read_text("utf-8"), str(file), "exec")
    said["compiled"] += 1
needing, torch = collections.Counter(), importlib.util.find_spec("torch")
if not torch:
    STAND_IN
for file in files:
    try:
        importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
        said["imported"] += 1
    except ModuleNotFoundError as e:
        needing[str(e.name).split(".")[0]] += 1
    except Exception as e:
        said["failed"][str(file)] = f"{type(e).__name__}: {e}"
said["needing"] = dict(needing)
if torch and not said["failed"] and not needing:
    from omnipersona.all import Persona, ToyWorld, load_backbone
    from omnipersona.concept.learn import learn
    bb, world = load_backbone("tiny"), ToyWorld()
    data = world.concept_data(world.character(seed=1), n_images=3)
    concept = learn(bb, data, "maeve", steps=2, progress=False)
    answer = Persona(bb, concept).ask("is <maeve> in the photo ?", data.images[0])
    said["loaded"] = f"{bb.fingerprint}, {concept.summary['steps']} steps learnt, answered {answer.text!r}"
print("LOOKED" + json.dumps(said))
"""


def interpreter(minor):
    "A Python of this version: this one, an environment .venv-3.N, one on the path, or one of pyenv's."
    if sys.version_info[:2] == (3, minor):
        return sys.executable
    places = [ROOT / f".venv-3.{minor}" / "bin" / "python", shutil.which(f"python3.{minor}")]
    places += sorted((Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python"))
    for place in places:
        if place and Path(place).exists() and not subprocess.run([str(place), "-V"], capture_output=True).returncode:
            return str(place)


def looked(python) -> dict:
    "What compiling and importing every module says in another Python, and learning and asking where torch is there."
    code = LOOK.replace("    STAND_IN", f"    exec({STAND_IN!r}, {{}})")
    run = subprocess.run([python, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if "LOOKED" not in run.stdout:
        return dict(failed={"the whole": run.stderr[-300:]})
    return json.loads(run.stdout.rpartition("LOOKED")[2])


def pythons():
    "{version: what compiling, importing, learning and asking say}, of every promised Python that is found."
    out = {}
    for minor in (10, 11, 12, 13):
        if not (python := interpreter(minor)):
            out[f"3.{minor}"] = "not installed"
            continue
        said = looked(python)
        if said["failed"]:
            out[f"3.{minor}"] = f"FAILED: {said['failed']}"
            continue
        missing = ", ".join(f"{n} need {name}" for name, n in said["needing"].items())
        stood = f"with something that stands for torch (make venv VENV=.venv-3.{minor} brings the true one)"
        more = said["loaded"] or (stood + (f"; of the others {missing}" if missing else ""))
        out[f"3.{minor}"] = f"{said['compiled']} modules compiled, {said['imported']} imported, {more}"
    return out


def main(job, *args):
    if job == "sbom":
        text = json.dumps(sbom(), indent=1) + "\n"
        return Path(args[0]).write_text(text, encoding="utf-8") and 0 if args else print(text)
    if job == "licences":
        licences()
    elif job == "archives":
        print(f"{ARCHIVES.name}: {len(archives())} archives")
    elif job == "check-archives":
        print(f"{check_archives()} archives downloaded, each with the hash that {ARCHIVES.name} says")
    elif job == "hashes":
        print(f"{HASHES.name}: {len(hashes())} packages")
    elif job == "check-hashes":
        differs, unknown = check_hashes()
        print(f"differs: {differs or 'nothing'}; not tested with: {', '.join(unknown) or 'nothing'}")
        return 1 if differs else 0
    elif job == "audit":
        return audit()
    elif job == "wheel":
        print(f"the quickstart ran to its end with {quickstart()}, installed from the wheel")
    elif job == "pythons":
        found = pythons()
        print("\n".join(f"Python {k}: {v}" for k, v in found.items()))
        return any("FAILED" in v for v in found.values())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", *sys.argv[2:]))
