"Names as people type them mean the concept, and nothing else does."

from types import SimpleNamespace

import pytest

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.concept.plain_names import understand_names
from omnipersona.model.tokenizer import tiny_tokenizer


@pytest.fixture(scope="module")
def words():
    "A backbone with the tiny vocabulary; only its tokenizer is needed."
    return SimpleNamespace(tok=tiny_tokenizer())


class FreeText:
    "A tokenizer that reads everything."

    words = frozenset()

    def __call__(self, text):
        return [1]


FREE = SimpleNamespace(tok=FreeText())

MEANT = {
    "is maeve in the photo?": "is <maeve> in the photo?",
    "Is Maeve here?": "Is <maeve> here?",
    "MAEVE!": "<maeve>!",
    "maeve, at the beach": "<maeve>, at the beach",
    "(maeve)": "(<maeve>)",
    '"maeve"': '"<maeve>"',
    "maeve\u2013a dog": "<maeve>\u2013a dog",
    "where's maeve?": "where is <maeve>?",
    "what is maeve's toy?": "what is the toy of <maeve>?",
    "What is Maeve\u2019s favourite toy?": "What is the favourite toy of <maeve>?",
    "a photo of maeve's red kite": "a photo of the red kite of <maeve>",
    "maeve's at the beach": "<maeve> is at the beach",
    "where is <Maeve> ?": "where is <maeve> ?",
    "where is < maeve >?": "where is <maeve>?",
    "\uff4d\uff41\uff45\uff56\uff45 is here": "<maeve> is here",  # full-width letters
    "ma\u200beve is here": "<maeve> is here",  # an invisible space
    "is <maeve> with maeve?": "is <maeve> with <maeve>?",
    "maeve- and others": "<maeve>- and others",
}


@pytest.mark.parametrize("typed", MEANT)
def test_a_name_means_the_concept(words, typed):
    u = understand_names(typed, ["maeve"], words)
    assert u.request == MEANT[typed] and u.changed and str(u) == f"understood as: {u.request}" and not u.unsure


def test_places_count_the_characters_that_were_typed(words):
    typed = "Zoe\u0301 and Ma\u200beve, maeve's toy"
    u = understand_names(typed, ["zoe", "maeve"], words)
    assert u.request == "<zoe> and <maeve>, the toy of <maeve>"
    assert [typed[c.start : c.end] for c in u.changes] == [c.was for c in u.changes]
    assert [c.name for c in u.changes] == ["zoe", "maeve", "maeve"]
    for composed in ("Zo\u00e9", "Zoe\u0301"):
        assert understand_names(composed, ["zoe"], words).request == "<zoe>"


@pytest.mark.parametrize(
    "typed",
    ["mimaeve", "maeves", "maeve-like", "re-maeve", "maeve_2", "maeve2", "a red kite", "<rex>", "is <maeve> here ?"],
)
def test_other_words_are_left_alone(words, typed):
    u = understand_names(typed, ["maeve"], words)
    assert u.request == typed and not u.changed and str(u) == "" and not u.changes


def test_two_concepts(words):
    u = understand_names("is Bo with maeve, and where is bo-2?", ["maeve", "bo", "bo-2"], words)
    assert u.request == "is <bo> with <maeve>, and where is <bo-2>?"


def test_two_names_that_differ_in_capitals_are_told_apart_or_left(words):
    assert understand_names("is Max with max ?", ["Max", "max"], words).request == "is <Max> with <max> ?"
    assert understand_names("is MAX here ?", ["Max", "max"], words).request == "is MAX here ?"


WORDS = {
    "is there a red kite ?": "is there a red kite ?",
    "Red kite": "Red kite",
    "IS RED HERE?": "IS RED HERE?",
    "where is Red?": "where is <red>?",
    "what is red's toy?": "what is the toy of <red>?",
    "is <red> in a red car?": "is <red> in a red car?",
    "a photo of Red in a red car": "a photo of <red> in a red car",
}


@pytest.mark.parametrize("typed", WORDS)
def test_a_name_that_is_a_word_is_read_only_where_it_is_safe(words, typed):
    u = understand_names(typed, ["red"], words)
    assert u.request == WORDS[typed]
    left = WORDS[typed].lower().replace("<red>", "").count("red")
    assert [c.now for c in u.unsure] == ["<red>"] * left


def test_or_where_it_is_asked_for(words):
    (u,) = understand_names("where is red?", ["red"], words).unsure
    assert understand_names("where is red?", ["red"], words, always=[u.name]).request == "where is <red>?"


def test_what_is_a_word_depends_on_the_backbone(words):
    "The tiny vocabulary has no daisies, so daisy can only be a name; for free text it may be the flower."
    assert understand_names("where is daisy?", ["daisy"], words).request == "where is <daisy>?"
    assert understand_names("where is daisy?", ["daisy"], FREE).unsure
    assert understand_names("where is maeve?", ["maeve"], FREE).request == "where is <maeve>?"


def test_a_backbone_that_reads_a_possessive_gets_it(words):
    assert understand_names("what is maeve's toy?", ["maeve"], FREE).request == "what is <maeve>'s toy?"


def test_nothing_but_text_is_refused():
    for bad in (None, 3, ["maeve"], "", "  "):
        with pytest.raises(OmniError):
            understand_names(bad, ["maeve"])


def test_a_persona_is_strict_unless_told_that_a_name_is_also_a_word(bb, concept):
    red = Concept(bb, "red", concept.embeddings.detach())
    with pytest.raises(OmniError, match="did you mean <red>"):
        Persona(bb, red).ask("is there a red kite ?", max_new_tokens=1)
    p = Persona(bb, red, words=["red"])
    assert p.ask("is there a red kite ?", max_new_tokens=1).prompt == "is there a red kite ?"
    asked = understand_names("what is red's toy?", p.concepts.items, bb)
    assert p.ask(asked.request, max_new_tokens=1).prompt == "what is the toy of <red>?"
    with pytest.raises(OmniError, match="did you mean <maeve>"):
        Persona(bb, [red, concept], words=["red"]).ask("is maeve with a red kite ?", max_new_tokens=1)


@pytest.mark.parametrize(
    "typed, read",
    [
        ("What's maeve's toy?", "What is the toy of <maeve>?"),
        ("where\u2019s maeve", "where is <maeve>"),
        ("a what's-his-name with maeve", "a what's-his-name with <maeve>"),
    ],
)
def test_a_contraction_is_written_out_where_the_backbone_cannot_read_it(words, typed, read):
    assert understand_names(typed, ["maeve"], words).request == read
    assert "what is" not in understand_names("what's up, maeve?", ["maeve"], FREE).request
