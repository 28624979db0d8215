"""Every assignment (as a student gets it) and every tutorial, opened in JupyterLab and run from top to bottom.

It takes long, so `make test` leaves it out: `make test-classroom` runs it (CASES='A5 03' some of it)."""

import os
import re
import subprocess
import sys
import time

import course
import nbformat
import pytest
from conftest import ROOT, shipped
from test_browser import SERVER_ARGS, answers, free_port

from omnipersona.widgets.latency import BROWSER_ARGS, find_browser

pytestmark = pytest.mark.classroom
SHOTS = ROOT / "runs" / "classroom"  # git ignores it
TUTORIALS = (
    "01_quickstart",
    "02_unified_model",
    "03_rectified_flow",
    "04_concept_tokens",
    "05_replay",
    "06_editing",
    "07_looking_inside",
    "08_measuring",
    "09_bagel_on_colab",
    "10_several_concepts",
    "studio",
)
MINUTES = 25  # for one notebook, on a busy machine


def notebooks():
    "{name: notebook as it is opened}."
    found = {}
    for nb in course.masters():
        make = dict(code=nbformat.v4.new_code_cell, markdown=nbformat.v4.new_markdown_cell)
        cells = [make[kind](source) for kind, source in course.student_version(nb)]
        kernel = dict(kernelspec=dict(name="python3", display_name="python3"))
        found[nb.stem] = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    for name in TUTORIALS:
        if (path := ROOT / "nbs" / "tutorials" / f"{name}.ipynb").exists():
            found[name] = nbformat.read(path, 4)
    wanted = os.environ.get("CASES", "").split()
    return {k: nb for k, nb in found.items() if not wanted or any(k.startswith(w) for w in wanted)}


ALL = notebooks()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab on loopback with all these notebooks, without outputs, and settings of its own: (address, folder)."
    shipped("tiny")
    pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install -e .[dev]")
    home, port = tmp_path_factory.mktemp("classroom"), free_port()
    work = home / "work"
    work.mkdir()
    for name, nb in ALL.items():
        for c in nb.cells:
            if c.cell_type == "code":
                c.outputs, c.execution_count = [], None
        nbformat.write(nb, work / f"{name}.ipynb")
    if (concepts := ROOT / "nbs" / "tutorials" / "concepts").exists():
        (work / "concepts").symlink_to(concepts)
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IN_TEST"))}
    places = dict(JUPYTER_CONFIG_DIR="config", JUPYTER_RUNTIME_DIR="runtime", IPYTHONDIR="ipython")
    places |= dict(JUPYTERLAB_SETTINGS_DIR="settings", JUPYTERLAB_WORKSPACES_DIR="workspaces")
    env |= {k: str(home / v) for k, v in places.items()}
    env |= dict(OMP_NUM_THREADS="1", OMNIPERSONA_DEMO_DIR=str(work), PYTHONPATH=str(ROOT))  # reduced, as in CI
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.port={port}", *SERVER_ARGS]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, cwd=work, env=env, stdout=log, stderr=log)
    try:
        assert answers(f"http://127.0.0.1:{port}/api", 240), (home / "log").read_text()[-2000:]
        yield f"http://127.0.0.1:{port}", work
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[dev]")
    chromium = find_browser()
    if not chromium:
        pytest.skip("needs a browser. On Debian: apt-get install chromium")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        yield browser
        browser.close()


def menu(page, *names):
    "Click through the menu bar."
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{names[0]}$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{names[1]}$")).click()


def state(path):
    "(errors, code cells that have not run) of a notebook as it was saved."
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.source.strip()]
    errors = [
        f"{c.source[:60]!r}: {o.ename}: {o.evalue[:200]}" for c in cells for o in c.outputs if o.output_type == "error"
    ]
    return errors, sum(c.execution_count is None for c in cells)


def run_all(page, path):
    "Run all cells by the menu, save until all have run: the errors."
    menu(page, "Run", "Run All Cells")
    ends = time.monotonic() + 60 * MINUTES
    while time.monotonic() < ends:
        page.wait_for_timeout(4000)
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        errors, left = state(path)
        if errors or (not left and page.get_by_text("| Idle").count()):
            return errors
    return [f"{left} cells have not run after {MINUTES} minutes"]


@pytest.mark.parametrize("name", ALL)
def test_runs_in_jupyterlab_without_an_error(lab, browser, name):
    page = browser.new_page(viewport=dict(width=1200, height=1600))
    page.set_default_timeout(180_000)  # importing torch on a busy machine takes its time
    heard = []
    page.on("pageerror", lambda e: heard.append(str(e)))
    try:
        page.goto(f"{lab[0]}/lab/tree/{name}.ipynb?reset")  # without the tabs of the notebook before
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.get_by_text("| Idle").first.wait_for()
        assert run_all(page, lab[1] / f"{name}.ipynb") == []
        page.keyboard.press("Control+Home")
        page.screenshot(path=SHOTS / f"{name}.png")
        menu(page, "Kernel", "Shut Down Kernel")
    finally:
        page.screenshot(path=SHOTS / f"{name}-last.png")
        page.close()
    assert not heard, heard


def test_all_assignments_are_there():
    assert len(course.masters()) == 6
