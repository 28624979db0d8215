"The house rules: notebooks and modules in step, imports one way, clean files, a wheel that works without nbdev."

import ast
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter

import house
import pytest

ROOT, LIB = house.ROOT, "omnipersona"
BY_HAND = {"__init__.py", "all.py"}  # modules of the package that are not made from a notebook
env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # nbdev exports nothing while IN_TEST is set
env |= {"OMP_NUM_THREADS": "1"}


def git_files():
    "Tracked files, and new ones that git does not ignore."
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: without one it is unknown which files belong to the project")
    out = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-coz", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / p for p in sorted(set(out.split("\0"))) if p and (ROOT / p).is_file()]


def copy_to(folder, paths):
    for p in paths:
        to = folder / p.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(p, to)
    return folder


def cells(nb):
    return [
        "".join(c["source"]) for c in json.loads(nb.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"
    ]


def exported(src):
    return re.search(r"^#\s*\|\s*exporti?s?\b", src, re.M)


def default_exp(nb):
    found = re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", "\n".join(cells(nb)), re.M)
    assert len(found) < 2, f"{nb}: more than one default_exp"
    return found[0] if found else None


NBS = house.notebooks()
LIBRARY = {nb: default_exp(nb) for nb in NBS if default_exp(nb)}
MODULES = sorted(p for p in (ROOT / LIB).rglob("*.py"))


def ids(path):
    return path.relative_to(ROOT).as_posix()


each_nb = pytest.mark.parametrize("nb", NBS, ids=ids)
each_module = pytest.mark.parametrize("module", MODULES, ids=ids)


# ---- notebooks and modules ----------------------------------------------------------------------------------------
def test_one_notebook_per_module():
    twice = [m for m, n in Counter(LIBRARY.values()).items() if n > 1]
    assert not twice, f"several notebooks export to {twice}: the last one silently wins"


def test_export_in_sync(tmp_path):
    "Exporting into an empty package gives every module of the tree, and no module is left over."
    copy_to(tmp_path, [ROOT / "settings.ini", *NBS, *(ROOT / LIB / n for n in BY_HAND)])
    subprocess.run(
        [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"],
        cwd=tmp_path,
        env=env,
        check=True,
    )
    here = {p.relative_to(ROOT): p.read_text() for p in MODULES}
    there = {p.relative_to(tmp_path): p.read_text() for p in (tmp_path / LIB).rglob("*.py")}
    assert not (orphans := set(here) - set(there)), f"no notebook makes {orphans}: delete them, or name their notebook"
    assert not (missing := set(there) - set(here)), f"not exported yet: {missing}; run `make export`"
    assert not (stale := [p for p in here if here[p] != there[p]]), (
        f"differ from their notebooks: {stale}; run `make export`"
    )


STAR = ast.parse((ROOT / LIB / "all.py").read_text(encoding="utf-8"))
LISTED = next(ast.literal_eval(n.value) for n in STAR.body if isinstance(n, ast.Assign))
# names that people give to things of their own in a notebook
EVERYDAY = """data model image images text prompt seed step result results table page record records square summary
samples names measured metrics requests page clean draw rotate paths mark masks panel flow put say render separation
pooled guide pack attend normed splice rgb caption show""".split()


def test_the_star_import_is_short_and_hides_nothing():
    "`from omnipersona.all import *` brings what a student calls, and no name that a notebook may hold already."
    imported = sorted(a.name for n in STAR.body if isinstance(n, ast.ImportFrom) for a in n.names)
    assert imported == LISTED, "all.py: __all__ lists what is imported, in alphabetical order"
    assert len(LISTED) <= 75
    modules = {m.name for m in pkgutil.iter_modules()} | set(sys.stdlib_module_names)
    assert not (hidden := set(LISTED) & (modules | set(EVERYDAY))), f"hides what a notebook may have imported: {hidden}"
    run = subprocess.run([sys.executable, "-c", f"from {LIB}.all import *"], cwd=ROOT, env=env, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()


def public_names(module):
    "The `__all__` of a module."
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def test_no_name_twice():
    "Two things of one name make a reader guess. Each benchmark has a `main` of its own."
    names = Counter(n for m in MODULES if m.name != "all.py" for n in public_names(m))
    assert not (twice := [n for n, k in names.items() if k > 1 and n != "main"]), f"public in two modules: {twice}"
    rooms = Counter(m.stem for m in MODULES if m.stem != "__init__")
    assert not (twice := [n for n, k in rooms.items() if k > 1]), f"two modules of one name: {twice}"


def test_numbers_of_notebooks():
    "Each number once; the index names the notebooks in the order of their numbers, all of them."
    numbers = [floor(nb) for nb in NBS if floor(nb) is not None and nb.parent.name not in ("tutorials", "assignments")]
    assert not (twice := [n for n, k in Counter(numbers).items() if k > 1]), f"used twice: {twice}"
    index = (house.NBS / "index.ipynb").read_text(encoding="utf-8")
    listed = [int(n) for n in re.findall(r"\| \[(\d{3})_\w+\]\([\w/]+\.ipynb\)", index)]
    assert listed == sorted(numbers), (
        f"missing {set(numbers) - set(listed)}, gone {set(listed) - set(numbers)}, or order"
    )


def lint(*command):
    run = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]


def test_ruff():
    "Notebooks, tests and tools in one style: 120 columns, a statement a line, nothing unused or undefined."
    lint("ruff", "check", ".")
    lint("ruff", "format", "--check", "nbs", "tests", "tools", "setup.py", f"{LIB}/all.py")


def test_types():
    "The package's annotations hold; py.typed tells other people's type checkers to rely on them."
    lint("mypy")
    assert (ROOT / LIB / "py.typed").exists()


VERSIONS = [(3, minor) for minor in range(10, 14)]


@pytest.mark.parametrize("version", VERSIONS, ids="{0[0]}.{0[1]}".format)
def test_grammar_of_every_promised_python(version):
    for m in MODULES:
        ast.parse(m.read_text(encoding="utf-8"), feature_version=version)
    python = shutil.which(f"python{version[0]}.{version[1]}")
    if python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
        code = "import sys; [compile(open(f, encoding='utf-8').read(), f, 'exec') for f in sys.argv[1:]]"
        subprocess.run([python, "-c", code, *map(str, MODULES)], check=True)


@each_module
def test_rooms_keep_to_themselves(module):
    "No private name of another module, no import by a string, no method assigned from outside, and one Backbone."
    tree = ast.parse(module.read_text(encoding="utf-8"))
    if module.name == "_modidx.py":
        return
    froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    assert not (private := [a.name for n in froms for a in n.names if a.name.startswith("_")]), private
    assert not re.search(r"import_module\(|__import__\(", module.read_text(encoding="utf-8"))
    assigned = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Attribute)]
    assert not assigned, [ast.unparse(t) for t in assigned]
    classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    assert not [c.name for c in classes if any(ast.unparse(b) == "Backbone" for b in c.bases)]


