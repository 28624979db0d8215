"""Explicit knowledge replay: what is said before a picture is drawn.

Facts are given in words here, so that nothing must be trained."""

import copy
import json
import pickle
from pathlib import Path

import pytest
from helpers import same

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concepts, TextPrompt
from omnipersona.concept.persona import Persona
from omnipersona.concept.replay import Replay, ReplayConfig, Stage, Trace
from omnipersona.differences import effect_figure
from omnipersona.model.flow import SamplingConfig

QUICK = SamplingConfig(5, 2.0, 1.0)  # four steps, no guidance


@pytest.fixture(scope="module")
def bb(tiny):
    return tiny


@pytest.fixture(scope="module")
def p(bb, char):
    return Persona(bb, TextPrompt(bb, "maeve", char.description, char.facts))


@pytest.fixture(scope="module")
def replay(bb, p):
    return Replay(bb, p.concepts)


@pytest.fixture(scope="module")
def two(bb, world):
    "Two characters whose facts are told, and the replay of both."
    chars = dict(ann=world.character(5), bo=world.character(6))
    told = [TextPrompt(bb, name, c.description, c.facts) for name, c in chars.items()]
    return chars, Replay(bb, Concepts(bb, told))


def asks(key):
    return f"a photo of <maeve> at its {key}" if key == "home" else f"a photo of the {key} of <maeve>"


# ---- the three passes ---------------------------------------------------------------------------------------------
def test_facts_are_asked_for_and_the_answer_is_written_into_the_request(replay, char):
    "Every question is right, and what was answered is written into the request."
    traces = replay([asks(k) for k in char.facts])
    assert [t.question for t in traces] == [f"what is the {k} of <maeve> ?" for k in char.facts]
    said = [t.answer in t.prompt and k not in t.prompt.split() for t, k in zip(traces, char.facts)]
    assert sum(said) >= len(said) - 1, "\n\n".join(map(str, traces))
    assert all(t.needed and not t.fallback for t in traces)
    assert all([s.name for s in t.stages] == ["intent", "retrieval", "rewriting"] for t in traces)


def test_a_request_that_says_everything_comes_back_unchanged(replay):
    plain = [
        "a photo of <maeve> at the beach",
        "a photo of <maeve> with a blue kite at the park",
        "remove <maeve> from the photo",
        "change the background to the moon",
    ]
    traces = replay(plain)
    unchanged = [not t.needed and t.prompt == t.request and not t.answer for t in traces]
    assert sum(unchanged) >= 3, "\n\n".join(map(str, traces))


def test_edits_are_replayed_as_well(replay, char):
    (t,) = replay(["add the toy of <maeve>"])
    assert t.prompt == f"add {t.answer}" and t.answer.split()[-1] == char.facts["toy"].split()[-1], t


def test_a_batch_says_what_each_request_says_alone(replay):
    requests = [asks("toy"), "a photo of <maeve> at the beach", asks("home")]
    for t, r in zip(replay(requests), requests):
        (one,) = replay([r])
        assert (t.question, t.answer, t.prompt) == (one.question, one.answer, one.prompt)


def test_of_two_concepts_only_the_one_that_is_named_is_asked(bb, two):
    chars, replay = two
    for name in chars:
        (t,) = replay([f"a photo of the toy of <{name}>"])
        (alone,) = Replay(bb, Concepts(bb, [replay.concepts[name]]))([f"a photo of the toy of <{name}>"])
        assert t.question == f"what is the toy of <{name}> ?", t
        assert t.stages[1].tokens_read == alone.stages[1].tokens_read, t


def test_all_facts_but_one_are_right(replay, char):
    traces = replay([asks(k) for k in char.facts])
    right = [t.answer == v and v in t.prompt for t, v in zip(traces, char.facts.values())]
    assert sum(right) >= len(char.facts) - 1, "\n\n".join(map(str, traces))


