"The scorecard counts what is there, on pictures that were not learnt from, and each piece of advice has its case."

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import QUICK, same

from omnipersona.bench import scorecard as module
from omnipersona.bench.advice import GOOD, USUAL_STEPS, advise, contradictions, falling
from omnipersona.bench.scorecard import Count, HeldOut, Scorecard, fact_chance, photos_to_hold_out, scorecard
from omnipersona.concept.comparison import comparison_strip, untrained
from omnipersona.concept.concept import TextPrompt
from omnipersona.concept.learner import Learner
from omnipersona.concept.persona import Persona
from omnipersona.concept.sampling import hold_out
from omnipersona.data import ConceptData
from omnipersona.widgets.forms import uploaded_data


def pictures(held):
    return [*held.mine, *held.look_alikes, *held.others]


# ---- which pictures -----------------------------------------------------------------------------------------------
def test_nothing_is_measured_on_what_was_learnt(world, char):
    "Neither for a toy character nor for photographs, of which `hold_out` keeps some of others on both sides."
    data = world.concept_data(char, 10)
    learnt, kept = hold_out(replace(data, look_alikes=data.look_alikes[:3], others=data.others[:2]), 2)
    for mine, held in ((data, HeldOut.of_character(char, 20)), (learnt, HeldOut.of_photographs(kept, learnt))):
        seen = {p.tobytes() for p in [*mine.images, *mine.look_alikes, *mine.others]}
        assert held.mine and not seen & {p.tobytes() for p in pictures(held)}
    assert kept.look_alikes and not HeldOut.of_photographs(kept, learnt).look_alikes  # they had all been learnt from


def test_the_photos_kept_back_show_the_concept(world, char, judge):
    held = HeldOut.of_character(char, 6)
    read = judge.attributes([*held.mine, *held.look_alikes])
    assert sum(r["species"] == char.traits.species for r in read) >= 11
    assert HeldOut.of_photographs(None, ConceptData([held.mine[0]])) is None
    assert photos_to_hold_out(4) == 0 and photos_to_hold_out(10) == 2


# ---- counting -----------------------------------------------------------------------------------------------------
class Says:
    "A persona whose answers are known: it knows its facts, and says yes to the pictures that it is told."

    def __init__(self, bb, concept):
        self.bb, self.concept = bb, concept

    def ask_many(self, questions, images=None):
        yes = {p.tobytes() for p in self.concept.sees}
        if images is None:
            return [SimpleNamespace(text=self.concept.says[q.split()[3]]) for q in questions]
        return [SimpleNamespace(text="yes" if p.tobytes() in yes else "no") for p in images]

    def generate_many(self, requests, seeds):
        assert len(set(seeds)) == len(requests)
        return [SimpleNamespace(image=self.concept.draws[i]) for i in range(len(requests))]


@pytest.fixture
def known(world, char, monkeypatch):
    held = HeldOut.of_character(char, 10)
    says = char.facts | {"toy": "A " + char.facts["toy"].split(" ", 1)[1].upper() + ".", "ride": "a teapot"}
    says["toy"] = char.facts["toy"].upper() + " ."
    mine = [world.photo(char, 20 + i, place="park", accessory=None).image for i in range(4)]
    concept = SimpleNamespace(name="maeve", facts=dict(char.facts), says=says, draws=mine)
    concept.sees = [*held.mine[:9], held.look_alikes[0]]
    monkeypatch.setattr(module, "Persona", Says)
    return concept, held


def test_every_number_is_what_is_there(tiny, known, judge):
    concept, held = known
    card = scorecard(tiny, concept, held=held, judge=judge, drawings=4)
    assert str(card).startswith(
        "4 of 5 facts right; 9 of 10 photos recognised; 9 of 10 look-alikes refused; drawings: "
    )
    assert card.drawings > 0.85 > 0.7 > card.others  # its own photos are like it, those of look-alikes less so
    assert [k for k, taught, said in card.answers if said == "a teapot"] == ["ride"] and not card.missing
    lines = " ".join(card.lines())
    assert (
        "guessing: about 5 of 10" in lines
        and "guessing: about 0." in lines
        and "4 drawings" in lines
        and card.drawn == 4
    )


def test_what_cannot_be_measured_is_said(tiny, known):
    concept, held = known
    card = scorecard(tiny, concept, {}, None, drawings=4)
    assert card.facts is None and card.recognised is None and card.drawings is None
    assert card.drawings_recognised.n == 4 and "every photo was learnt from" in " ".join(card.lines())
    card = scorecard(tiny, concept, {}, HeldOut(held.mine[:3], [], held.others), drawings=0)
    assert str(card) == "3 of 3 photos recognised; 10 of 10 strangers refused"
    assert "look-alike" in " ".join(card.lines()) and str(Scorecard()) == "nothing is measured"


def test_progress_says_what_is_done(tiny, known):
    said = []
    scorecard(tiny, known[0], held=known[1], progress=said.append, drawings=4)
    assert [s.split()[0] for s in said] == ["asking", "showing", "drawing"]


def test_chance_of_a_fact(tiny):
    assert fact_chance(tiny, {"toy": "a red kite"}) == pytest.approx(1 / 32)
    assert fact_chance(tiny, {"hobby": "chess"}) is None and fact_chance(tiny, {}) is None


def test_of_a_real_concept_in_words(tiny, world, char, judge):
    "A description in words answers its facts, and cannot tell a look-alike, which has the same description."
    told = TextPrompt(tiny, "maeve", char.description, char.facts)
    card = scorecard(tiny, told, held=HeldOut.of_character(char, 8), judge=judge)
    assert card.facts.right >= 4 and card.recognised.n == card.refused.n == 8 and card.refused.share < 1
    assert 0 < card.drawings < 1.1


