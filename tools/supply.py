"""What the project stands on, for the tests and for those who must know:

python tools/supply.py sbom [file] | licences | hashes | check-hashes | audit | pythons"""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HASHES = ROOT / "constraints-hashes.json"  # {name==version: {platform tag: digest of its RECORD}}


def plain_name(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def installed():
    "{name: distribution} of this environment."
    return {plain_name(d.metadata["Name"]): d for d in distributions() if d.metadata["Name"]}


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
        for text in have[name].requires or []:
            r = Requirement(text)
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


SMOKE = "import omnipersona.all as o; b = o.load_backbone('tiny'); print(len(o.__all__), b.fingerprint)"


PARSE = "import ast, pathlib; [ast.parse(p.read_text('utf-8')) for p in pathlib.Path('omnipersona').rglob('*.py')]"


def interpreter(minor):
    "A Python of this version: this one, an environment .venv-3.N, one on the path, or one of pyenv's."
    if sys.version_info[:2] == (3, minor):
        return sys.executable
    places = [ROOT / f".venv-3.{minor}" / "bin" / "python", shutil.which(f"python3.{minor}")]
    places += sorted((Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python"))
    for place in places:
        if place and Path(place).exists() and not subprocess.run([str(place), "-V"], capture_output=True).returncode:
            return str(place)


def pythons():
    "{version: what importing and a smoke test say}, of every promised Python that is found."
    out = {}
    for minor in (10, 11, 12, 13):
        if not (python := interpreter(minor)):
            out[f"3.{minor}"] = "not installed"
            continue
        whole = not subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
        run = subprocess.run([python, "-c", SMOKE if whole else PARSE], cwd=ROOT, capture_output=True, text=True)
        done = "imported and loaded" if whole else f"every module parsed; no torch: make venv VENV=.venv-3.{minor}"
        out[f"3.{minor}"] = f"FAILED: {run.stderr[-300:]}" if run.returncode else done
    return out


def main(job, *args):
    if job == "sbom":
        text = json.dumps(sbom(), indent=1) + "\n"
        return Path(args[0]).write_text(text, encoding="utf-8") and 0 if args else print(text)
    if job == "licences":
        licences()
    elif job == "hashes":
        print(f"{HASHES.name}: {len(hashes())} packages")
    elif job == "check-hashes":
        differs, unknown = check_hashes()
        print(f"differs: {differs or 'nothing'}; not tested with: {', '.join(unknown) or 'nothing'}")
        return 1 if differs else 0
    elif job == "audit":
        return audit()
    elif job == "pythons":
        found = pythons()
        print("\n".join(f"Python {k}: {v}" for k, v in found.items()))
        return any("FAILED" in v for v in found.values())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", *sys.argv[2:]))
