"In JupyterLab, the studio understands plain words, shows how, and asks where it is not sure."

import pytest
from conftest import shipped
from lab import SHOTS, browser_page, jupyterlab, run

CELLS = [
    """from pathlib import Path

import omnipersona
from omnipersona.model.loading import load_backbone
from omnipersona.widgets.studio import ConceptStudio

studio = ConceptStudio(load_backbone("tiny"), "pip", report=False)
studio.path.value = str(Path(omnipersona.__file__).parent / "weights" / "concepts" / "pip")
studio.load()
studio"""
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    shipped("tiny")
    with jupyterlab(tmp_path_factory.mktemp("lab"), CELLS) as address, browser_page(address) as page:
        run(page, 0)
        page.locator(".omni-said", has_text="loaded: <pip>").first.wait_for()
        yield page


def type_and_enter(page, label, text):
    name = page.locator("label", has_text=label)
    box = page.locator(".widget-text:visible", has=name).first.locator("input")
    box.fill(text)
    box.press("Enter")


def said(page, text):
    page.locator(".omni-said:visible", has_text=text).first.wait_for()


def test_a_question_in_plain_words(page):
    type_and_enter(page, "question", "what does Pip like to play with?")
    said(page, "understood as: what is the toy of <pip> ?")
    said(page, "probability")
    page.screenshot(path=SHOTS / "plain-words-ask.png")


def test_a_question_with_an_unknown_word_is_not_asked(page):
    type_and_enter(page, "question", "does Pip like to eat pizza?")
    said(page, "pizza")
    said(page, "nothing was asked yet")
    page.screenshot(path=SHOTS / "plain-words-unsure.png")
    page.locator(".omni-chip:visible", has_text="what is the food of ‹pip› ?").first.click()
    said(page, "probability")
    page.locator(".omni-history figure", has_text="what is the food of <pip> ?").first.wait_for()


def test_a_drawing_in_plain_words(page):
    page.get_by_role("tab", name="Draw").click()
    type_and_enter(page, "request", "can you draw pip in the woods with a blue balloon please")
    said(page, "understood as: a photo of <pip> with a blue balloon at the forest")
    said(page, "drawn: a photo of <pip> with a blue balloon at the forest")
    page.screenshot(path=SHOTS / "plain-words-draw.png")


def test_an_edit_in_plain_words(page):
    page.get_by_role("tab", name="Edit").click()
    type_and_enter(page, "instruction", "take her to the seaside")
    said(page, "understood as: change the background to the beach")
    page.screenshot(path=SHOTS / "plain-words-edit.png")
    assert not [heard for heard in page.heard if "error" in heard.lower() and "favicon" not in heard]
