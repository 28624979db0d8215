"""Minutes and memory of the tutorials:

python tools/tutorials.py measure [NAME ...]   run them on this machine and write nbs/tutorials/README.md
python tools/tutorials.py table                print the table as it was measured last

Each tutorial runs at full size in a kernel of its own, in a temporary folder; nothing of it is kept but the numbers."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "nbs" / "tutorials"
PAGE = TUTORIALS / "README.md"
ROW = re.compile(r"^\| \[(\w+)\]\(\w+\.ipynb\) \| (.*) \| (.*) \| ([\d.]+) \| ([\d.]+) \|$", re.M)
HEAD = """# The tutorials

| tutorial | you read for | exercises | cells run for (minutes) | memory (GB) |
|---|---|---|---|---|
"""
TAIL = """
Made by `make tutorial-table`, which runs each tutorial from top to bottom at full size, with one thread.
*Cells run for* is the time of one core ({machine}), *memory* the most that the kernel held at once.
On Colab the setup cell adds one to two minutes. The tutorial on BAGEL is measured here with the tiny backbone; its own
table says what it needs on a GPU.
"""
INSIDE = """
import json, resource, sys
import nbformat
from nbclient import NotebookClient
nb = nbformat.read(sys.argv[1], 4)
NotebookClient(nb, timeout=3600, resources=dict(metadata=dict(path=sys.argv[2]))).execute()
used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the kernel, which has ended
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)]))
"""


def prose(path):
    "What a tutorial says in words."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def measure(path):
    "(minutes, GB) of one tutorial."
    with tempfile.TemporaryDirectory() as d:
        env = {k: v for k, v in os.environ.items() if k != "OMNIPERSONA_DEMO_DIR"} | dict(PYTHONPATH=str(ROOT))
        run = subprocess.run([sys.executable, "-c", INSIDE, path, d], env=env, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{path.name}: {run.stderr[-2000:]}")
    seconds, peak = json.loads(run.stdout.strip().split("\n")[-1])
    return seconds / 60, peak / 1e9


def row(path, minutes, gigabytes):
    "A line of the table."
    text = prose(path)
    reading = re.search(r"\*\*Time:?\*\*\W*(?:about )?(\d+)", text)
    exercises = len(re.findall(r"^### Exercise ", text, re.M))
    words = f"{reading[1]} minutes" if reading else ""
    return f"| [{path.stem}]({path.name}) | {words} | {exercises} | {minutes:.1f} | {gigabytes:.1f} |"


def measured():
    "{name: (minutes, GB)} of the page as it stands."
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    return {m[1]: (float(m[4]), float(m[5])) for m in ROW.finditer(text)}


def machine():
    "This CPU in words."
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{name[1] if name else 'unknown'}, {os.cpu_count()} cores"


def write(numbers):
    "Write the page."
    rows = [row(p, *numbers[p.stem]) for p in sorted(TUTORIALS.glob("*.ipynb")) if p.stem in numbers]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n" + TAIL.format(machine=machine()), encoding="utf-8")


def main(names=()):
    "Measure some tutorials, or all, and write the page after each."
    numbers = measured()
    for path in sorted(TUTORIALS.glob("*.ipynb")):
        if not names or path.stem in names:
            numbers[path.stem] = measure(path)
            print(row(path, *numbers[path.stem]), flush=True)
            write(numbers)


if __name__ == "__main__":
    job, *args = sys.argv[1:] or [""]
    if job == "measure":
        main(args)
    elif job == "table":
        print(PAGE.read_text(encoding="utf-8"))
    else:
        sys.exit(__doc__)
