"""The explorers and the boards in JupyterLab, in a browser, in both themes.

The mouse moves over patches and bars, and what is seen is read back from the page."""

import re

import pytest
from conftest import shipped
from lab import SHOTS, browser_page, faint_text, jupyterlab, run, theme

SETUP = """from omnipersona.all import *
import numpy as np
from omnipersona.concept.concept import Concept, TextPrompt
from omnipersona.inside.crosstask import score_matrix
from omnipersona.inside.geometry import token_geometry
from omnipersona.widgets.attention_explorer import AttentionExplorer, recorded
from omnipersona.widgets.boards import CrossTaskBoard, TokenMap
from omnipersona.widgets.latency import random_conflict
from omnipersona.widgets.replay_explorer import ReplayExplorer
bb, character = load_backbone("tiny"), ToyWorld().character(seed=123)
concept = Concept(bb, "pip")
persona = Persona(bb, TextPrompt(bb, "maeve", character.description, character.facts))
few, r = SamplingConfig(4, 2., 1.), np.random.default_rng(0)
maps = recorded({"as asked": (Persona(bb, concept), "a photo of <pip> at the moon")}, sampling=few)"""
CELLS = [
    SETUP,
    "x = AttentionExplorer(maps)\nx",
    """y = ReplayExplorer(persona, "a photo of the toy of <maeve>", sampling=SamplingConfig(2, 2., 1.))\ny""",
    "TokenMap([token_geometry(bb, concept)])",
    """labels = ["<pip>", *(f"{k} {i}" for k in ("und", "gen") for i in range(1, 17))]
rows, columns = ("nothing", "drawing", "all"), ("fact", "look")
scores = [{row: {c: float(r.random()) for c in columns} for row in rows} for _ in "ab"]
CrossTaskBoard([score_matrix(scores, dict(replay=False))], [random_conflict(r, labels)])""",
]
ATTENTION, REPLAY, MAP, BOARD = 1, 2, 3, 4


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    shipped("tiny")
    with jupyterlab(tmp_path_factory.mktemp("lab"), CELLS) as address, browser_page(address, height=4400) as page:
        for n in range(len(CELLS)):
            run(page, n)
        out(page, BOARD).locator(".widget-dropdown").first.wait_for(timeout=400_000)
        yield page
        page.screenshot(path=SHOTS / "explorers-last.png")


def out(page, n):
    return page.locator(".jp-Notebook .jp-CodeCell").nth(n).locator(".jp-OutputArea-output").last


def wait_until(page, condition, seconds=180):
    for _ in range(seconds * 10):
        if condition():
            return True
        page.wait_for_timeout(100)


ENLARGED = """root => [...root.querySelectorAll('img, svg[role=img]')].filter(e => {
  const own = e.tagName == 'svg' ? Number(e.getAttribute('width')) : e.naturalWidth;
  const sharp = getComputedStyle(e).imageRendering == 'pixelated' || e.tagName == 'svg';
  return e.getBoundingClientRect().width > (sharp && e.tagName != 'svg' ? 256 : own) + 1;
}).map(e => `${e.tagName} ${e.getBoundingClientRect().width}`)"""
BLURRED = """root => [...root.querySelectorAll('img')].filter(e =>
  getComputedStyle(e).imageRendering != 'pixelated' && e.naturalWidth < 2 * e.getBoundingClientRect().width).length"""


@pytest.mark.parametrize("n", [ATTENTION, REPLAY, MAP, BOARD])
def test_no_figure_is_enlarged_or_blurred_and_no_tooltip_says_null(page, n):
    cell = out(page, n)
    assert cell.locator("svg[role=img], img, .omni-matrix").count() >= 1
    assert cell.evaluate(ENLARGED) == [] and cell.evaluate(BLURRED) == 0
    assert cell.locator('[title="null"]:visible').count() == 0


@pytest.mark.parametrize("name", ["JupyterLab Dark", "JupyterLab Light"])
def test_text_can_be_read_in_both_themes_and_no_figure_is_a_white_card(page, name):
    theme(page, name)
    for n in (ATTENTION, REPLAY, MAP, BOARD):
        cell = out(page, n)
        cell.screenshot(path=SHOTS / f"explorers-{n}-{name.split()[1].lower()}.png")
        assert faint_text(cell) == [], n
        cards = cell.evaluate("root => root.querySelectorAll('img:not([style*=pixelated])').length")
        assert cards == 0  # a picture of a plot has its own background; figures are drawn in the ink of the page


def patch_of(cell, figure, x, y):
    "The point of the page that lies in a share of the grid of a figure."
    box = cell.locator(".omni-live").nth(figure).locator(".omni-grid").bounding_box()
    return box["x"] + box["width"] * x, box["y"] + box["height"] * y


