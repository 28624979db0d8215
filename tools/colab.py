"""What Colab brings, for the tests and for `make test-colab`:

python tools/colab.py env FOLDER | used FOLDER | drift [pip-freeze.txt]

`env` makes an environment with Colab's versions, as far as they can be had here; `used` says what it took; `drift`
compares what settings.ini asks for with the versions that Colab publishes (github.com/googlecolab/backend-info)."""

import platform
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import supply
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED, PYTHON = "2026.08", (3, 13)
NEVER_CHANGED = ("torch", "numpy", "ipywidgets", "ipython", "ipykernel")  # another version needs a restart
VERSIONS = {  # of 2026.08
    "torch": "2.11.0",
    "numpy": "2.1.3",
    "transformers": "5.15.0",
    "peft": "0.20.0",
    "diffusers": "0.39.0",
    "accelerate": "1.14.0",
    "ipywidgets": "7.7.1",
    "anywidget": "0.9.21",
    "ipython": "7.34.0",
    "ipykernel": "6.17.1",
    "pandas": "2.2.3",
}
OLDER = {  # the rest of what we need, as Colab's GPU runtime had it in June 2026
    "safetensors": "0.7.0",
    "huggingface_hub": "1.17.0",
    "pillow": "11.3.0",
    "matplotlib": "3.10.0",
    "tqdm": "4.67.3",
    "scipy": "1.16.3",
    "scikit-learn": "1.6.1",
    "joblib": "1.5.3",
    "traitlets": "5.7.1",
    "tornado": "6.5.1",
}


def requirements(*extras):
    "What settings.ini asks for, with these extras: [Requirement]."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    keys = ["requirements", *(f"{e}_requirements" for e in extras)]
    return [Requirement(line) for key in keys for line in config["DEFAULT"][key].split()]


def drift(versions):
    "Requirements that these versions do not satisfy, as texts: nothing where all is well."
    have = {supply.plain_name(name): version for name, version in versions.items()}
    asked = [(r, have.get(supply.plain_name(r.name))) for r in requirements("colab")]
    return [f"{r}: Colab has {v}" for r, v in asked if v and not r.specifier.contains(v, prereleases=True)]


def read_freeze(path):
    "{name: version} of a file that `pip freeze` wrote."
    text = Path(path).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+)", text, re.M)
    wheels = re.findall(r"^([\w.-]+) @ \S*?-(\d[\w.]*?)(?:-|\+|%2B|\.tar)", text, re.M)
    return dict(found) | dict(wheels)


# ---- an environment that resembles it ------------------------------------------------------------------------------
def pip(python, *args, quiet=True):
    out = subprocess.DEVNULL if quiet else None
    return subprocess.run([python, "-m", "pip", *args], stdout=out, stderr=out).returncode == 0


def torches():
    "Ways to get a torch, the best first: (what pip is asked for, what it is)."
    wanted = VERSIONS["torch"]
    tested = re.search(r"^torch==([\d.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)[1]
    has_cuda = platform.system() == "Linux" and platform.machine() == "x86_64"
    return [
        (f"torch=={wanted}+cpu", "the CPU build of Colab's version"),
        (f"torch=={wanted}", "Colab's version, with NVIDIA's libraries" if has_cuda else "Colab's version"),
        (f"torch=={tested}", "the version that we test with: Colab's cannot be had here"),
    ]


def make(folder):
    "An environment with Colab's versions. What was taken is written into FOLDER/used.txt."
    folder = Path(folder)
    found = supply.interpreter(PYTHON[1])
    if not (folder / "bin" / "python").exists():
        subprocess.run([found or sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    for torch, what in torches():
        if pip(python, "install", "--dry-run", torch) and pip(python, "install", "-q", torch):
            break
    else:
        sys.exit("no torch can be installed here: is there a network, and 6 GB of free disk?")
    pins = [f"{n}=={v}" for n, v in VERSIONS.items() if n not in ("torch", "pandas")]
    rest = [r.name for r in requirements("colab") if r.name not in VERSIONS] + [
        "pytest",
        "nbclient",
        "nbformat",
        "packaging",
    ]
    if not pip(python, "install", "-q", torch, *pins, *rest, quiet=False):
        sys.exit("Colab's versions cannot be installed together here; read pip's lines above")
    if not pip(python, "install", "-q", "--no-deps", "-e", str(ROOT), quiet=False):
        sys.exit("the package itself cannot be installed; read pip's lines above")
    (folder / "used.txt").write_text(f"{what}\n", encoding="utf-8")


def used(folder):
    "What an environment stands on, in one line beside what Colab has."
    names = sorted(VERSIONS)
    code = (
        "import importlib.metadata as m, platform; has = {d.name.lower(): d.version for d in m.distributions()}; "
        f"print('; '.join(['Python ' + platform.python_version(), *(n + ' ' + has[n] for n in {names} if n in has)]))"
    )
    said = subprocess.run([str(Path(folder) / "bin" / "python"), "-c", code], capture_output=True, text=True).stdout
    torch = (Path(folder) / "used.txt").read_text(encoding="utf-8").strip()
    published = "; ".join([f"Python {PYTHON[0]}.{PYTHON[1]}", *(f"{n} {VERSIONS[n]}" for n in names)])
    return f"Used: {said.strip()}\ntorch: {torch}\nColab, {PUBLISHED}: {published}"


def main(job="", *args):
    if job == "env":
        make(*args)
    elif job == "used":
        print(used(*args))
    elif job == "drift":
        wrong = drift(read_freeze(args[0]) if args else OLDER | VERSIONS)
        print("\n".join(wrong) or "settings.ini admits all of Colab's versions")
        return bool(wrong)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
