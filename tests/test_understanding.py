"""Requests as people type them are translated into the backbone's own sentences, or the person is asked.

`understood_requests.json` was written while the program was developed: the program was made for what it holds. Requests
that nobody looked at meanwhile are in `plain_words.json`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

from omnipersona.basics import OmniError
from omnipersona.concept.own_wordings import own_sentence
from omnipersona.concept.understanding import understand_request
from omnipersona.model.tokenizer import tiny_tokenizer
from omnipersona.pretrain.mixture import edit_requests
from omnipersona.toyworld.language import EDITS, caption, edit_scene, fact_question, open_questions, requests, yes_no
from omnipersona.toyworld.scenes import FACTS, describe_scene, random_facts, random_scene

REQUESTS = json.loads((ROOT / "tests" / "understood_requests.json").read_text(encoding="utf-8"))
MEANT = [r for r in REQUESTS if r["means"]]
UNSURE = [r for r in REQUESTS if not r["means"]]
TINY = SimpleNamespace(tok=tiny_tokenizer())  # only its words are needed


def read(text, kind="ask", **more):
    return understand_request(text, ["maeve"], TINY, kind, **more)


def sees(row):
    "What answers a question about the picture of a row; None where there is no picture."
    return (lambda question: row["sees"]) if "sees" in row else None


def test_most_requests_are_understood_and_none_wrongly():
    readings = [(r, read(r["text"], r["kind"], look=sees(r))) for r in MEANT]
    wrong = [(r["text"], x.request) for r, x in readings if x.sure and x.request != r["means"]]
    assert not wrong
    assert sum(x.sure for _, x in readings) >= 0.95 * len(MEANT) and len(MEANT) > 120


@pytest.mark.parametrize("row", UNSURE, ids=lambda r: repr(r["text"][:40]))
def test_what_cannot_be_said_is_never_turned_into_something_else(row):
    if not row["text"].strip():
        with pytest.raises(OmniError, match="empty"):
            read(row["text"], row["kind"])
        return
    x = read(row["text"], row["kind"])
    assert not x.sure and x.reason and str(x).startswith("not sure what is meant: ")
    assert x.request == x.names.request and not x.changed
    for word in row.get("named", []):
        assert any(word in unused for unused in x.unused)
    for offer in x.offers:
        assert TINY.tok(offer.replace("<maeve>", "it")), offer


@pytest.mark.parametrize(
    "text", ["x" * 5000, "what is the toy " * 330, "\U0001f355" * 100, "\n".join("?" * 50), "maeve " * 999]
)
@pytest.mark.parametrize("kind", ["ask", "draw", "edit"])
def test_a_text_that_is_no_request(text, kind):
    x = read(text, kind)
    assert not x.sure and len(x.reason) < 300 and x.offers


def own_texts(r):
    "Sentences of the toy world, with the kind of request that they are."
    s, who = random_scene(r), "<maeve>" if r.random() < 0.6 else None
    facts, key = random_facts(r), str(r.choice(list(FACTS)))
    found = [(q, "ask") for q, _ in [*open_questions(s, who), yes_no(s, r, who)]]
    found += [(fact_question(key, "<maeve>"), "ask"), (caption(s, r, who), "draw"), (describe_scene(s, who), "draw")]
    found += [(t, "draw") for pair in requests(key, "<maeve>", facts[key], "park") for t in pair]
    found += [(request, "edit") for request, _ in edit_requests(key, "<maeve>", facts[key], r)]
    edits = [edit_scene(s, kind, r, who) for kind in EDITS]
    return found + [(e[0], "edit") for e in edits if e]


def test_the_worlds_own_sentences_come_through_unchanged():
    r, n = np.random.default_rng(0), 0
    for _ in range(100):
        for text, kind in own_texts(r):
            x, n = read(text, kind), n + 1
            assert own_sentence(text) and x.sure and x.request == text and not str(x), text
    assert n > 500


def test_what_is_said_is_read_again_as_the_same():
    "Every translation is a sentence of the backbone itself, except for things whose colour nobody said."
    for row in MEANT:
        if own_sentence(row["means"]) is None:
            assert row["means"].split()[-1] in {"ball", "cake", "balloon"} or " a ball " in row["means"], row["means"]
        assert read(row["means"], row["kind"]).request == row["means"]


def test_a_backbone_that_reads_everything_gets_the_text_as_it_is():
    free = SimpleNamespace(tok=type("Free", (), {"words": frozenset(), "__call__": lambda self, text: [1]})())
    x = understand_request("does Maeve like pizza?", ["maeve"], free)
    assert x.sure and x.request == "does <maeve> like pizza?"


def test_the_colour_that_an_edit_needs_is_looked_up_in_the_picture():
    asked = []

    def look(question):
        asked.append(question)
        return "a green ball"

    x = read("take the ball away", "edit", look=look)
    assert x.request == "remove the green ball" and asked == ["what is next to <maeve> ?"] and x.notes
    assert read("take the kite away", "edit", look=look).sure is False  # there is none
    assert read("is there a ball?", look=look).request == "is there a green ball ?"
    assert read("take the ball away", "edit").offers == (
        "remove the red ball",
        "remove the blue ball",
        "remove the green ball",
    )


def test_what_is_left_out_is_told():
    assert read("paint maeve beside a little red car", "draw").notes == ("sizes cannot be chosen: little is left out",)
    assert "how far" in read("move maeve a little to the left", "edit").notes[0]
    assert "purple bunny" in read("draw the purple bunny maeve at the beach", "draw").notes[0]
    assert read("what color is the carrot").notes == ("the answer says the colour",)


@pytest.mark.parametrize(
    "text, kind, offers",
    [
        ("don't remove maeve", "edit", ()),
        ("never move maeve to the left", "edit", ()),
        ("keep the hat", "edit", ()),
        ("leave maeve alone", "edit", ()),
        ("maeve without a hat and not at the beach", "draw", ("a photo of <maeve>",)),
        ("maeve at the beach without a kite", "draw", ("a photo of <maeve> at the beach",)),
    ],
)
def test_nothing_is_offered_that_is_behind_a_negation(text, kind, offers):
    assert read(text, kind).offers == offers


def test_no_offer_removes_what_nobody_wants_removed():
    for row in UNSURE:
        if row["kind"] != "edit" or not row["text"].strip():
            continue
        x = read(row["text"], "edit")
        if "thing next to" in row["text"] or not any(w in row["text"] for w in ("remove", "delete", "erase", "rid of")):
            assert not any(o.startswith("remove") for o in x.offers) or "take" in row["text"], row["text"]
    for text in ("delete the thing next to maeve", "get rid of the thing beside her", "remove what is next to maeve"):
        x = read(text, "edit")
        assert not x.sure and (x.offers_kind, x.offers) == ("ask", ("what is next to <maeve> ?",))
        assert not read(text, "edit", look=lambda question: "nothing").sure
    assert not any(o.startswith("remove <") for o in read("remove the thing maeve holds", "edit").offers)
    x = read("replace the cat with a red balloon", "edit")
    assert x.offers and all(o.endswith(" cat with a red balloon") for o in x.offers)
    assert not read("replace the cat with a red balloon", "edit", look=lambda question: "a red kite").sure


def test_two_places_are_the_reason_and_the_second_is_not_called_unknown():
    x = read("maeve at the beach and in the desert", "draw")
    assert x.reason.startswith("two places are said") and "desert" in x.unused
    assert read("draw the purple bunny maeve in snow", "draw").offers[0] == "a photo of <maeve> at the mountain"


def test_several_concepts_and_further_facts():
    two = dict(maeve=SimpleNamespace(facts={"name": "red"}), otto=SimpleNamespace(facts={}))
    assert understand_request("what does otto eat", two, TINY).request == "what is the food of <otto> ?"
    assert not understand_request("what does she eat", two, TINY).sure  # who?
    assert understand_request("tell me the name of maeve", two, TINY).request == "what is the name of <maeve> ?"
    assert not understand_request("tell me the name of maeve", ["maeve"], TINY).sure


def test_a_request_in_the_wrong_place_is_sent_where_it_belongs():
    x = read("please draw maeve by the sea")
    assert not x.sure and (x.offers_kind, x.offers) == ("draw", ("a photo of <maeve> at the beach",))
    assert read("where is she?", "draw").offers_kind == "ask"


@pytest.mark.parametrize("bad", [None, 3, ["a"], b"what"])
def test_what_is_no_text_is_refused(bad):
    with pytest.raises(OmniError):
        read(bad)
    with pytest.raises(OmniError, match="one of ask, draw, edit"):
        read("where is maeve?", "paint")