def floor(nb):
    return int(m[1]) if (m := re.match(r"(\d+)_", nb.name)) else None


def imported(src, module):
    "The package's own modules that a cell imports, as dotted names without the package."
    src = "\n".join(line for line in src.split("\n") if not re.match(r"\s*[%!]", line))
    for node in ast.walk(ast.parse(src)):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([LIB, *module.split(".")[: -node.level], *([base] if base else [])])
            names = [base] + [f"{base}.{a.name}" for a in node.names]
        else:
            continue
        yield from (n[len(LIB) + 1 :] for n in names if n.startswith(LIB + "."))


def test_imports_point_down():
    "A library notebook, all its cells included, imports only modules with lower numbers."
    floors = {m: floor(nb) for nb, m in LIBRARY.items()}
    assert not (unnumbered := [m for m, f in floors.items() if f is None]), f"notebooks without a number: {unnumbered}"
    up = [
        f"{ids(nb)} imports {o} ({floors.get(o, 'above all')})"
        for nb, m in LIBRARY.items()
        for src in cells(nb)
        for o in imported(src, m)
        if o != m and (o == "all" or floors.get(o, -1) >= floors[m])
    ]
    assert not up, up


@each_nb
def test_notebook_is_clean(nb):
    "Outputs are kept; counts, metadata, widget state and stderr are not."
    assert nb.read_text(encoding="utf-8") == house.cleaned(nb.read_text(encoding="utf-8")), "run `make clean-notebooks`"


@each_nb
def test_notebook_is_light(nb):
    parts, limit = nb.relative_to(house.NBS).parts, 300
    if parts[0] in ("tutorials", "assignments"):
        limit = 1024
    heavy = max(
        ((len(json.dumps(c)), i) for i, c in enumerate(json.loads(nb.read_text(encoding="utf-8"))["cells"])),
        default=None,
    )
    assert nb.stat().st_size <= limit * 1024, (
        f"{nb.stat().st_size // 1024} KB and the budget is {limit}; the heaviest cell: (bytes, number) {heavy}"
    )


@each_nb
def test_no_magic_in_exported_cells(nb):
    lines = [line for src in cells(nb) if exported(src) for line in src.split("\n")]
    bad = [line for line in lines if re.match(r"\s*(%%?\w|!)", line)]
    assert not bad, f"magics and shell commands vanish or pass silently when exported: {bad}"


def test_cell_ids_differ():
    for nb in NBS:
        twice = [
            k for k, n in Counter(c["id"] for c in json.loads(nb.read_text(encoding="utf-8"))["cells"]).items() if n > 1
        ]
        assert not twice, f"{ids(nb)}: cells with one id {twice}"


def test_readme_in_sync():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == house.readme_text(), "run `make readme`"


def test_readme_links_lead_somewhere():
    md = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [a or b for a, b in re.findall(r'\]\(([^)\s#]+)[^)]*\)|src="([^"]+)"', md)]
    assert not (dead := [k for k in links if not re.match(r"[a-z]+:", k) and not (ROOT / k).exists()]), dead


