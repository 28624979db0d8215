"The language of the second edition: many wordings, a tenth held out, true answers, and a tokenizer that reads all."

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import json
import numpy as np
import pytest
import tokenizers

from omnipersona.basics import OmniError
from omnipersona.concept.requests import replace_brackets
from omnipersona.concept.tokens import text_ids
from omnipersona.model.bpe import second_tokenizer, world_texts
from omnipersona.model.tokenizer import SPECIALS, Tokenizer
from omnipersona.toyworld import wordings
from omnipersona.toyworld.descriptions import WHO_QUESTIONS, described
from omnipersona.toyworld.draw import COLORS, SPECIES, Traits
from omnipersona.toyworld.fact_wordings import UNKNOWN, absent
from omnipersona.toyworld.free_facts import free_facts, in_tenth, key_role
from omnipersona.toyworld.language import EDITS, caption, edit_scene, open_questions
from omnipersona.toyworld.patterns import wording_key
from omnipersona.toyworld.picture_wordings import OPEN_QUESTIONS, YES_NO_QUESTIONS
from omnipersona.toyworld.scenery import ACCESSORIES, OBJECTS, PLACES
from omnipersona.toyworld.scenes import FACTS, Scene, Thing, random_scene, random_traits, worn
from omnipersona.toyworld.wordings import EDIT_GRAMMARS, INTENTS

NAME, NAMES = "<maeve>", {"char": "<maeve>", "companion": "<bo>"}


def rng(*seed):
    return np.random.default_rng(seed)


# One scene with everything, so that two texts differ in their wording only.
CAT = Traits(species="cat", color="red", hue=0.0)
FULL = Scene("beach", CAT, "hat", Thing("kite", "blue", 220.0), side="left")
TWO = replace(FULL, thing=Traits(species="dog", color="green"))
FILLED = {"toy": "a red kite", "home": "the beach", "zorlap": "may 3"}


def fixed(intent, r, held_out):
    "A text of an intent about one scene, one fact, one name."
    if intent == "tell":
        return wordings.tell_facts(r, NAME, {"zorlap": "may 3"}, held_out)
    if intent == "fact":
        return wordings.ask_fact(r, "toy", NAME, held_out)
    if intent == "present":
        return wordings.ask_present(r, NAME, held_out)
    if intent == "picture":
        return wordings.ask_picture(FULL, r, NAME, held_out)[0]
    if intent == "yes or no":
        return wordings.ask_yes_no(FULL, r, NAME, held_out)[0]
    if intent == "describe":
        return wordings.ask_describe(r, held_out)
    if intent == "who":
        return wordings.who_is_where(TWO, r, NAMES, held_out)[0]
    if intent == "draw":
        return wordings.draw_request(FULL, r, NAME, held_out)
    keys = {"one fact": ["toy"], "two facts": ["toy", "home"]}.get(intent)
    if keys:
        return wordings.draw_with_facts(r, NAME, FILLED, keys, "park", held_out)[0]
    kind = intent.removeprefix("edit ")
    scene = FULL if kind != "add" else replace(FULL, accessory=None, thing=None)
    return wordings.edit_request(scene, kind, r, NAME, held_out)[0]


KINDS = ["tell", "fact", "present", "picture", "yes or no", "describe", "who", "draw", "one fact", "two facts"]
KINDS += [f"edit {kind}" for kind in EDITS]


def wording_of(text):
    "The wording of a text about the fixed scene: its names, colours, places and pronouns left out."
    key = wording_key(text)
    for pronouns, slot in ((" its | her | his ", " his "), (" it | she | he ", " he "), (" him | her ", " him ")):
        for p in pronouns.split("|"):
            key = f" {key} ".replace(p, slot).strip()
    for options in (COLORS, PLACES, ACCESSORIES, OBJECTS, SPECIES, ("left", "middle", "right")):
        key = " ".join("X" if w in options else w for w in key.split())
    return key


@pytest.mark.parametrize("intent", KINDS)
def test_thirty_wordings_of_each_intent(intent):
    r = rng(1)
    trained = {wording_of(fixed(intent, r, False)) for _ in range(1500)}
    assert len(trained) >= 30
    assert len({wording_of(fixed(intent, r, True)) for _ in range(300)}) >= 4


def test_held_out_wordings_are_never_trained():
    "20,000 texts to train on, and 3,000 held-out ones, about the same scenes: no wording is in both."
    trained, held = {}, {}
    for i in range(20_000):
        intent = KINDS[i % len(KINDS)]
        trained.setdefault(intent, set()).add(wording_key(fixed(intent, rng(2, i), False)))
        if i < 3000:
            held.setdefault(intent, set()).add(wording_key(fixed(intent, rng(3, i), True)))
    assert not set().union(*trained.values()) & set().union(*held.values())


def test_a_tenth_is_held_out():
    grammars = [*OPEN_QUESTIONS.values(), *YES_NO_QUESTIONS.values(), *WHO_QUESTIONS.values(), *EDIT_GRAMMARS.values()]
    trained, held = (sum(len(g.keys(part)) for g in grammars) for part in (False, True))
    assert 0.06 < held / (trained + held) < 0.14
    assert all(g.parts[False] and g.parts[True] for g in grammars)
