"The replay explorer, driven from the kernel: values are set, buttons clicked, pictures read back."

import base64
import re

import pytest

pytest.importorskip("ipywidgets")
from omnipersona.concept.concept import TextPrompt
from omnipersona.concept.persona import Persona
from omnipersona.model.flow import SamplingConfig
from omnipersona.widgets.replay_explorer import ReplayExplorer

REQUEST = "a photo of the toy of <maeve>"


@pytest.fixture
def x(tiny, world):
    character = world.character(seed=123)
    persona = Persona(tiny, TextPrompt(tiny, "maeve", character.description, character.facts))
    return ReplayExplorer(persona, REQUEST, seed=3, sampling=SamplingConfig(2, 2.0, 1.0))


def shown(x):
    "The pictures that a person sees, as PNG."
    return [base64.b64decode(re.search('base64,([^"]*)', i.value)[1]) for i in x.images]


def test_an_edited_answer_and_an_edited_prompt_change_only_what_follows(x):
    first = shown(x)
    assert all(p.startswith(b"\x89PNG") for p in first) and x.texts[0] == REQUEST
    x.boxes[2].value = "a blue drum"
    x.redraw_button.click()
    assert x.trace.by_hand and x.texts[2] == "a blue drum" and shown(x)[0] == first[0]
    x.boxes[3].value = REQUEST
    x.redraw_button.click()
    assert x.texts[3] == REQUEST and shown(x)[0] == shown(x)[1] == first[0]
    x.boxes[3].value = "a photo of <maeve> at the beach"
    x.redraw_button.click()
    assert shown(x)[0] == first[0] != shown(x)[1]
    x.replay_button.click()
    assert shown(x) == first


@pytest.mark.parametrize("box", [0, 3])
def test_a_wrong_name_is_shown_escaped_at_its_box_and_nothing_is_lost(x, box):
    first, bad = shown(x), "a photo of <img src=x>"
    x.boxes[box].value = bad
    (x.redraw_button if box else x.replay_button).click()
    said = x.problems[box].value
    assert "<img" not in said and "&lt;" in said and shown(x) == first and x.texts[box] == bad
    assert [i for i, p in enumerate(x.problems) if p.value] == [box]


@pytest.mark.parametrize("answer", ["a red skateboard", "zzz <name_14>", "<name_3>"])
def test_an_answer_that_cannot_be_drawn_is_refused_at_its_box_and_leaves_nothing_as_if_current(x, answer):
    "No internal name reaches a person; the pictures are marked as earlier ones until something is drawn again."
    assert not x.stale and "earlier" not in x.images[1].value
    x.boxes[2].value = answer
    assert x.stale and "opacity" in x.images[1].value  # as soon as the text is another one
    x.redraw_button.click()
    everything = " ".join(w.value for w in (*x.problems, x.status, *x.images, *x.boxes))
    assert "name_" not in everything.replace(answer, "").replace("&lt;name_14&gt;", "")
    assert x.problems[2].value and x.texts[2] == answer and "role='alert'" in x.problems[2].value
    assert x.stale and "of the earlier texts" in x.images[1].value and "not drawn" in x.status.value
    instead = re.search(r"Try: ([\w ]+),", x.problems[2].value)[1]
    x.boxes[2].value = instead
    x.redraw_button.click()
    assert not x.stale and not any(p.value for p in x.problems)
    x.boxes[2].value = "a blue drum"
    x.redraw_button.click()
    assert not x.stale and not any(p.value for p in x.problems) and "earlier" not in x.images[1].value


def test_what_happened_is_a_sentence_and_the_fields_have_full_names(x):
    assert [b.description for b in x.boxes] == ["T: the request", "Q: the question", "A: the answer", "T': the prompt"]
    assert f'"{x.trace.prompt}"'.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;") in x.status.value
    for box in x.boxes:
        assert int(re.search(r"(\d+)ch", box.layout.width)[1]) > len(box.value)
    assert x.status.value.count("&#8595;") == 0 and str(x.widget.children[0].children).count("&#8595;") == 4


def test_a_plain_name_is_understood_and_said(x):
    x.boxes[0].value = "a photo of the toy of maeve"
    x.replay_button.click()
    assert x.trace.request == REQUEST and "understood as" in x.problems[0].value and not x.stale


def test_the_number_of_examples_is_used(x):
    x.examples.value = 0
    x.replay_button.click()
    assert x.trace.examples == []


def test_static_and_export_hold_the_pictures_and_need_no_network(x, tmp_path):
    text = x.export(tmp_path / "a.html").read_text()
    for h in (text, x.static().data):
        assert h.count("data:image/png;base64") == 3 and "&lt;maeve&gt;" in h and "<maeve>" not in h and "http" not in h


def test_an_edited_question_is_answered_again_and_an_edited_request_kept(x):
    first = shown(x)
    x.boxes[1].value = "what is the home of <maeve> ?"
    x.redraw_button.click()
    assert x.texts[1] == x.trace.question == "what is the home of <maeve> ?"
    assert shown(x)[0] == first[0] and len(x.trace.stages) == 3 and not x.trace.by_hand
    x.boxes[0].value = "a photo of <maeve>"
    x.boxes[2].value = "a blue drum"
    x.redraw_button.click()
    assert x.texts[0] == x.trace.request == "a photo of <maeve>"
    assert x.texts[2] == "a blue drum" and shown(x)[0] != first[0]
