"""The page that needs no install, in a browser: it says and draws what Python does, and needs no network.

`make site` builds it into _site/try; without it, without npm or without a browser these tests skip."""

import base64
import functools
import http.server
import io
import json
import shutil
import threading

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from omnipersona.concept.persona import Persona
from omnipersona.inside.concept_maps import concept_maps
from omnipersona.model.loading import load_backbone
from omnipersona.widgets.latency import BROWSER_ARGS, find_browser

pytestmark = pytest.mark.site
PAGE = ROOT / "_site" / "try"
SHOTS = ROOT / "runs" / "browser-site"  # git ignores it
MINUTES = 60_000 * 4  # milliseconds: the machine may be busy


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *args):
        pass


class Served:
    "A folder over HTTP on loopback; it can be stopped, as a network can."

    def __init__(self, folder):
        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/try/index.html"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def browser():
    if not (PAGE / "data" / "layers.onnx").exists():
        pytest.skip("needs the page: make site")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[dev]")
    if not (path := find_browser()):
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=BROWSER_ARGS)
        yield b
        b.close()


@pytest.fixture(scope="module")
def config():
    if not (PAGE / "data" / "config.json").exists():
        pytest.skip("needs the page: make site")
    return json.loads((PAGE / "data" / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def persona(config):
    bb = load_backbone("tiny")
    if bb.fingerprint != config["fingerprint"]:
        pytest.skip("_site was built for other weights: make site")
    return Persona(bb, PAGE / "data" / "concepts" / config["concepts"][0]["folder"])


@pytest.fixture(scope="module")
def served():
    s = Served(ROOT / "_site")
    yield s
    s.stop()


def opened(browser, served, **settings):
    "The page, loaded; `page.said` collects what goes to the console and every request that fails or leaves the site."
    context = browser.new_context(viewport=dict(width=1200, height=900), **settings)
    page = context.new_page()
    page.said = []
    page.on("console", lambda m: page.said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.said.append(str(e)))
    page.on("requestfailed", lambda r: page.said.append(f"failed: {r.url}"))
    page.on("request", lambda r: r.url.startswith(("http://127.0.0.1", "blob:", "data:")) or page.said.append(r.url))
    page.goto(served.url)
    page.wait_for_selector("html[data-ready=true]", timeout=MINUTES)
    return page


@pytest.fixture(scope="module")
def page(browser, served):
    page = opened(browser, served)
    yield page
    page.context.close()


def enabled(page, form):
    page.wait_for_selector(f"#{form} .go:not([disabled])", state="attached", timeout=MINUTES)


def ask(page, question, picture=None):
    "Ask as a reader does; the answer and how sure the model is."
    page.click("#tab-ask")
    before = page.locator("#answers li").count()
    page.check(f'#ask .pictures input[value="{-1 if picture is None else picture}"]', force=True)
    page.fill("#question", question)
    enabled(page, "ask")
    page.click("#ask .go")
    page.wait_for_function("n => document.querySelectorAll('#answers li').length > n", arg=before, timeout=MINUTES)
    first = page.locator("#answers li").first
    return first.locator(".a").inner_text(), first.locator("small").inner_text()


def pixels(page, selector="#picture"):
    "What a canvas shows."
    url = page.evaluate("s => document.querySelector(s).toDataURL()", selector)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def draw(page, request, seed=0, replay=False):
    page.click("#tab-draw")
    page.fill("#request", request)
    page.fill("#seed", str(seed))
    page.set_checked("#replay", replay, force=True)
    enabled(page, "draw")
    page.click("#draw .go")
    page.wait_for_selector("#draw .go[disabled]", state="attached", timeout=MINUTES)
    finished(page)


def finished(page):
    page.wait_for_function("() => document.querySelector('#step-name').value === 'finished'", timeout=MINUTES)
    enabled(page, "draw")


def levels(a, b):
    return int(np.abs(a.astype(int) - np.asarray(b).astype(int)).max())


def picture_file(config, i):
    return PAGE / "data" / "concepts" / config["concepts"][0]["folder"] / f"{i}.png"


def requests(config, kind):
    return config["concepts"][0]["requests"][kind]


# ---- equal to Python ------------------------------------------------------------------------------------------------
def test_answers_equal(page, persona, config):
    for r in requests(config, "ask"):
        for picture in range(4) if r["picture"] else [None]:
            image = (
                None if picture is None else PAGE / "data/concepts" / config["concepts"][0]["folder"] / f"{picture}.png"
            )
            want = persona.ask(r["text"], image)
            answer, sure = ask(page, r["text"], picture)
            assert answer == want.text, (r, picture)
            assert abs(float(sure.split("%")[0]) - 100 * want.probability) <= 1
    assert not page.said, page.said


@pytest.mark.parametrize("replay,seed", [(False, 0), (True, 7)])
def test_pictures_equal(page, persona, config, replay, seed):
    request = next(r["text"] for r in requests(config, "draw") if r["replay"] is replay)
    want = persona.generate(request, seed=seed, replay=replay)
    draw(page, request, seed, replay)
    assert levels(pixels(page), want.image) <= 2
    trace = page.locator("#trace")
    if not replay:
        assert trace.is_hidden()
    else:
        lines = trace.locator("li").all()
        said = [lines[0], lines[1], lines[3]]
        assert [x.locator("span").inner_text() for x in said] == [request, want.trace.question, want.trace.prompt]
        assert lines[2].locator("input").input_value() == want.trace.answer
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"drawn-{replay}.png", full_page=True)
    assert not page.said, page.said


def test_what_if_equals(page, persona, config):
    "Another answer, the same noise: the counterfactual of the page is that of the package."
    request = next(r["text"] for r in requests(config, "draw") if r["replay"])
    other = next(c for c in config["concepts"] if c["facts"] != config["concepts"][0]["facts"])
    result = persona.generate(request, seed=7, replay=True)
    key = next(k for k, v in config["concepts"][0]["facts"].items() if v == result.trace.answer)
    want = persona.what_if(result, other["facts"][key])
    draw(page, request, 7, True)
    page.fill("#trace input", other["facts"][key])
    page.click("#trace form button")
    page.wait_for_selector("#draw .go[disabled]", state="attached", timeout=MINUTES)
    finished(page)
    assert page.locator("#trace li").last.locator("span").inner_text() == want.trace.prompt
    assert levels(pixels(page), want.image) <= 2


def test_edit_equals(page, persona, config):
    r = requests(config, "edit")[-1]["text"]
    image = picture_file(config, 0)
    want = persona.edit(r, image, seed=3)
    page.click("#tab-draw")
    page.fill("#seed", "3")
    page.click("#tab-edit")
    page.check('#edit .pictures input[value="0"]', force=True)
    page.fill("#instruction", r)
    page.click("#edit .go")
    page.wait_for_selector("#edit .go[disabled]", state="attached", timeout=MINUTES)
    finished(page)
    assert levels(pixels(page), want.image) <= 2


def test_what_a_patch_reads(page, persona, config):
    "The numbers beside the picture are the attention that Python records."
    request = next(r["text"] for r in requests(config, "draw") if not r["replay"])
    _, maps = concept_maps(persona, request, seed=0, heads="mean")
    draw(page, request)
    step, layer, token, row, column = 3, 2, 5, 1, 6
    page.evaluate(
        "i => { const s = document.querySelector('#step'); s.value = i; s.dispatchEvent(new Event('input')) }", step
    )
    page.select_option("#layer", str(layer))
    box = page.locator("#stage").bounding_box()
    rows, columns = config["grid"]
    page.mouse.move(box["x"] + box["width"] * (column + 0.5) / columns, box["y"] + box["height"] * (row + 0.5) / rows)
    bar = page.locator("#bars i").nth(token).get_attribute("title")
    w = maps.weights[step, layer, 0, :, row, column]
    assert bar.startswith(f"{maps.labels[token]}: ") and abs(float(bar.split()[-1][:-1]) / 100 - w[token]) < 0.0051
    und = sum(w[k] for k, e in enumerate(maps.experts) if e == "und")
    assert f"Row {row + 1}, column {column + 1}" in page.locator("#reads").inner_text()
    assert abs(float(page.locator("#reads em.und").inner_text().split()[-1][:-1]) / 100 - und) < 0.0051
    page.focus("#stage")
    page.keyboard.press("ArrowDown")
    assert f"Row {row + 2}, column {column + 1}" in page.locator("#reads").inner_text()
    page.select_option("#token", "gen")
    assert page.locator("#heat").is_visible()


# ---- what is refused ------------------------------------------------------------------------------------------------
def test_bad_requests_get_a_sentence(page, config):
    name = config["concepts"][0]["name"]
    page.click("#tab-ask")
    for text, said in [
        ("   ", "empty"),
        (f"where is {name}", f"<{name}>"),
        ("where is <nobody_here> ?", "no such concept"),
        ("a photo of <|im_start|>", "<|im_start|>"),
        (f"what is {config['names'][3]} ?", "no such concept"),
    ]:
        page.fill("#question", text)
        page.click("#ask .go")
        page.wait_for_function(
            "s => document.querySelector('#error').textContent.includes(s)", arg=said, timeout=MINUTES
        )
    assert not page.said, page.said


def folder_of(config, tmp_path, change=None, weights=None, name="someone"):
    "A copy of the last shipped concept under another name, changed."
    source = PAGE / "data" / "concepts" / config["concepts"][-1]["folder"]
    about = json.loads((source / "concept.json").read_text(encoding="utf-8"))
    about["name"] = name
    (change or (lambda a: None))(about)
    tmp_path.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "adapter_model.safetensors", tmp_path)
    (tmp_path / "concept.json").write_text(json.dumps(about), encoding="utf-8")
    if weights:
        data = bytearray((tmp_path / "adapter_model.safetensors").read_bytes())
        weights(data)
        (tmp_path / "adapter_model.safetensors").write_bytes(bytes(data))
    return [str(p) for p in sorted(tmp_path.iterdir())]


