"JupyterLab with a notebook, in a browser: what the browser tests share."

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import nbformat
import pytest
from conftest import ROOT

SHOTS = ROOT / "runs" / "browser"  # git ignores it
SERVER_ARGS = [
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port_retries=0",
    "--IdentityProvider.token=",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
    "--LabApp.expose_app_in_browser=True",
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


def environment(home):
    "Nobody's settings, and the package of this checkout."
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IN_TEST"))}
    folders = ["config", "runtime"]
    env |= {f"JUPYTER_{k.upper()}_DIR": str(home / k) for k in folders}
    return env | dict(
        IPYTHONDIR=str(home / "ipython"),
        JUPYTERLAB_SETTINGS_DIR=str(home / "settings"),
        JUPYTERLAB_WORKSPACES_DIR=str(home / "workspaces"),
        OMP_NUM_THREADS="1",
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    )


@contextmanager
def jupyterlab(home, cells, name="a.ipynb"):
    "JupyterLab on loopback, with a notebook of these cells: its address."
    pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install -e .[dev]")
    port = free_port()
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in cells],
        metadata=dict(kernelspec=dict(name="python3", display_name="python3")),
    )
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (home / "work").mkdir()
    nbformat.write(nb, home / "work" / name)
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.port={port}", *SERVER_ARGS]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, cwd=home / "work", env=environment(home), stdout=log, stderr=log)
    try:
        assert answers(f"http://127.0.0.1:{port}/api"), (home / "log").read_text()[-2000:]
        yield f"http://127.0.0.1:{port}/lab/tree/{name}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@contextmanager
def browser_page(address, width=1200, height=2600):  # JupyterLab takes cells out of the page that are not in view
    "The page at an address; `page.heard` collects dialogs and what the browser complains of."
    from omnipersona.widgets.latency import BROWSER_ARGS, find_browser

    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[dev]")
    chromium = find_browser()
    if not chromium:
        pytest.skip("needs a browser. On Debian: apt-get install chromium")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        page = browser.new_page(viewport=dict(width=width, height=height))
        page.set_default_timeout(300_000)  # importing torch on a busy machine takes its time
        page.heard = []

        def heard(m):
            if m.type == "error":
                page.heard.append(f"console: {m.text} {m.location.get('url', '')}")

        page.on("console", heard)
        page.on("pageerror", lambda e: page.heard.append(f"page error: {e}"))
        page.on("dialog", lambda d: (page.heard.append(f"dialog: {d.message}"), d.dismiss()))
        page.goto(address)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.get_by_text("| Idle").first.wait_for()
        try:
            yield page
        finally:
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


def theme(page, name):  # 'JupyterLab Light' or 'JupyterLab Dark'
    "Change the theme and wait until the page has it."
    page.evaluate("name => jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name)
    light = str(name.endswith("Light")).lower()
    page.locator(f"body[data-jp-theme-light={light}]").wait_for(state="attached")
    page.wait_for_timeout(1000)  # style sheets


FAINT_TEXT = """(root, least) => {
  const parts = c => (c.match(/[0-9.]+/g) || [0, 0, 0, 0]).map(Number);
  const over = (a, b) => { const t = a.length > 3 ? a[3] : 1; return [0, 1, 2].map(i => a[i] * t + b[i] * (1 - t)); };
  const light = c => c.map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    if (!e) return [255, 255, 255];
    const c = parts(getComputedStyle(e).backgroundColor);
    return (c.length < 4 || c[3] >= 1) ? c.slice(0, 3) : over(c, ground(e.parentElement));
  };
  const out = [];
  for (const e of root.querySelectorAll('*')) {
    const text = [...e.childNodes].filter(n => n.nodeType == 3).map(n => n.textContent.trim()).join('');
    if (!text || e.closest('[disabled]') || e.tagName == 'title' || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), behind = ground(e);
    if (style.visibility == 'hidden') continue;
    const a = light(over(parts(e.closest('svg') ? style.fill : style.color), behind)), b = light(behind);
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < least) out.push(`${contrast.toFixed(2)} ${e.tagName} ${text.slice(0, 40)}`);
  }
  return out;
}"""


def faint_text(locator, least=4.5):
    "Texts whose contrast with what is behind them is less (WCAG 2.1)."
    return locator.evaluate(f"(root, least) => ({FAINT_TEXT})(root, least)", least)
