"The replay explorer, driven from the kernel: values are set, buttons clicked, pictures read back."

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
    return [bytes(i.value) for i in x.images]


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
def test_a_wrong_name_is_shown_escaped_and_nothing_is_lost(x, box):
    first, bad = shown(x), "a photo of <img src=x>"
    x.boxes[box].value = bad
    (x.redraw_button if box else x.replay_button).click()
    assert "<img" not in x.status.value and "&lt;" in x.status.value and shown(x) == first and x.texts[box] == bad


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
