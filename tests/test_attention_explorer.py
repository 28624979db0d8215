"The attention explorer, driven from the kernel, and its exported page, opened in a browser without a network."

import base64
import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
from helpers import QUICK, same
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.inside.concept_maps import ConceptMaps
from omnipersona.inside.reading import first_view, named_tokens, patch_reads, place_words, what_you_see
from omnipersona.widgets.attention_explorer import AttentionExplorer, recorded
from omnipersona.widgets.attention_page import export_maps
from omnipersona.widgets.latency import BROWSER_ARGS, find_browser
from omnipersona.widgets.packed_maps import fitted, panel, restored

EVIL = "<img src=x onerror=alert(1)>"
ASK = "a photo of <maeve>"


def random_maps(steps=3, layers=2, heads=2, side=8, seed=0, name="<maeve>", rollout=True):
    r = np.random.default_rng(seed)
    w = r.random((steps, layers, heads, 33, side, side), np.float32) ** 4 * 0.03
    labels = [name] + [f"und {i + 1}" for i in range(16)] + [f"gen {i + 1}" for i in range(16)]
    groups, times = ["name"] + ["und"] * 16 + ["gen"] * 16, [1 - i / steps for i in range(steps)]
    rolled = w.mean((1, 2)) if rollout else None
    return ConceptMaps(w, labels, groups, times, Image.new("RGB", (64, 64), "teal"), rollout=rolled)


@pytest.fixture
def results(bb, concept):
    "Decoupled and coupled, of one noise."
    embeddings = concept.embeddings.detach()
    concepts = {k: Concept(bb, "maeve", embeddings, routing=k) for k in ("decoupled", "coupled")}
    return recorded({k: (Persona(bb, c), ASK) for k, c in concepts.items()}, seed=3, sampling=QUICK)


def shown(x):
    return [i.value for i in (*x.images, *x.bars)]


def test_every_control_answers_from_the_recording(results, bb):
    "Each change changes what is shown; nothing is generated; going back shows the first again."
    calls = []
    x = AttentionExplorer(results)
    first = shown(x)
    assert len(first) == 4 and all(p.startswith("<svg ") for p in first)
    hook = bb.model.register_forward_pre_hook(lambda *_: calls.append(1))
    changes = [(x.token, 0), (x.token, "und"), (x.how, "max"), (x.how, "rollout"), (x.step, 2), (x.layer, 1)]
    try:
        for control, value in [*changes, (x.head, 3), (x.opacity, 0.2), (x.row, 0), (x.col, 7)]:
            old, before = control.value, shown(x)
            control.value = value
            assert shown(x)[0] != before[0] and shown(x)[1] != before[1], (control.description, value)
            control.value = old
            assert shown(x) == before
    finally:
        hook.remove()
    assert not calls and shown(x) == first
    x.layer.value, x.head.value, x.step.value, x.token.value = 1, 2, 0, 20
    m, patch = results["coupled"], (x.row.value, x.col.value)
    map2d = m.map(20, 0, 1, 2)
    assert f">{map2d.min():.1%}<" in x.images[1].value and f">{map2d.max():.1%}<" in x.images[1].value
    said = what_you_see(m, 20, patch, step=0, layer=1, head=2)
    assert html.escape(said) in x.notes[1].value and said != what_you_see(results["decoupled"], 20, patch, step=0)


def test_the_pictures_are_those_that_would_be_drawn_anyway(results, bb, concept):
    assert same(results["decoupled"].picture, Persona(bb, concept).generate(ASK, 3, QUICK).image)


def test_patches(results):
    m = results["decoupled"]
    r = patch_reads(m, 2, 5)
    assert np.allclose(r, m.weights[..., 2, 5].mean((0, 1, 2))) and np.allclose(r, [m.map(i)[2, 5] for i in range(33)])
    assert np.allclose(patch_reads(m, 2, 5, 1, 0, 3, "max"), m.weights[1, 0, 3, :, 2, 5])
    assert np.allclose(patch_reads(m, 0, 0, how="rollout"), m.rollout[..., 0, 0].mean(0))
    for bad in ((8, 0), (0, -1)):
        with pytest.raises(OmniError, match="8 x 8 patches"):
            patch_reads(m, *bad)
    with pytest.raises(OmniError, match="all layers"):
        patch_reads(m, 0, 0, layer=0, how="rollout")


