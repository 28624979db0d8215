"""30 questions, drawings and edits as people say them (plain_words.json), none of them worded as in training.

`count_meant` says how many are answered or drawn as meant; run this file to count them on a concept that was saved:
`python tests/test_plain_words.py FOLDER CHARACTER`."""

import json
import sys
from pathlib import Path

import pytest

from omnipersona.basics import OmniError
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona
from omnipersona.concept.plain_names import understand_names
from omnipersona.concept.spelling import plain_words
from omnipersona.concept.understanding import understand_request
from omnipersona.model.loading import load_backbone
from omnipersona.toyworld import language
from omnipersona.toyworld.draw import COLORS, PATTERNS, SPECIES
from omnipersona.toyworld.judge import ToyJudge
from omnipersona.toyworld.scenery import ACCESSORIES, OBJECTS, PLACES
from omnipersona.toyworld.scenes import FACTS, random_scene
from omnipersona.toyworld.world import ToyWorld

ENTRIES = json.loads(Path(__file__).with_name("plain_words.json").read_text(encoding="utf-8"))["entries"]
ENOUGH = 27


# ---- the data -----------------------------------------------------------------------------------------------------
def test_there_are_thirty_of_three_kinds():
    assert len(ENTRIES) == 30 and len({e["text"] for e in ENTRIES}) == 30
    assert {k: sum(e["kind"] == k for e in ENTRIES) for k in ("ask", "draw", "edit")} == dict(ask=12, draw=9, edit=9)
    assert all("<" not in e["text"] for e in ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e["text"])
def test_every_name_is_understood(entry):
    u = understand_names(entry["text"], ["maeve"])
    assert "<maeve>" in u.request and u.changed and not u.unsure


def shape(text):
    "A text with every colour, kind, place and so on replaced by its group: what a grammar has as one template."
    groups = dict(c=COLORS, k=[*SPECIES, *OBJECTS], p=PLACES, a=ACCESSORIES, f=[k for k in FACTS], t=PATTERNS)
    of = {w: f"[{g}]" for g, group in groups.items() for w in group}
    return " ".join(of.get(w, w) for w in plain_words(text.replace("<", " ").replace(">", " ")))


def grammar_shapes():
    "Templates of everything that training says about a character."
    import numpy as np

    shapes = set()
    for i in range(400):
        r = np.random.default_rng(i)
        scene = random_scene(r, p_char=1)
        texts = [q for q, _ in language.open_questions(scene, "maeve")] + [language.yes_no(scene, r, "maeve")[0]]
        texts += [language.caption(scene, r, "maeve"), "is maeve in the photo ?"]
        texts += [language.fact_question(k, "maeve") for k in FACTS]
        texts += [t for k in FACTS for pair in language.requests(k, "maeve", "a red kite", "beach") for t in pair]
        edits = [language.edit_scene(scene, kind, r, "maeve") for kind in language.EDITS]
        shapes |= {shape(t) for t in [*texts, *(e[0] for e in edits if e)]}
    return shapes


def test_none_is_worded_as_in_training():
    known = grammar_shapes()
    assert shape("what is the toy of <maeve> ?") in known and shape("move maeve to the left") in known
    assert not [e["text"] for e in ENTRIES if shape(e["text"]) in known]


# ---- counting -----------------------------------------------------------------------------------------------------
def picture_of(entry, char, world):
    "A photograph as the entry fixes it, not learnt from."
    if "photo" not in entry:
        return None
    who, seed = (world.look_alike(char, 9500) if entry.get("look_alike") else char), 700_000
    while True:
        photo = world.photo(who, seed, **entry["photo"])
        if bool(photo.scene.truth["thing"]) == entry.get("thing", False) or "thing" not in entry:
            return photo.image
        seed += 1


def said_as_meant(means, answer, char):
    told = dict(fact=lambda k: char.facts[k], trait=lambda k: getattr(char.traits, k), answer=lambda text: text)
    ((how, what),) = means.items()
    wanted = [w for w in plain_words(told[how](what)) if w not in ("a", "the")]
    return set(wanted) <= set(plain_words(answer))


def shown_as_meant(means, image, char, judge, edited):
    if "shown fact" in means:
        return judge.shows(image, char.facts[means["shown fact"]])
    seen = judge.attributes(image)
    own = {} if edited else dict(species=char.traits.species, color=char.traits.color)  # it has to be in a drawing
    return all(seen[k] == v for k, v in (own | means).items())


def as_meant(entry, persona, char, world, judge):
    "Whether one entry is answered, drawn or edited as meant, and what came of it in words."
    picture, means = picture_of(entry, char, world), entry["means"]

    def look(question):
        return persona.ask(question, picture).text

    seen = None if picture is None else look
    reading = understand_request(entry["text"], persona.concepts.items, persona.bb, entry["kind"], look=seen)
    if not reading.sure:
        return False, str(reading)
    request = reading.request
    try:
        if entry["kind"] == "ask":
            answer = persona.ask(request, picture).text
            return said_as_meant(means, answer, char), f"{answer} ({request})"
        if entry["kind"] == "draw":
            image = persona.generate(request, 0, replay=reading.replay).image
        else:
            image = persona.edit(request, picture, 0).image
        return shown_as_meant(means, image, char, judge, entry["kind"] == "edit"), f"a picture ({request})"
    except OmniError as e:
        return False, f"refused: {e}"


def count_meant(persona, char, world, judge, show=lambda line: None):
    meant = 0
    for entry in ENTRIES:
        right, came = as_meant(entry, persona, char, world, judge)
        meant += right
        show(f"{'+' if right else '-'} {entry['text']:45} {came}")
    return meant


def test_at_least_27_are_answered_or_drawn_as_meant(tiny, world, judge):
    "As the studio takes them: read by `understand_request`, then answered or drawn by the tiny backbone."
    char = world.character(123)
    concept = learn(tiny, world.concept_data(char, 10), "maeve", progress=False)
    lines = []
    assert count_meant(Persona(tiny, concept), char, world, judge, lines.append) >= ENOUGH, "\n".join(lines)


def test_counting_can_tell_right_from_wrong(world, judge):
    "On answers and pictures of which the truth is known, without a model."
    char = world.character(123)
    assert said_as_meant({"fact": "toy"}, char.facts["toy"], char) and not said_as_meant({"fact": "toy"}, "a hat", char)
    assert said_as_meant({"answer": "beach"}, "the beach .", char) and not said_as_meant({"answer": "yes"}, "no", char)
    photo = world.photo(char, 5, place="beach", accessory=None).image
    assert shown_as_meant({"place": "beach"}, photo, char, judge, False)
    assert not shown_as_meant({"place": "park"}, photo, char, judge, False)
    other = next(c for s in range(99) if (c := world.character(s)).traits.color != char.traits.color)
    assert not shown_as_meant({"place": "beach"}, world.photo(other, 5, place="beach").image, char, judge, False)


if __name__ == "__main__":
    folder, who, world = sys.argv[1], ToyWorld().character(int(sys.argv[2])), ToyWorld()
    persona = Persona(load_backbone("tiny"), folder)
    print(count_meant(persona, who, world, ToyJudge(), print), "of", len(ENTRIES))