@each_nb
def test_links_of_notebooks(nb):
    "Links between notebooks lead somewhere, and every notebook names the page that explains its words."
    text = "\n".join(
        "".join(c["source"])
        for c in json.loads(nb.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "markdown"
    )
    links = [k for k in re.findall(r"\]\(([^)\s#]+)", text) if not re.match(r"[a-z]+:", k)]
    assert not (dead := [k for k in links if not (nb.parent / k).exists()]), dead
    assert nb.stem == "glossary" or any(k.endswith("glossary.ipynb") for k in links), "no link to the glossary"


# ---- what must not be in any file ---------------------------------------------------------------------------------
def test_no_path_of_one_machine():
    bad = []
    for p in git_files():
        if p.suffix in (".safetensors", ".png", ".jpg"):
            continue
        for i, line in enumerate(p.read_text(encoding="utf-8").split("\n"), 1):
            if len(line) < 5000 and re.search(r"(?<![\w.])/(work|root|home|Users)/\w", line):
                bad.append(f"{ids(p)}:{i}: {line.strip()[:100]}")
    assert not bad, "\n".join(bad)


@each_nb
def test_outputs_name_no_temporary_folder(nb):
    "A reader has another one. Stored texts show paths as a person wrote them."
    said = [
        (c["id"], text)
        for c in json.loads(nb.read_text(encoding="utf-8"))["cells"]
        for o in c.get("outputs", [])
        for text in ["".join(o.get("text", [])), *("".join(v) for k, v in o.get("data", {}).items() if "text" in k)]
    ]
    bad = [(i, m[0]) for i, text in said for m in [re.search(r"(?<![\w.])/(tmp|work|root|home)/.{0,60}", text)] if m]
    assert not bad, bad


def test_only_safetensors_and_json():
    "No file of the project runs code when it is read, and nothing reads such files."
    loose = [ids(p) for p in git_files() if p.suffix in (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".npy", ".npz", ".h5")]
    assert not loose, f"weights are stored as safetensors and JSON: {loose}"
    weights = [
        ids(p)
        for p in (ROOT / LIB).rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc", ".safetensors", ".json") and p.name != "py.typed"
    ]
    assert not weights, f"the wheel carries modules, safetensors and JSON only: {weights}"
    pattern = re.compile(
        "|".join(["torch[.]load", "torch[.]save", "pickle", "joblib[.]load", "np[.]load", "trust_remote_code *= *True"])
    )
    bad = [
        f"{ids(p)}: {m[0]}"
        for p in [*MODULES, *NBS]
        for src in ([p.read_text()] if p.suffix == ".py" else cells(p))
        for m in [pattern.search(src)]
        if m
    ]
    assert not bad, bad


@each_module
def test_one_idea_per_module(module):
    src = module.read_text(encoding="utf-8")
    if module.name == "_modidx.py":
        return  # nbdev's index, one line per name
    code = [line for line in src.split("\n") if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 250, f"{len(code)} lines of code: split the notebook"
    defs = [n for n in ast.walk(ast.parse(src)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not (long := [(n.name, k) for n in defs if (k := n.end_lineno - n.lineno + 1) > 40]), (
        f"functions over 40 lines: {long}"
    )


# ---- wheel and sdist ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    "An sdist, and a wheel made from it, of a copy of the tree with two more weight files: one nested, one not."
    src = copy_to(tmp_path_factory.mktemp("house") / "src", git_files())
    for p in ("probe.safetensors", "deep/er/probe.json"):
        f = src / LIB / "weights" / p
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text("{}")
    run = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(src.parent / "dist"), str(src)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return src, next((src.parent / "dist").glob("*.whl")), next((src.parent / "dist").glob("*.tar.gz"))


def test_wheel_and_sdist_hold_the_package(dist):
    src, wheel, sdist = dist
    want = {p.relative_to(src).as_posix() for p in (src / LIB).rglob("*") if p.is_file()}
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert names == want, f"missing {want - names}, too many {names - want}"
    with tarfile.open(sdist) as t:
        inside = {n.partition("/")[2] for n in t.getnames()}
    assert want <= inside and {"LICENSE", "README.md", "settings.ini", "setup.py"} <= inside
    assert not [n for n in inside if n.startswith("nbs/")]


BLOCK = """
import importlib, pkgutil, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        absent = "nbdev fastcore execnb ghapi pytest bitsandbytes IPython".split()
        if name.split(".")[0] in absent: raise ModuleNotFoundError(f"{name} is not installed here", name=name)
sys.meta_path.insert(0, Block())
sys.path.insert(0, sys.argv[1])
import omnipersona
assert omnipersona.__file__.startswith(sys.argv[1]), omnipersona.__file__
mods = [m.name for m in pkgutil.walk_packages(omnipersona.__path__, "omnipersona.") if not m.name.endswith("._modidx")]
for m in mods: importlib.import_module(m)
print(*mods)
"""


def test_wheel_imports_without_nbdev(dist, tmp_path):
    "The wheel, installed by pip into a folder of its own, imports module by module without nbdev and its kin."
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            "--target",
            str(tmp_path / "site"),
            str(dist[1]),
        ],
        env=env,
        check=True,
    )
    run = subprocess.run(
        [sys.executable, "-c", BLOCK, str(tmp_path / "site")], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert {f"{LIB}.{m}" for m in LIBRARY.values()} <= set(run.stdout.split())