def test_rollout_has_no_layers_and_may_be_missing(results):
    x = AttentionExplorer(results)
    x.layer.value = 1
    x.how.value = "rollout"
    assert x.layer.disabled and x.head.disabled and x.chosen["layer"] is None
    x.how.value = "mean"
    assert not x.layer.disabled and x.chosen["layer"] == 1
    assert "rollout" not in AttentionExplorer(random_maps(rollout=False)).how.options


def test_refusals():
    with pytest.raises(OmniError, match="nothing to show"):
        AttentionExplorer({})
    with pytest.raises(OmniError, match="record them alike"):
        AttentionExplorer({"a": random_maps(), "b": random_maps(steps=2)})


def test_names_are_text_everywhere(tmp_path):
    x = AttentionExplorer({EVIL: random_maps(name=EVIL)})
    x.token.value = 0

    def values(w):
        own = [w.value] if isinstance(getattr(w, "value", None), str) else []
        return sum((values(c) for c in getattr(w, "children", ())), own)

    for h in [x.static().data, x.export_html(tmp_path / "a.html").read_text(), *values(x.widget)]:
        assert "<img src=x" not in h
    assert "&lt;img src=x" in x.static().data and len(values(x.widget)) > 5
    data = json.loads(re.search(r'id="data">(.*?)</script>', (tmp_path / "a.html").read_text(), re.S)[1])
    assert data["panels"][0]["labels"][0] == data["panels"][0]["title"] == EVIL


def test_a_page_is_self_contained(results, tmp_path):
    text = AttentionExplorer(results).export_html(tmp_path / "a.html").read_text()
    assert not re.search(r"https?:|<[a-z]+[^<>]*\b(src|href)=|@import|fetch\(|XMLHttp|import\(", text)
    assert len(text) < 1_500_000 and "Weights in 8 bits" in text
    assert AttentionExplorer(results).static().data.count("data:image/svg+xml") == 4


def test_eight_bits_are_near(results, tmp_path):
    "What the page holds, put together again, is the recording to within a step of eight bits."
    m = results["decoupled"]
    p = panel("x", m, 10**6)
    q = np.frombuffer(base64.b64decode(p["q"]), np.uint8).reshape(*p["shape"][:4], -1)
    w = m.weights.reshape(*m.weights.shape[:4], -1)
    assert p["shape"] == list(m.weights.shape) and p["said"] == ""
    assert (np.abs(restored(q, p["top"]) - w) <= np.array(p["top"])[:, None] / 255 + 1e-6).all()
    assert same(Image.open(io.BytesIO(base64.b64decode(p["picture"].split(",")[1]))), m.picture)


@pytest.mark.parametrize("shape", [(24, 5, 4, 8), (20, 12, 1, 40), (2, 3, 12, 64)])
def test_large_maps_are_thinned_and_the_page_says_so(shape, tmp_path):
    steps, layers, _, side = shape
    m = random_maps(*shape)
    f = export_maps(tmp_path / "a.html", "large", {"a": m, "b": m})
    text = f.read_text()
    assert f.stat().st_size <= 1_500_000
    said = panel("x", m, 400_000)["said"]
    for n, k in ((steps, "steps"), (layers, "layers")):
        if n > 8:
            assert re.search(rf"\d of {n} {k}", said)
    pooled = f"16 x 16 of {side} x {side} patches"
    assert (pooled in said) == (side > 16) == (pooled in text)
    w, kept, _ = fitted(m, 400_000)
    assert kept[0][-1] == steps - 1 and w.size + len(kept[0]) * len(kept[3]) * w.shape[-1] ** 2 <= 400_000
    with pytest.raises(OmniError, match="too small"):
        fitted(m, 100)


# ---- in a browser ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright").sync_playwright
    path = find_browser()
    if not path:
        pytest.skip("needs a Chromium")
    with sync() as p:
        b = p.chromium.launch(executable_path=path, args=BROWSER_ARGS)
        yield b
        b.close()


PUT = """([id, value]) => {
  const control = document.getElementById(id);
  control.value = value;
  control.dispatchEvent(new Event('input'));
}"""
SEEN = """[...document.querySelectorAll('canvas')].map(c => c.toDataURL()).concat(
  [...document.querySelectorAll('.bars')].map(b => [...b.children].map(x => x.firstChild.style.height).join()))"""
