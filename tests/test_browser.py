"""The studio and the explorers in JupyterLab, in a browser.

Every click goes the way a student's does, and every picture is read back from the page."""

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import nbformat
import numpy as np
import pytest
from conftest import ROOT, shipped
from PIL import Image

from omnipersona.widgets.latency import BROWSER_ARGS, find_browser

EVIL = "<img src=x onerror=alert(1)>"
SHOTS = ROOT / "runs" / "browser"  # git ignores it
NOTEBOOK = nbformat.read(ROOT / "nbs" / "tutorials" / "04_studio.ipynb", 4)
TUTORIAL = [c.source for c in NOTEBOOK.cells if c.cell_type == "code"][1:3]  # makes the studio, shows it
MORE = [
    """x = ReplayExplorer(studio.persona, "a photo of the toy of <pip>", sampling=SamplingConfig(2, 2., 1.))
x""",
    """print("reached", studio.concept.summary["steps"] == len(studio.concept.history))""",
    """what = {"as asked": (studio.persona, "a photo of <pip> at the moon")}
AttentionExplorer(recorded(what, sampling=SamplingConfig(4, 2., 1.)))""",
]
SHOW, REPLAY, PRINT, EXPLORE = 1, 2, 3, 4  # numbers of the cells


SERVER_ARGS = [
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port_retries=0",
    "--IdentityProvider.token=",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url, seconds=60):
    for _ in range(seconds * 4):
        try:
            return urllib.request.urlopen(url, timeout=5).status == 200
        except OSError:
            time.sleep(0.25)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab on loopback, with the tutorial's first cells and three more, and nobody's settings: (address, folder)."
    shipped("tiny")
    pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install -e .[dev]")
    home, port = tmp_path_factory.mktemp("lab"), free_port()
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in [*TUTORIAL, *MORE]],
        metadata=dict(kernelspec=dict(name="python3", display_name="python3")),
    )
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (home / "work").mkdir()
    nbformat.write(nb, home / "work" / "studio.ipynb")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IN_TEST"))}
    env |= dict(
        JUPYTER_CONFIG_DIR=str(home / "config"),
        JUPYTER_RUNTIME_DIR=str(home / "runtime"),
        IPYTHONDIR=str(home / "ipython"),
        JUPYTERLAB_SETTINGS_DIR=str(home / "settings"),
        JUPYTERLAB_WORKSPACES_DIR=str(home / "workspaces"),
        OMP_NUM_THREADS="1",
        OMNIPERSONA_DEMO_DIR=str(home / "work"),
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    )
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.port={port}", *SERVER_ARGS]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, cwd=home / "work", env=env, stdout=log, stderr=log)
    try:
        assert answers(f"http://127.0.0.1:{port}/api"), (home / "log").read_text()[-2000:]
        yield f"http://127.0.0.1:{port}", home / "work"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def page(lab):
    "The notebook, open; `page.heard` collects dialogs and what the browser complains of."
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[dev]")
    chromium = find_browser()
    if not chromium:
        pytest.skip("needs a browser. On Debian: apt-get install chromium")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        tall = dict(width=1200, height=2600)  # JupyterLab takes cells out of the page that are not in view
        page = browser.new_page(viewport=tall)
        page.set_default_timeout(90_000)  # importing torch on a busy machine takes its time
        page.heard = []
        page.on("pageerror", lambda e: page.heard.append(f"page error: {e}"))
        page.on(
            "console",
            lambda m: (
                page.heard.append(f"console: {m.text} {m.location.get('url', '')}") if m.type == "error" else None
            ),
        )
        page.on("dialog", lambda d: (page.heard.append(f"dialog: {d.message}"), d.dismiss()))
        page.goto(f"{lab[0]}/lab/tree/studio.ipynb")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.get_by_text("| Idle").first.wait_for()
        try:
            yield page
        finally:
            shot(page, "last")
            browser.close()


def run(page, n):
    "Shift+Enter in cell number n, once more where the kernel was not there yet."
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(n)
    for _ in range(10):
        cell.locator(".jp-InputArea-editor").click()
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(1500)
        if re.search(r"\[[*0-9]", cell.locator(".jp-InputPrompt").first.inner_text()):
            return


def shot(page, name):
    page.screenshot(path=SHOTS / f"{name}.png")


def button(page, name):
    return page.locator("button.jupyter-button", has_text=re.compile(f"^{name}$"))


def said(page, text):
    page.locator(".omni-said", has_text=text).first.wait_for()