# ---- advice -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def full(world, char):
    return world.concept_data(char, 5)


RUN = SimpleNamespace(summary=dict(steps=USUAL_STEPS, recipe=dict(steps=USUAL_STEPS)), history=[])
FINE = Scorecard(
    Count(5, 5, "facts right"), Count(10, 10, "photos recognised"), Count(9, 10, "look-alikes refused"), 0.93
)
WEAK = replace(FINE, facts=Count(2, 5, "facts right"))


def run(steps, asked, history=()):
    return SimpleNamespace(summary=dict(steps=steps, recipe=dict(steps=asked)), history=list(history))


def test_no_advice_where_all_is_well(full):
    assert advise(FINE, RUN, full) == [] and advise(FINE, run(5, 5), full) == [] and GOOD < 0.9


FALLING = [dict(step=i, facts=10 * 0.95**i, draw=1.0) for i in range(100)]


@pytest.mark.parametrize(
    "concept, words",
    [
        (run(60, 440), "stopped after 60 of 440"),
        (run(60, 60), "60 steps are few"),
        (run(440, 440, FALLING), "still falling (facts)"),
    ],
)
def test_more_steps(full, concept, words):
    assert words in advise(WEAK, concept, full)[0] and len(advise(WEAK, concept, full)) == 1
    assert advise(FINE, concept, full) == []


def test_look_alikes_are_missing(full):
    alone = replace(full, look_alikes=[])
    low = replace(FINE, refused=Count(4, 10, "strangers refused"))
    assert "Look-alikes are missing (4 of 10" in advise(low, RUN, alone)[0] and advise(FINE, RUN, alone) == []
    assert "Look-alikes are missing" in advise(replace(FINE, refused=None), RUN, alone)[0]
    assert "yes too often" in advise(low, RUN, full)[0]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: dict(facts={"toy": "a red kite", "favourite toys": "a blue drum"}), "favourite toys"),
        (lambda d: dict(qa=[(0, "what color is <sks> ?", "red"), (0, "What color is <sks>?", "blue")]), "picture 1"),
        (lambda d: dict(description=f"a {'red' if 'red' not in d.description else 'blue'} plain dog"), "description"),
    ],
)
def test_one_fact_contradicts_another(full, change, words):
    wrong = replace(full, **change(full))
    assert contradictions(full) == [] and words in contradictions(wrong)[0]
    assert "contradicts" in advise(FINE, RUN, wrong)[0] and words in advise(FINE, RUN, wrong)[0]
    agree = replace(full, facts={"toy": "a red kite", "favourite toy": "A red kite."})
    assert contradictions(agree) == []


def test_few_pictures_facts_mixed_up_and_poor_drawings(full):
    few = replace(full, images=full.images[:2], captions=full.captions[:2], qa=[], edits=[])
    assert "Add pictures: it has 2" in advise(replace(FINE, recognised=None), RUN, few)[0] and not advise(
        FINE, RUN, few
    )
    mixed = replace(FINE, answers=[("toy", "a red kite", "A red apple."), ("food", "a red apple", "a red apple")])
    assert "mixes up toy and food" in advise(mixed, RUN, full)[0]
    assert "drawings are not like it" in advise(replace(FINE, drawings=0.5), RUN, full)[0]
    assert advise(FINE, RUN) == [] and falling([]) == []


def test_a_low_score_is_never_left_alone(full):
    assert (
        f"{2 * USUAL_STEPS} steps" in advise(WEAK, RUN, full)[0] and "no step" in advise(WEAK, run(None, None), full)[0]
    )


# ---- before and after ---------------------------------------------------------------------------------------------
def test_before_is_where_training_begins(bb, data):
    from helpers import SHORT

    for recipe in (SHORT, replace(SHORT, init="words"), replace(SHORT, init="random", n_und=3, routing="coupled")):
        start, concept = untrained(bb, data, "maeve", 3, recipe), Learner(bb, data, "maeve", 3, recipe).concept
        assert torch.equal(start.embeddings, concept.embeddings) and start.gen_ids == concept.gen_ids


def test_the_strip_draws_one_noise_three_times(bb, data, concept):
    before = untrained(bb, data, "maeve")
    strip = comparison_strip(bb, concept, before, "a red spotted dog", seed=5, sampling=QUICK)
    assert [k for k, _ in strip] == ["before training", "after 6 steps", "described in words: a red spotted dog"]
    for (_, image), c in zip(strip, (before, concept, TextPrompt(bb, "maeve", "a red spotted dog"))):
        assert same(image, Persona(bb, c).generate("a photo of <maeve> at the park", 5, QUICK).image)
    assert [k for k, _ in comparison_strip(bb, concept, description="a shy one", sampling=QUICK)] == ["after 6 steps"]
    strip = comparison_strip(bb, concept, description="a orange plain cat", sampling=QUICK)
    assert strip[1][0] == "described in words: an orange plain cat"


def test_a_card_for_uploaded_photographs(bb, world, char, concept):
    "Mechanics, with a backbone that knows nothing: everything is counted or said to be missing."
    from omnipersona.pictures import png_bytes

    files = [(f"{i}.png", png_bytes(world.photo(char, i).image)) for i in range(10)]
    learnt, kept = hold_out(uploaded_data(files), photos_to_hold_out(10))
    card = scorecard(bb, concept, {}, HeldOut.of_photographs(kept, learnt), drawings=1)
    assert card.recognised.n == 2 and card.drawings_recognised.n == 1 and card.missing
