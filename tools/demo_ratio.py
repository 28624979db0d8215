"""How long the quickstart takes in two checkouts: python tools/demo_ratio.py BEFORE [NOW] [REPETITIONS]

Both run at the same time, one thread and one processor core each, and change cores with every repetition. Prints
seconds of the processor and on the clock, of the whole run and of its longest cells, and the ratio of both."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

NOTEBOOK = Path("nbs", "tutorials", "01_quickstart.ipynb")
CONVERT = ["-m", "jupyter", "nbconvert", "--log-level", "WARN", "--to", "notebook", "--execute"]
OPTIONS = ["--ExecutePreprocessor.timeout=2400", "--ExecutePreprocessor.record_timing=True", "--output-dir"]


def cell_seconds(notebook: Path) -> list:
    "(seconds on the clock, first words) of the five longest cells of an executed notebook."
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        times = cell["metadata"].get("execution", {})
        if "iopub.execute_input" in times and "shell.execute_reply" in times:
            begun, ended = (datetime.fromisoformat(times[k]) for k in ("iopub.execute_input", "shell.execute_reply"))
            words = next((line for line in cell["source"] if line.strip()), "").strip()
            found.append((round((ended - begun).total_seconds(), 1), words[:60]))
    return sorted(found, reverse=True)[:5]


def run_demo(checkout: Path, core: int, found: dict) -> None:
    "Execute the quickstart of a checkout on one core; put into `found` what it took."
    with tempfile.TemporaryDirectory() as d:
        more = dict(PYTHONPATH=str(checkout), OMP_NUM_THREADS="1", OMNIPERSONA_FULL="1", OMNIPERSONA_DEMO_DIR=d)
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *CONVERT, *OPTIONS, d, str(checkout / NOTEBOOK)],
            env=os.environ | more,
            cwd=checkout,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{checkout}: the quickstart ended with {os.waitstatus_to_exitcode(status)}")
        found.update(cpu=used.ru_utime + used.ru_stime, wall=time.perf_counter() - begun)
        found["cells"] = cell_seconds(Path(d) / NOTEBOOK.name)


def main(before: str, now: str = ".", repetitions: str = "2") -> None:
    "Run both at the same time, so often, and print what they took."
    cores, sides = sorted(os.sched_getaffinity(0)), [Path(p).absolute() for p in (before, now)]
    for i in range(int(repetitions)):
        found: list = [{}, {}]
        own = [cores[(k + i) % 2 % len(cores)] for k in range(2)]
        threads = [threading.Thread(target=run_demo, args=part) for part in zip(sides, own, found)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if not all(found):
            raise SystemExit("a quickstart has failed; its last lines above say why")
        for name, f in zip(("before", "now"), found):
            print(f"{name:7} {f['cpu']:6.1f} s of the processor, {f['wall']:6.1f} s; longest cells: {f['cells']}")
        cpu, wall = (found[1][k] / found[0][k] for k in ("cpu", "wall"))
        print(f"now / before: {cpu:.2f} in processor time, {wall:.2f} on the clock")


if __name__ == "__main__":
    main(*sys.argv[1:])