def type_into(page, label, text, n=0):
    box = (
        page.locator(".widget-text", has=page.locator("label", has_text=re.compile(f"^{re.escape(label)}$")))
        .nth(n)
        .locator("input")
    )
    box.fill(text)
    box.press("Tab")


READ_PICTURE = """async image => {
  const content = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
  let text = "";
  for (const byte of content) text += String.fromCharCode(byte);
  return btoa(text);
}"""


def picture(locator):
    "The bytes of a picture on the page."
    locator.wait_for()
    return base64.b64decode(locator.evaluate(READ_PICTURE))


def changed(page, css, before, seconds=60):
    "The picture, as soon as it is another one."
    for _ in range(seconds * 5):
        if (now := picture(page.locator(css))) != before:
            return now
        page.wait_for_timeout(200)
    raise AssertionError(f"{css}: the picture did not change")


def test_a_design_is_drawn_and_checked(page):
    assert TUTORIAL[1] == "studio"
    run(page, 0)
    run(page, SHOW)
    button(page, "Train").wait_for()
    design = picture(page.locator(".omni-design"))
    page.locator(".widget-dropdown", has_text="species").locator("select").select_option("teapot")
    assert changed(page, ".omni-design", design)
    for n, fact in ((1, "a red kite"), (3, "a blue fish")):
        page.locator(".omni-facts input").nth(n).fill(fact)
    button(page, "Check").click()
    said(page, "10 pictures, 2 facts")
    assert Image.open(io.BytesIO(picture(page.locator(".omni-sheet")))).width > 900
    shot(page, "1-checked")


def test_training_is_seen_and_stop_stops_it(page):
    button(page, "recipe").click()
    type_into(page, "steps", "400")
    type_into(page, "preview every", "2")
    shot(page, "2-recipe")
    button(page, "recipe").click()
    button(page, "Train").click()
    said(page, "step ")
    assert button(page, "Train").is_disabled() and button(page, "Stop").is_enabled()
    first, losses = picture(page.locator(".omni-previews")), picture(page.locator(".omni-losses"))
    assert changed(page, ".omni-previews", first) and changed(page, ".omni-losses", losses)
    picture(page.locator(".omni-tokens"))
    shot(page, "3-training")
    button(page, "Stop").click()
    said(page, "what was learnt is kept")
    steps = int(
        re.search(r"stopped after (\d+) of 400", page.locator(".omni-said", has_text="stopped after").inner_text())[1]
    )
    assert 2 <= steps < 400 and button(page, "Train").is_enabled()
    shot(page, "4-stopped")


def test_save_download_and_load(page, lab):
    button(page, "Save").click()
    said(page, f"saved: {lab[1]}/concepts/pip")
    assert json.loads((lab[1] / "concepts" / "pip" / "concept.json").read_text())["facts"] == {
        "toy": "a red kite",
        "food": "a blue fish",
    }
    with page.expect_download() as d:
        page.locator("a.omni-download").click()
    assert d.value.suggested_filename == "pip.zip" and "pip/concept.json" in zipfile.ZipFile(d.value.path()).namelist()
    button(page, "Load").click()
    said(page, "loaded: Concept(<pip>")


def test_ask_draw_and_edit(page):
    button(page, "Ask").click()
    said(page, "probability")
    page.get_by_role("tab", name="Draw").click()
    button(page, "Draw").click()
    said(page, "drawn: a photo of <pip>")
    first = picture(page.locator(".omni-draw"))
    type_into(page, "request", "a photo of <pip> at the moon")
    button(page, "Draw").click()
    assert changed(page, ".omni-draw", first)
    page.get_by_role("tab", name="Edit").click()
    button(page, "Edit").click()
    said(page, "edited: ")
    assert picture(page.locator(".omni-edit")) != picture(page.locator(".omni-before"))
    shot(page, "5-tried")


def test_markup_in_a_name_is_text(page):
    type_into(page, "name", EVIL)
    button(page, "Train").click()
    said(page, EVIL)
    shot(page, "6-markup")
    page.get_by_role("tab", name="Draw").click()
    type_into(page, "request", f"a photo of {EVIL}")
    button(page, "Draw").click()
    said(page, f"{EVIL}: no such concept")
    assert not [h for h in page.heard if "dialog" in h] and not page.locator("img[src=x]").count()
    type_into(page, "name", "pip")


def bring(page, files, arrived):
    "Files through the button for pictures (not the one for zips), until it says how many are there."
    pictures = page.locator("button.omni-upload:visible")
    with page.expect_file_chooser() as chooser:
        pictures.filter(has_text="Upload (").first.click()
    chooser.value.set_files(files)
    pictures.filter(has_text=f"Upload ({arrived})").first.wait_for()