def test_an_edit_adds_the_right_thing(replay, char):
    (t,) = replay(["add the toy of <maeve>"])
    assert t.prompt == f"add {char.facts['toy']}", t


def test_each_of_two_concepts_has_its_own_fact(two):
    chars, replay = two
    for name, c in chars.items():
        (t,) = replay([f"a photo of the toy of <{name}>"])
        assert t.answer == c.facts["toy"], t


def test_an_answer_of_another_kind_is_written_as_it_is(replay):
    (t,) = replay([asks("toy")])
    assert "blue boat" in replay.with_answer(t, "a blue boat").prompt


# ---- several facts ------------------------------------------------------------------------------------------------
BOTH = "what is the toy of <maeve> ? what is the home of <maeve> ?"


@pytest.fixture
def two_facts(replay, monkeypatch):
    "A trace whose first pass asks for two facts, as a backbone does that can."
    said = replay.intents(["a photo of the toy of <maeve>"])[0][1]
    monkeypatch.setattr(Replay, "intents", lambda self, requests: [(BOTH, said) for _ in requests])
    return replay(["a photo of the toy of <maeve> at its home"])[0]


def test_every_question_of_a_request_is_answered(two_facts, char):
    t = two_facts
    assert t.facts == [
        ("what is the toy of <maeve> ?", char.facts["toy"]),
        ("what is the home of <maeve> ?", char.facts["home"]),
    ]
    assert t.answer == f"{char.facts['toy']}; {char.facts['home']}" and t.question == BOTH
    assert [s.name for s in t.stages] == ["intent", "retrieval", "retrieval", "rewriting"]
    assert t.stages[-1].read.count("answer :") == 2


def test_one_of_two_answers_can_be_another(replay, two_facts):
    u = replay.with_answer(two_facts, "a blue drum; the moon")
    assert [a for _, a in u.facts] == ["a blue drum", "the moon"] and u.by_hand
    assert [s.name for s in u.stages] == ["intent", "retrieval", "retrieval", "rewriting"]
    with pytest.raises(OmniError, match="2 questions need as many answers"):
        replay.with_answer(two_facts, "a blue drum")


# ---- in-context examples ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [0, 1, 6])
def test_examples(bb, p, n):
    (t,) = Replay(bb, p.concepts, ReplayConfig(n_examples=n))([asks("toy")])
    assert len(t.examples) == n and t.prompt and "<maeve>" not in " ".join(x for e in t.examples for x in e)


def test_own_examples(bb, p):
    mine = (("a photo of {name} with its toy", "what is the toy of {name} ?"),)
    (t,) = Replay(bb, p.concepts, ReplayConfig(n_examples=1, examples=mine))([asks("toy")])
    assert t.examples[0][0].endswith("with its toy")


@pytest.mark.parametrize(
    "config,word",
    [
        (dict(n_examples=7), "7"),
        (dict(n_examples=-1), "-1"),
        (dict(n_examples=1, examples=(("one",),)), "one"),
        (dict(n_examples=1, examples=()), "0 examples"),
        (dict(n_examples=1, examples=(("", "x"),)), "pair of texts"),
    ],
)
def test_wrong_examples_are_named(bb, p, config, word):
    with pytest.raises(OmniError, match=word):
        Replay(bb, p.concepts, ReplayConfig(**config))


# ---- nonsense -----------------------------------------------------------------------------------------------------
def test_an_endless_pass_falls_back_to_the_request(bb, p):
    (t,) = Replay(bb, p.concepts, ReplayConfig(max_new_tokens=1))([asks("toy")])
    assert t.prompt == t.request and "endless" in t.fallback
    assert t.stages[0].problem == "endless" and "endless" in str(t)


def test_a_question_about_nobody_falls_back(bb, p, monkeypatch):
    question = "what is in the photo ?"
    stage = Stage("intent", "", question, [], [], 0, 0.0)
    replay = Replay(bb, p.concepts)
    monkeypatch.setattr(replay, "intents", lambda requests: [(question, stage)] * len(requests))
    (t,) = replay([asks("toy")])
    assert t.prompt == t.request and "names no concept" in t.fallback