def test_pointing_at_patches_and_bars_chooses_them(page):
    cell = out(page, ATTENTION)
    note = cell.locator("p[role=status]").first
    page.mouse.move(*patch_of(cell, 0, 5.5 / 8, 1.5 / 8))
    assert wait_until(page, lambda: "(row 1, column 5) reads" in note.inner_text())
    page.mouse.click(*patch_of(cell, 0, 0.5 / 8, 6.5 / 8))  # hold it
    assert wait_until(page, lambda: "(row 6, column 0) reads" in note.inner_text())
    page.mouse.move(*patch_of(cell, 0, 7.5 / 8, 7.5 / 8))
    page.wait_for_timeout(1000)
    assert "(row 6, column 0) reads" in note.inner_text()
    page.mouse.move(*patch_of(cell, 1, 20.5 / 33, 0.5))
    assert wait_until(page, lambda: "The map is of gen token 4:" in note.inner_text())
    token = cell.locator(".widget-dropdown", has_text="token").locator("select")
    assert wait_until(page, lambda: token.evaluate("e => e.selectedIndex") == 3 + 20)
    cell.locator(".omni-live").first.focus()
    page.keyboard.press("ArrowRight")
    assert wait_until(page, lambda: "(row 6, column 1) reads" in note.inner_text())


def test_sliders_stops_and_play_change_the_map(page):
    cell = out(page, ATTENTION)
    note, live = cell.locator("p[role=status]").first, cell.locator(".omni-live").first

    def changes(act):
        before = live.inner_html()
        act()
        return wait_until(page, lambda: live.inner_html() != before)

    def press(label):
        cell.locator(".widget-slider", has_text=label).locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")

    for label in ("step", "layer", "head"):
        assert changes(lambda: press(label)), label
    for i, title in enumerate(("The map", "One patch", "One token", "The steps")):
        cell.locator("button", has_text=f"{i + 1} {title}").click()
        assert wait_until(page, lambda: cell.get_by_text(f"{i + 1}. {title}.").count())
    cell.locator(".jupyter-widgets-play button, .widget-play button").first.click()
    assert wait_until(page, lambda: "At step 3 of 3" in note.inner_text())
    assert "a photo of <pip> at the moon" in cell.inner_text()


def box(cell, label):
    return cell.locator(".widget-text", has_text=re.compile(re.escape(label))).locator("input")


def test_an_answer_that_cannot_be_drawn_is_refused_at_its_box_and_the_pictures_are_marked(page):
    cell = out(page, REPLAY)
    box(cell, "A: the answer").fill("a red skateboard")
    box(cell, "A: the answer").press("Tab")
    assert wait_until(page, lambda: cell.get_by_text("of the earlier texts").count())
    cell.locator("button", has_text="Redraw").click()
    alert = cell.locator("[role=alert]")
    alert.first.wait_for()
    assert alert.count() == 1 and "skateboard" in alert.inner_text() and "name_" not in cell.inner_text()
    field, said = box(cell, "A: the answer").bounding_box(), alert.bounding_box()
    assert 0 < said["y"] - field["y"] < 80  # it stands at its field
    assert box(cell, "A: the answer").input_value() == "a red skateboard"
    faint = cell.locator("img").evaluate_all("all => all.filter(e => getComputedStyle(e).opacity < 1).length")
    assert faint == 3 and cell.get_by_text("with replay, of the earlier texts").count() == 1
    cell.screenshot(path=SHOTS / "explorers-refused.png")
    box(cell, "A: the answer").fill("a blue drum")
    box(cell, "A: the answer").press("Tab")
    cell.locator("button", has_text="Redraw").click()
    assert wait_until(page, lambda: not cell.locator("[role=alert]").count())
    assert wait_until(page, lambda: not cell.get_by_text("of the earlier texts").count())
    assert "a blue drum" in box(cell, "T': the prompt").input_value()


def test_fields_are_as_wide_as_their_texts_and_named_in_full(page):
    cell = out(page, REPLAY)
    for label in ("T: the request", "Q: the question", "A: the answer", "T': the prompt"):
        assert box(cell, label).evaluate("e => e.scrollWidth <= e.clientWidth"), label
    assert cell.get_by_text("↓").count() >= 4


def test_the_board_says_what_rows_columns_and_chance_are(page):
    text = out(page, BOARD).inner_text()
    assert "A row is what the tokens were taught. A column is what was measured" in text
    assert re.search(
        r"Chance: tokens that have learnt nothing, in the row nothing, reach fact \d\.\d\d, look \d\.\d\d", text
    )


ALLOWED = ["Failed to initialize model"]  # anywidget's two seconds on a busy machine: the plain figure stays


def test_the_browser_has_no_complaints(page):
    assert not [h for h in page.heard if not any(re.search(a, h) for a in ALLOWED)], "\n".join(page.heard)