# the maps, then the bars
CHANGES = [  # control, another value, the value that it has at first
    ("token", 0, -3),
    ("how", "max", "mean"),
    ("how", "rollout", "mean"),
    ("step", 1, -1),
    ("layer", 0, -1),
    ("head", 1, -1),
    ("opacity", 10, 60),
    ("row", 3, 0),
    ("col", 3, 0),
]


def unpacked(page, maps):
    "The maps as the page holds them, in eight bits."
    p = panel("x", maps, 10**6)
    levels = np.frombuffer(base64.b64decode(p["q"]), np.uint8).reshape(*p["shape"][:4], -1)
    rolled = np.frombuffer(base64.b64decode(p["roll"]), np.uint8).reshape(p["shape"][0], 33, -1)
    return replace(
        maps,
        weights=restored(levels, p["top"]).reshape(p["shape"]),
        rollout=restored(rolled, p["rolltop"]).reshape(p["shape"][0], *p["shape"][3:]),
    )


def test_the_page_in_a_browser(browser, tmp_path):
    """Offline: sliders change pixels, hovering picks a patch, and the numbers are those of the recording.

    Names are text, nothing is asked of a network, and the console is clean."""
    a, b = random_maps(name=EVIL), random_maps(name=EVIL, seed=1)
    f = export_maps(tmp_path / "a.html", EVIL, {EVIL: a, "b": b})
    context = browser.new_context(offline=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("dialog", lambda d: (said.append("dialog"), d.dismiss()))
    page.on("request", lambda r: asked.append(r.url))
    page.goto(f.as_uri())
    page.wait_for_function("+document.body.dataset.draws>=2")

    def pixels():
        return page.evaluate(SEEN)

    def put(control, value):
        page.evaluate(PUT, [control, str(value)])

    first = pixels()
    assert len(set(first)) == 4
    page.locator("#stops button").nth(0).click()
    put("row", 0)
    put("col", 0)
    first = pixels()
    for control, value, back in CHANGES:
        put(control, value)
        now = pixels()
        assert now[0] != first[0] and now[1] != first[1], (control, value)
        put(control, back)
        assert pixels() == first
    box = page.locator("canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 5.5 / 8, box["y"] + box["height"] * 2.5 / 8)
    kept = unpacked(page, a)
    assert page.locator(".note").first.inner_text() == what_you_see(kept, "gen", (2, 5))
    put("layer", 1)
    m = np.array(page.evaluate("Array.from(mapOf(panels[0]))")).reshape(8, 8)
    assert np.allclose(m, a.map("gen", layer=1), atol=16 * 0.03 / 255)
    assert page.title() == EVIL and EVIL in page.locator("#token").inner_text()
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert not said and all(u.startswith(("file:", "data:")) for u in asked)
    context.close()


def test_4096_patches_in_a_browser(browser, tmp_path):
    m = random_maps(6, 4, 2, 64)
    f = export_maps(tmp_path / "a.html", "large", {"a": m, "b": m})
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(f.as_uri())
    page.wait_for_function("+document.body.dataset.draws>=2")
    assert "16 x 16 of 64 x 64 patches" in page.locator("#said").inner_text()
    context.close()


def test_the_page_says_what_is_seen_and_lets_choose(browser, tmp_path):
    "The sentence of the page is that of the library; bars, stops and play choose; a click holds the choice."
    a = random_maps(steps=4)
    a.request = "a photo of <maeve> at the beach"
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(export_maps(tmp_path / "a.html", "one", {"one": a}).as_uri())
    page.wait_for_function("+document.body.dataset.draws>0")
    kept, note = unpacked(page, a), page.locator(".note")
    assert a.request in page.locator(".panel").inner_text()
    for how, step, layer, head in (("mean", 2, -1, -1), ("max", -1, 1, 0), ("rollout", 3, -1, -1), ("mean", 0, 0, 1)):
        for k, v in (("how", how), ("step", step), ("layer", layer), ("head", head), ("row", 6), ("col", 1)):
            page.evaluate(PUT, [k, str(v)])
        chosen = {k: None if v < 0 else v for k, v in (("step", step), ("layer", layer), ("head", head))}
        assert note.inner_text() == what_you_see(kept, "gen", (6, 1), how=how, **chosen)
    page.evaluate(PUT, ["how", "mean"])
    page.locator(".bars button").nth(25).hover()
    assert page.locator("#token").input_value() == "25" and "The map is of gen token 9:" in note.inner_text()
    box = page.locator("canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 0.5 / 8)
    page.mouse.move(box["x"] + box["width"] * 7.5 / 8, box["y"] + box["height"] * 7.5 / 8)
    assert "(row 0, column 3) reads" in note.inner_text()
    for i, stop in enumerate(first_view(kept)):
        page.locator("#stops button").nth(i).click()
        assert page.locator("#stop-text").inner_text() == f"{i + 1}. {stop.title}. {stop.text}"
    page.locator("#play").click()
    seen = set()
    for _ in range(60):
        seen.add(page.locator("#step").input_value())
        if len(seen) == 4:
            break
        page.wait_for_timeout(50)
    assert seen == set("0123")
    context.close()


# ---- what you see -------------------------------------------------------------------------------------------------
def test_the_sentence_is_true_of_the_maps(results):
    "Every claim of the sentence, recomputed from the weights in another way."
    m = results["decoupled"]
    for step, patch in ((None, (0, 0)), (2, (4, 7)), (3, (7, 2))):
        said = what_you_see(m, "gen", patch, step=step)
        part = m.weights if step is None else m.weights[step : step + 1]
        reads = part[..., patch[0], patch[1]].mean((0, 1, 2))
        first, second = np.argsort(-reads)[:2]
        assert f"reads {named_tokens([m.labels[first], m.labels[second]])} most: {reads[first]:.1%}" in said
        gen = part[:, :, :, 17:].sum(3).mean((0, 1, 2))
        row, col = np.unravel_index(gen.argmax(), gen.shape)
        assert f"(row {row}, column {col}) reads most, {gen.max():.1%}; the mean patch {gen.mean():.1%}" in said
        assert said.startswith("On average over 4 steps" if step is None else f"At step {step + 1} of 4")
    everywhere = {
        "the whole picture": np.ones((64, 64), bool),
        "the ear": np.pad([[True] * 16] * 8, ((0, 56), (48, 0))),
    }
    assert "the patch on the ear (row 0, column 7) reads" in what_you_see(m, None, (0, 7), everywhere)
    assert "the patch on the whole picture (row 5, column 5)" in what_you_see(m, None, (5, 5), everywhere)


def test_places_and_tokens_in_words():
    assert place_words(0, 0, (8, 8)) == "at the top left" and place_words(4, 4, (8, 8)) == "in the centre"
    assert named_tokens(["und 2", "gen 2"]) == "und token 2 and gen token 2"
    assert named_tokens(["gen 3", "gen 11"]) == "gen tokens 3 and 11"


def test_the_first_view_is_true_of_the_maps_and_sets_the_controls(results):
    m = results["decoupled"]
    x = AttentionExplorer(m)
    assert len(x.stops) == len(x.stop_buttons) == 4
    gen = m.map("gen")
    for i, button in enumerate(x.stop_buttons):
        button.click()
        assert gen[x.row.value, x.col.value] == gen.max() and html.escape(x.stops[i].text) in x.stop_text.value
    x.stop_buttons[2].click()
    reads = patch_reads(m, x.row.value, x.col.value)
    assert x.token.value == reads.argmax() and f"{m.map(x.token.value).max():.1%}" in x.stops[2].text
    x.stop_buttons[3].click()
    assert x.step.value == 3 and f"{m.map('gen', 0).mean():.1%}" in x.stops[3].text


def test_pointing_and_playing(results):
    "What the browser reports of the mouse chooses a patch or a token, for all recordings; play goes through the steps."
    x = AttentionExplorer(results)
    x.columns[1].map._chosen(1, 6)
    assert (x.row.value, x.col.value) == (1, 6) and all("(row 1, column 6) reads" in n.value for n in x.notes)
    x.columns[0].bars._chosen(0, 30)
    assert x.token.value == 30 and all("The map is of gen token 14:" in n.value for n in x.notes)
    steps = []
    for i in range(1, 5):
        x.controls.play.value = i
        steps.append(x.step.value)
    assert steps[-3:] == [1, 2, 3] and "At step 4 of 4" in x.notes[0].value
    assert all(ASK.replace("<", "&lt;").replace(">", "&gt;") in c.head for c in x.columns)


def test_without_anywidget_the_same_figures_are_shown(results, monkeypatch):
    from omnipersona.widgets import live_figure

    with_it = shown(AttentionExplorer(results))
    monkeypatch.setattr(live_figure, "_live_class", lambda: None)
    x = AttentionExplorer(results)
    assert shown(x) == with_it and not x.images[0].live
    x.row.value = 0
    assert shown(x) != with_it