@pytest.mark.parametrize("request_", ["", "  ", None, "a photo of the toy of <nobody>", "a photo of a xylophone"])
def test_bad_requests_are_named(replay, request_):
    with pytest.raises(OmniError):
        replay([request_])


# ---- the trace ----------------------------------------------------------------------------------------------------
def test_trace_is_saved_whole_and_printed_escaped(replay, tmp_path):
    (t,) = replay([asks("toy")])
    t.save(tmp_path / "t.json")
    o = json.loads((tmp_path / "t.json").read_text())
    assert all(o[k] == getattr(t, k) for k in ("request", "question", "answer", "prompt", "needed"))
    assert [len(s["ids"]) for s in o["stages"]] == [len(s["logprobs"]) for s in o["stages"]]
    assert all(s["seconds"] > 0 and s["tokens_read"] > 0 for s in o["stages"])
    html = Trace("<img src=x onerror=alert(1)>", "q", "a", "p")._repr_html_()
    assert "<img" not in html and "&lt;img" in html
    assert "<maeve>" in str(t) and "<maeve>" not in t._repr_html_() and t.tokens > 10 and t.seconds > 0


def test_a_trace_is_data(replay):
    "It pickles, copies and prints; an answer of a copy can be replaced."
    (t,) = replay([asks("toy")])
    for again in (pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
        assert again == t and str(again) == str(t)
        assert replay.with_answer(again, "a blue drum").prompt == replay.with_answer(t, "a blue drum").prompt


def test_a_trace_is_saved_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert Trace("a photo").save("~/t.json") == Path(tmp_path, "home/t.json")
    assert [f.name for f in tmp_path.iterdir()] == ["home"]


def test_another_answer_changes_the_prompt_and_the_same_does_not(replay):
    (t,) = replay([asks("toy")])
    u = replay.with_answer(t, "a blue drum")
    assert replay.with_answer(t, t.answer).prompt == t.prompt and not t.by_hand
    assert u.by_hand and "by hand" in str(u) and "blue drum" in u.prompt
    (plain,) = replay(["a photo of <maeve> at the beach"])
    with pytest.raises(OmniError, match="no question"):
        replay.with_answer(plain, "a blue drum")
    with pytest.raises(OmniError):
        replay.with_answer(t, "a xylophone")


def test_no_requests(replay):
    assert replay([]) == []


# ---- drawing with it ----------------------------------------------------------------------------------------------
def test_persona_draws_what_was_replayed(p):
    with_, without = (p.generate(asks("toy"), seed=3, replay=r, sampling=QUICK) for r in (True, False))
    assert without.trace is None and with_.trace.prompt != asks("toy") and with_.request == asks("toy")
    assert same(with_.image, p.generate(with_.trace.prompt, seed=3, sampling=QUICK).image)


def test_persona_edits_with_it(p, world, char):
    photo = world.photo(char, seed=1, thing=None).image
    r = p.edit("add the toy of <maeve>", photo, replay=ReplayConfig(n_examples=0), sampling=QUICK)
    assert r.trace.request == "add the toy of <maeve>" and r.image.size == photo.size


def test_counterfactual_keeps_the_noise(p):
    r = p.generate(asks("toy"), seed=5, replay=True, sampling=QUICK)
    again, other = p.what_if(r, r.trace.answer), p.what_if(r, "a blue drum")
    assert same(again.image, r.image) and other.seed == r.seed and other.trace.by_hand
    if other.trace.prompt != r.trace.prompt:
        assert not same(other.image, r.image)
    assert len(effect_figure(r, other).axes) == 3


def test_what_if_needs_a_replayed_picture(p):
    with pytest.raises(OmniError, match="replay"):
        p.what_if(p.generate("a photo of <maeve> at the beach", sampling=QUICK), "a blue boat")
