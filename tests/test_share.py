"Shared pages: what they hold, what stays private, markup as text, sizes, a class's index, a browser offline."

import json
import re

import numpy as np
import pytest
from helpers import QUICK
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.inside.concept_maps import ConceptMaps, concept_maps
from omnipersona.widgets.share import HIDDEN, class_index, hide_facts, share_page

EVIL = "<img src=x onerror=alert(1)>"
FACTS = dict(toy="a pink ball", friend="Rex")


@pytest.fixture
def pip(bb):
    c = Concept(bb, "pip")
    c.facts = dict(FACTS)
    return c


@pytest.fixture
def drawings():
    r = np.random.default_rng(0)
    pictures = [Image.fromarray(r.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(2)]
    return list(zip(pictures, ("a photo of <pip> at the beach", "a photo of <pip> with the PINK BALL and rex")))


def random_maps(side=8, steps=4, request="a photo of <pip> with a pink ball", name="<pip>"):
    w = np.random.default_rng(0).random((steps, 3, 2, 33, side, side), np.float32) * 0.02
    labels = [name] + [f"und {i + 1}" for i in range(16)] + [f"gen {i + 1}" for i in range(16)]
    times = [1 - i / steps for i in range(steps)]
    picture = Image.new("RGB", (8 * side, 8 * side), "teal")
    return ConceptMaps(w, labels, ["name"] + ["und"] * 16 + ["gen"] * 16, times, picture, request=request)


def test_facts_and_pictures_are_on_the_page_only_if_the_student_says_so(pip, drawings, tmp_path):
    photos = [Image.new("RGB", (300, 200), c) for c in ("red", "green", "blue")]
    told = ["4 of 5 facts right: the toy is a pink ball"]
    f = share_page(tmp_path, pip, "Anna", drawings, told, maps={"with a pink ball": random_maps()})
    text = f.read_text()
    assert not re.search(r"pink|\brex\b|ball", text, re.I) and text.count(HIDDEN) >= 4
    assert text.count("<figure") == 2 and "4 of 5 facts right" in text and "By Anna" in text
    g = share_page(tmp_path, pip, "Anna", drawings, told, photos, facts=True)
    assert "a pink ball" in g.read_text() and "Rex" in g.read_text() and g.read_text().count("<figure") == 2 + 3


@pytest.mark.parametrize("value", ["", "a", "the beach (big)", "a.b"])
def test_hiding_takes_any_value(value):
    out = hide_facts(f"x {value} y", dict(toy=value))
    assert out == (f"x {HIDDEN} y" if value not in ("", "a") else out) and "x" in out and "y" in out


def test_two_students_pages_do_not_collide_and_one_page_twice_is_one_file(pip, drawings, tmp_path):
    a = share_page(tmp_path, pip, "Anna", drawings)
    assert share_page(tmp_path, pip, "Anna", drawings) == a
    others = [
        share_page(tmp_path, pip, "Anna", drawings[:1]),
        share_page(tmp_path, pip, "Bo", drawings),
        share_page(tmp_path, pip, "../../Bo", drawings),
    ]
    assert len({a, *others}) == 4 and all(
        p.parent == tmp_path and re.fullmatch(r"[a-z0-9-]+\.html", p.name) for p in others
    )


def test_a_class_has_one_index_and_takes_nothing_but_texts_and_a_picture(pip, drawings, tmp_path):
    pages = [share_page(tmp_path, pip, who, drawings, ["9 of 10 photos recognised"]) for who in ("Anna", "Bo", EVIL)]
    forged = dict(name=EVIL, author=EVIL, score=[EVIL], thumbnail='x" onerror="alert(1)')
    card = json.dumps(forged).replace("<", "\\u003c")
    (tmp_path / "forged.html").write_text(f'<script type="application/json" id="card">{card}</script>')
    (tmp_path / "notes.html").write_text("<script>alert(1)</script>")
    (tmp_path / "broken.html").write_text('<script type="application/json" id="card">{</script>')
    index = class_index(tmp_path).read_text()
    assert all(f'href="{p.name}"' in index for p in pages) and index.count("<a href=") == 4
    assert index.count("data:image/png;base64") == 3 and "9 of 10 photos recognised" in index
    assert "<img src=x" not in index and "alert(1)'" not in index and "<script" not in index
    assert "notes.html" in index and "broken.html" in index and "http" not in index.replace("HTTP-EQUIV", "")
    assert class_index(tmp_path).read_text() == index  # the index itself is no page
    with pytest.raises(OmniError, match="no shared page"):
        class_index(tmp_path / "empty")


@pytest.mark.parametrize("side,steps", [(8, 49), (64, 12)])
def test_a_page_stays_under_its_size_and_says_what_was_left_out(pip, side, steps, tmp_path):
    r = np.random.default_rng(0)
    large = [(Image.fromarray(r.integers(0, 256, (256, 256, 3), np.uint8)), "noise")] * 3
    f = share_page(tmp_path, pip, "Anna", large, maps=random_maps(side, steps))
    assert f.stat().st_size <= 1_500_000
    many = [(Image.fromarray(r.integers(0, 256, (1024, 1024, 3), np.uint8)), "noise")] * 9
    with pytest.raises(OmniError, match="1.5 MB|too small"):
        share_page(tmp_path, pip, "Anna", many, maps=random_maps(side, steps))


def test_a_real_drawing_in_a_browser_offline(pip, bb, tmp_path):
    "Names and facts with markup are text, the maps answer to the mouse, nothing is asked of a network."
    from omnipersona.widgets.latency import BROWSER_ARGS, find_browser

    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright").sync_playwright
    if not find_browser():
        pytest.skip("needs a Chromium")
    result, maps = concept_maps(Persona(bb, pip), "a photo of <pip>", 0, QUICK)
    pip.facts = dict(toy=EVIL)
    maps.labels[0] = EVIL
    f = share_page(tmp_path, pip, EVIL, [(result.image, EVIL)], [EVIL], [result.image], True, {EVIL: maps})
    assert "<img src=x" not in f.read_text()
    with sync() as p:
        browser = p.chromium.launch(executable_path=find_browser(), args=BROWSER_ARGS)
        page, said, asked = browser.new_context(offline=True).new_page(), [], []
        page.on("console", lambda m: said.append(m.text))
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("dialog", lambda d: (said.append("dialog"), d.dismiss()))
        page.on("request", lambda r: asked.append(r.url))
        page.goto(f.as_uri())
        page.wait_for_function("+document.body.dataset.draws>0")
        assert page.locator("body").inner_text().count(EVIL) >= 5 and page.locator("h1").inner_text().endswith(EVIL)
        page.locator("canvas").hover(position=dict(x=10, y=10))
        assert "(row 0, column 0) reads" in page.locator(".note").inner_text()
        page.goto(class_index(tmp_path).as_uri())
        page.locator("a").click()
        page.wait_for_function("+document.body.dataset.draws>0")
        assert not said and all(u.startswith(("file:", "data:")) for u in asked)
        browser.close()