def test_a_wrong_file_is_named_and_pictures_are_taken(page):
    png = io.BytesIO()
    Image.new("RGB", (80, 80), "teal").save(png, "PNG")
    page.locator(".widget-toggle-buttons button", has_text="upload").click()
    bring(page, [dict(name="notes.png", mimeType="image/png", buffer=b"no picture at all")], 1)
    button(page, "Check").click()
    said(page, "notes.png: not an image")
    bring(page, [dict(name=f"{i}.png", mimeType="image/png", buffer=png.getvalue()) for i in range(2)], 2)
    button(page, "Check").click()
    said(page, "2 pictures")


def photograph(seed, width, kind):
    "Content of a file that no compression makes small."
    out, noise = io.BytesIO(), np.random.default_rng(seed).integers(0, 256, (width * 3 // 4, width, 3), np.uint8)
    Image.fromarray(noise).save(out, kind, **dict(quality=95) if kind == "JPEG" else {})
    return out.getvalue()


def test_many_large_photographs_arrive_in_one_go(page):
    "More than 20 MB at once: Jupyter's server takes messages of 10 MB. The next upload works, and adding to it."
    files = [dict(name=f"{i}.png", mimeType="image/png", buffer=photograph(i, 1600, "PNG")) for i in range(2)]
    files += [dict(name="wide.jpg", mimeType="image/jpeg", buffer=photograph(3, 3200, "JPEG"))]
    assert sum(len(f["buffer"]) for f in files) > 20e6
    page.locator("text=of any size; large photographs are made smaller").first.wait_for()
    bring(page, files, 3)
    button(page, "Check").click()
    said(page, "3 pictures")
    shot(page, "9-uploaded")
    bring(page, files[:1], 1)
    page.locator("label", has_text="add to those already here").locator("input").first.check()
    bring(page, files[1:], 3)
    button(page, "Check").click()
    said(page, "3 pictures")
    page.locator(".widget-toggle-buttons button", has_text="design").click()


def test_an_interrupt_keeps_what_was_learnt_too(page):
    before = picture(page.locator(".omni-losses"))
    button(page, "Train").click()
    said(page, "step ")
    changed(page, ".omni-losses", before)
    command = '[data-command="notebook:interrupt-kernel"]'
    toolbar = ".jp-NotebookPanel-toolbar"
    page.locator(f"{toolbar} {command}, {toolbar} jp-button{command}").first.click()
    said(page, "what was learnt is kept")
    run(page, PRINT)
    page.locator(".jp-OutputArea-output", has_text="reached True").wait_for()


def test_the_recalled_answer_is_edited_and_drawn_again(page):
    run(page, REPLAY)
    button(page, "Redraw").wait_for()
    out = page.locator(".jp-CodeCell").nth(REPLAY).locator(".widget-image")
    first = [picture(out.nth(i)) for i in range(3)]
    type_into(page, "A", "a blue drum")
    button(page, "Redraw").click()
    for _ in range(300):
        now = [picture(out.nth(i)) for i in range(3)]
        if now[1] != first[1] and now[2] != first[2]:
            break
        page.wait_for_timeout(200)
    assert now[0] == first[0] and now[1] != first[1] and now[2] != first[2]
    assert "a blue drum" in page.locator(".jp-CodeCell").nth(REPLAY).locator(".widget-text input").nth(3).input_value()
    shot(page, "7-replay")


def test_a_slider_changes_the_map(page):
    run(page, EXPLORE)
    cell = page.locator(".jp-CodeCell").nth(EXPLORE)
    panel = cell.locator(".widget-image").first

    def moves(act):
        before = picture(panel)
        act()
        for _ in range(100):
            if picture(panel) != before:
                return True
            page.wait_for_timeout(100)

    def press(label):
        cell.locator(".widget-slider", has_text=label).locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")

    for label in ("step", "layer", "head"):
        assert moves(lambda: press(label)), label
    assert moves(
        lambda: cell.locator(".widget-dropdown", has_text="token").locator("select").select_option("all und tokens")
    )
    shot(page, "8-attention")


ALLOWED = ["Failed to initialize model"]  # anywidget's two seconds on a busy machine: the plain button stays


def test_the_browser_has_no_complaints(page):
    assert not [h for h in page.heard if not any(re.search(a, h) for a in ALLOWED)], "\n".join(page.heard)