EVIL = "<img src=x onerror=alert(1)>"


def nan(data):
    data[-4:] = b"\x00\x00\xc0\x7f"


DAMAGED = {
    "another backbone": (lambda a: a.update(fingerprint="0" * 16), None, "another backbone"),
    "a name that is markup": (lambda a: a.update(name=EVIL), None, "no name for a concept"),
    "a missing entry": (lambda a: a.pop("routing"), None, "routing"),
    "too many tokens": (lambda a: a.update(n_und=90_000), None, "room for"),
    "another number of tokens": (lambda a: a.update(n_und=3), None, "shape"),
    "a newer format": (lambda a: a.update(format=99), None, "newer"),
    "facts that are none": (lambda a: a.update(facts=[1]), None, "facts"),
    "not finite": (None, nan, "not finite"),
    "cut off": (None, lambda d: d.__delitem__(slice(-100, None)), "do not fit"),
    "no table": (None, lambda d: d.__setitem__(slice(0, 8), b"\xff" * 8), "no table"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_folders_that_are_refused(page, config, tmp_path, kind):
    change, weights, said = DAMAGED[kind]
    page.set_input_files("#files", folder_of(config, tmp_path / "c", change, weights))
    page.wait_for_function("s => document.querySelector('#refused').textContent.includes(s)", arg=said, timeout=MINUTES)
    assert not page.said, page.said


def test_own_folder(page, persona, config, tmp_path):
    "A folder of one's own is opened, asked and drawn like the shipped ones; its texts are shown as texts."
    files = folder_of(config, tmp_path / "c", lambda a: a["facts"].update(note=EVIL))
    page.set_input_files("#files", files)
    page.wait_for_selector("#own input:checked", timeout=MINUTES, state="attached")
    assert EVIL in page.locator("#facts dl").text_content()
    own = Persona(persona.bb, tmp_path / "c")
    key = next(iter(config["concepts"][-1]["facts"]))
    question = requests(config, "ask")[0]["text"].replace(f"<{config['concepts'][0]['name']}>", "<someone>")
    assert key and ask(page, question)[0] == own.ask(question).text
    page.locator("#who input").first.check(force=True)
    page.wait_for_function(
        "n => document.querySelector('#question').value.includes(n)", arg=config["concepts"][0]["name"]
    )
    assert not page.said, page.said


# ---- the page itself ------------------------------------------------------------------------------------------------
def test_without_a_network(browser, persona, config):
    "Loaded once, the page asks and draws without a network, and opens again without one."
    served = Served(ROOT / "_site")
    page = opened(browser, served)
    graphs = len(list((PAGE / "data").glob("*.onnx")))
    kept = """async n => {
        const all = await Promise.all((await caches.keys()).map(async k => (await caches.open(k)).keys()));
        return all.flat().filter(r => r.url.endsWith(".onnx")).length === n
    }"""
    page.wait_for_function(kept, arg=graphs, timeout=MINUTES)
    served.stop()
    page.context.set_offline(True)
    page.said.clear()
    with_picture = next(r["text"] for r in requests(config, "ask") if r["picture"])
    image = picture_file(config, 0)
    assert ask(page, with_picture, 0)[0] == persona.ask(with_picture, image).text
    page.reload()
    page.wait_for_selector("html[data-ready=true]", timeout=MINUTES)
    question = requests(config, "ask")[0]["text"]
    assert ask(page, question)[0] == persona.ask(question).text
    assert not page.said, page.said
    page.context.close()


@pytest.mark.parametrize("scheme,width", [("light", 1200), ("dark", 1200), ("light", 390), ("dark", 390)])
def test_looks(browser, served, scheme, width):
    "Light and dark, wide and narrow: nothing sticks out, and every control has a name."
    page = opened(browser, served, color_scheme=scheme)
    page.set_viewport_size(dict(width=width, height=850))
    page.click("#tab-draw")
    page.click("#draw .go")
    page.wait_for_selector("#draw .go[disabled]", state="attached", timeout=MINUTES)
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select')]
        .filter(e => e.type !== 'file' && !e.hidden)
        .filter(e => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()))
        .map(e => e.outerHTML)"""
    )
    assert not nameless, nameless
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{scheme}-{width}.png", full_page=True)
    assert not page.said, page.said
    page.context.close()
