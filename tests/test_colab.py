"""What Colab brings and what our setup cell does to it: nothing that is there changes.

The versions stand in tools/colab.py. Nothing here needs a network."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile

import colab
import nbformat
import pytest
import supply
from conftest import ROOT

TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))
MODULES = sorted((ROOT / "omnipersona").rglob("*.py"))


def code(notebook):
    return [c["source"] for c in nbformat.read(notebook, 4).cells if c["cell_type"] == "code"]


SETUP = code(TUTORIALS[0])[0]


@pytest.mark.parametrize("notebook", TUTORIALS, ids=lambda p: p.stem)
def test_all_tutorials_begin_with_one_setup_cell(notebook):
    "Four lines, the same everywhere; no other cell installs anything."
    first, *rest = code(notebook)
    assert first == SETUP and len([line for line in SETUP.splitlines() if line]) <= 4
    assert not [s for s in rest if re.search(r"pip3? install|conda install|apt(-get)? install", s)]


def test_the_ranges_admit_what_colab_publishes():
    assert not colab.drift(colab.OLDER | colab.VERSIONS)
    assert set(colab.NEVER_CHANGED) <= set(colab.VERSIONS)
    needed = {supply.plain_name(r.name) for r in colab.requirements("colab")}
    new = needed - {supply.plain_name(n) for n in colab.OLDER | colab.VERSIONS}
    assert new <= {"bitsandbytes", "pillow-heif"}, f"Colab does not have {new}, or tools/colab.py does not know it"


def test_a_drift_is_found(tmp_path):
    assert colab.drift(colab.VERSIONS | {"transformers": "4.40.0"}) == ["transformers>=4.57: Colab has 4.40.0"]
    lines = ["# a comment", "numpy==1.20.0", "torch @ https://host/cu128/torch-2.11.0%2Bcu128-cp313-cp313.whl#sha256=1"]
    (tmp_path / "freeze.txt").write_text("\n".join(lines), encoding="utf-8")
    assert colab.read_freeze(tmp_path / "freeze.txt") == {"numpy": "1.20.0", "torch": "2.11.0"}
    assert [r.split(">")[0] for r in colab.drift(colab.read_freeze(tmp_path / "freeze.txt"))] == ["numpy"]


# ---- the setup cell, carried out where a copy of Colab's list is installed ------------------------------------------
def metadata(name, version, requires=()):
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    return "\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires), ""])


def install_stub(site, name, version):
    "A package of which only the name and the version are there."
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata(name, version), encoding="utf-8")
    (info / "INSTALLER").write_text("pip", encoding="utf-8")
    (info / "RECORD").write_text("", encoding="utf-8")


def stub_wheel(folder, name, version, requires=(), extras=()):
    plain = name.replace("-", "_")
    path, info = folder / f"{plain}-{version}-py3-none-any.whl", f"{plain}-{version}.dist-info"
    about = metadata(name, version, requires).rstrip() + "\n" + "".join(f"Provides-Extra: {e}\n" for e in extras)
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(f"{info}/METADATA", about)
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def like_colab(tmp_path_factory):
    "An environment with Colab's list, an index that also has newer releases, and our package as a wheel."
    d = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", d / "env"], check=True)
    site = next((d / "env").glob("lib/python*/site-packages"))
    (d / "index").mkdir()
    for name, version in (colab.OLDER | colab.VERSIONS | {"torch": "2.11.0+cu128"}).items():
        install_stub(site, name, version)
        stub_wheel(d / "index", name, "99.0")
    for name in ("bitsandbytes", "pillow-heif"):  # what needs a newer torch must not get it
        stub_wheel(d / "index", name, "98.0", ["torch>=2.4", "numpy"])
        stub_wheel(d / "index", name, "99.0", ["torch>=50", "numpy"])
    requires = [str(r) for r in colab.requirements()]
    requires += [f'{r}; extra == "colab"' for r in colab.requirements("colab") if r not in colab.requirements()]
    ours = stub_wheel(d, "omnipersona", "0.1.0", requires, ["colab"])
    (d / "bin").mkdir()
    pip = d / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {d / "env"} "$@"\n', encoding="utf-8")
    pip.chmod(0o755)
    return d, ours


def installs(like_colab, lines):
    "{name: version} that the setup cell's shell lines would install; None where pip refuses."
    d, ours = like_colab
    lines = [re.sub(r"git\+https://\S+?(?=[\"'])", f"file://{ours}", line) for line in lines]
    lines = [line.replace("pip install", "pip install --dry-run --report report.json") for line in lines]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))} | dict(
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(d / "index"),
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PATH=f"{d / 'bin'}{os.pathsep}{os.environ['PATH']}",
    )
    (d / "report.json").unlink(missing_ok=True)
    for line in lines:
        if subprocess.run(["bash", "-c", line], cwd=d, env=env, capture_output=True).returncode:
            return None
    report = json.loads((d / "report.json").read_text(encoding="utf-8"))["install"]
    return {supply.plain_name(r["metadata"]["name"]): r["metadata"]["version"] for r in report}


def shell_lines(cell):
    return [line.strip()[1:] for line in cell.splitlines() if line.strip().startswith("!")]


def test_the_setup_cell_changes_nothing_that_colab_brings(like_colab):
    "pip's dry run of the cell's own lines: only what Colab does not have is installed."
    lines = shell_lines(SETUP)
    assert len(lines) == 2 and "google.colab" in SETUP and "-U" not in SETUP and "upgrade" not in SETUP
    found = installs(like_colab, lines)
    assert found == {"omnipersona": "0.1.0", "bitsandbytes": "98.0", "pillow-heif": "98.0"}
    kept = (like_colab[0] / "keep.txt").read_text(encoding="utf-8")
    assert "torch==2.11.0+cu128" in kept and all(f"{name}==" in kept for name in colab.NEVER_CHANGED)


def test_without_what_it_keeps_colab_would_change(like_colab):
    "That the test above would notice: without the list, pip takes the newest of everything, and another torch with it."
    careless = [line.replace("-c keep.txt", "-U --upgrade-strategy eager") for line in shell_lines(SETUP)]
    assert installs(like_colab, careless)["torch"] == "99.0"


GONE = """aifc asyncore asynchat audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib
ossaudiodev pipes sndhdr spwd sunau telnetlib uu xdrlib""".split()  # modules that Python 3.12 and 3.13 no longer have


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def test_the_package_is_for_python_3_13():
    "Its grammar, no module that is gone, and, where Python 3.13 is installed, not one warning of its compiler."
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=colab.PYTHON)
        assert not set(imported(tree)) & set(GONE), path
    python = supply.interpreter(colab.PYTHON[1])
    if python:
        check = "import sys; [compile(open(f, encoding='utf-8').read(), f, 'exec') for f in sys.argv[1:]]"
        subprocess.run([python, "-W", "error", "-c", check, *map(str, MODULES)], check=True)
    minor = int(re.search(r"min_python = 3\.(\d+)", (ROOT / "settings.ini").read_text(encoding="utf-8"))[1])
    assert minor <= colab.PYTHON[1] and "3, 13" in str(colab.PYTHON)


def test_what_test_colab_uses_is_said(tmp_path, monkeypatch):
    "`make test-colab` names Python, torch and numpy as they are, and Colab's beside them."
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "used.txt").write_text("the CPU build of Colab's version\n", encoding="utf-8")
    said = colab.used(tmp_path)
    assert said.startswith(f"Used: Python {sys.version_info[0]}.{sys.version_info[1]}.") and "the CPU build" in said
    assert "torch 2.11.0" in said.split("Colab, ")[1] and "numpy 2.1.3" in said
    kinds = [what for _, what in colab.torches()]
    assert "CPU build" in kinds[0] and "cannot be had" in kinds[-1]
