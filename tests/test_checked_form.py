"Check and Train refuse the same, all of it at once, each at its row and with what could be written instead."

from types import SimpleNamespace

import pytest

from omnipersona.basics import OmniError
from omnipersona.concept.checked_form import check_facts, check_form, check_texts, possible_name
from omnipersona.concept.example_requests import example_requests
from omnipersona.concept.learn import learn
from omnipersona.concept.losses import Recipe
from omnipersona.concept.plain_names import understand_names
from omnipersona.concept.requests import ConceptTexts
from omnipersona.concept.sampling import EncodedData, SamplesPerStep
from omnipersona.concept.spelling import complete_keys, complete_values, near_words, own_spelling, suggest_values
from omnipersona.data import ConceptData
from omnipersona.model.tokenizer import tiny_tokenizer
from omnipersona.toyworld.scenes import FACTS, Character
from omnipersona.widgets.forms import uploaded_data


@pytest.fixture(scope="module")
def words():
    return SimpleNamespace(tok=tiny_tokenizer())


class FreeText:
    "A tokenizer that reads everything."

    words, names, names_pretrained, vocab_size, spare = frozenset(), ["<name_0>"], False, 1000, 100
    hf = SimpleNamespace(get_added_tokens_decoder=dict, token_to_id=lambda text: None)

    def __call__(self, text):
        return [1]


FREE = SimpleNamespace(tok=FreeText())
HUMAN = [("toy", "Green drum"), ("food", "pizza"), ("friend", "my sister Anna"), ("hobby", "a kite"), ("", "a hat")]


# ---- one check for Check and Train --------------------------------------------------------------------------------
def test_all_problems_at_once_each_at_its_row(words):
    form = check_form(words, "Mrs Fox", [*HUMAN, ("toy", "a ball"), ("ride", "")], "a red zeppelin")
    places = [(p.field, p.row, p.part) for p in form.problems]
    assert places == [
        ("name", None, ""),
        ("facts", 1, "value"),
        ("facts", 2, "value"),
        ("facts", 3, "key"),
        ("facts", 4, "key"),
        ("facts", 5, "key"),
        ("description", None, ""),
    ]
    assert form.at("facts", 1)[0].suggestions and "pizza" in form.at("facts", 1)[0].message
    assert "for example 'Mrs-Fox'" in form.at("name")[0].message
    with pytest.raises(OmniError) as e:
        form.require()
    assert all(word in str(e.value) for word in ("Mrs Fox", "pizza", "Anna", "hobby", "a hat", "toy", "zeppelin"))


ROWS = [
    [],
    [("toy", "a red kite")],
    [("Toy", "RED KITE!")],
    [("toy", "a pizza")],
    [("hobby", "a kite")],
    [("toy", "the kite of <rex>")],
    [("toy", "the kite of <maeve>")],
    [("toy", "<|im_end|>")],
    [("toy", "<name_3>")],
    [("toy", "\x00")],
    [("toy", "a" * 100_000)],
    [("the toy of maeve", "a kite")],
]


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: repr(rows)[:40])
@pytest.mark.parametrize("description", ["", "a red spotted dog", "a shy dog"])
def test_check_approves_what_train_learns_and_nothing_else(bb, world, rows, description):
    photo = world.photo(seed=3).image
    form = check_form(bb, "maeve", rows, description, lambda facts, told: ConceptData([photo], facts=facts))

    def train():
        return EncodedData(bb, ConceptData([photo], facts=dict(rows), description=description), "maeve")

    if form.ok:
        assert train().facts is not None
    else:
        with pytest.raises(OmniError):
            train()


def test_what_was_checked_is_learnt(bb, world):
    form = check_form(
        bb,
        " maeve ",
        [("Toy", "Green drum")],
        "",
        lambda f, d: world.concept_data(Character.design(facts=f), 2),
        Recipe,
    )
    concept = learn(bb, form.require().data, form.name, recipe=form.recipe, steps=1, warmup_steps=1, progress=False)
    assert concept.facts == {"toy": "a green drum"} and concept.name == "maeve"
    assert form.respelled == [(0, "Green drum", "a green drum")]


def test_problems_of_pictures_come_with_those_of_facts(words):
    form = check_form(words, "maeve", HUMAN, "", lambda f, d: uploaded_data([("a.png", b"no"), ("b.png", b"")], f, d))
    assert form.at("images") and len(form.at("facts")) == 4 and form.data is None
    assert "a.png" in str(form.at("images")[0]) and "b.png" in str(form.at("images")[0])
    nothing = check_form(words, "maeve", [], "", lambda f, d: uploaded_data([], f, d))
    assert [p.field for p in nothing.problems] == ["images"]


def test_problems_of_captions_and_questions_too(words, world):
    photo = world.photo(seed=3).image
    data = ConceptData(
        [photo], ["<sks> sleeping"], qa=[(0, "is <sks> shy ?", "no")], edits=[(photo, "shave <sks>", photo)]
    )
    form = check_form(words, "maeve", [], "", lambda f, d: data)
    assert [(p.field, p.row) for p in form.problems] == [("captions", 0), ("qa", 0), ("edits", 0)]
    assert [str(p) for p in check_texts(words, data, "maeve")] == [str(p) for p in form.problems]


@pytest.mark.parametrize(
    "recipe",
    [lambda: Recipe(steps=-1), lambda: Recipe(n_und=900), lambda: Recipe(samples=SamplesPerStep().only("edit"))],
)
def test_problems_of_the_recipe(words, world, recipe):
    form = check_form(words, "maeve", [], "", lambda f, d: ConceptData([world.photo(seed=3).image]), recipe)
    assert [p.field for p in form.problems] == ["recipe"] and form.recipe is None and form.data is not None


@pytest.mark.parametrize("typed", ["Mrs Fox", " Zoe\u0301 ", "a/b", "x" * 40, "<maeve>"])
def test_a_name_near_to_an_impossible_one(words, typed):
    (p,) = check_form(words, typed, []).problems
    assert p.field == "name" and check_form(words, p.suggestions[0], []).ok
    assert possible_name("\u00bf?") == "" and not check_form(words, "?", []).problems[0].suggestions


# ---- suggestions --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "typed, own",
    [
        ("Green drum", "a green drum"),
        ("a Green  Drum.", "a green drum"),
        ("green", "green"),
        ("beach", "the beach"),
        ("At the beach!", "the beach"),
        ("spotted blue dog", "a blue spotted dog"),
        ("glasses", "glasses"),
        ("hat", "a hat"),
        ("pizza", "pizza"),
        ("a red kite and a ball", "a red kite and a ball"),
        ("", ""),
    ],
)
def test_facts_in_the_backbones_own_spelling(words, typed, own):
    assert own_spelling(words, typed) == own == own_spelling(words, own)
    assert own_spelling(FREE, typed) == typed.strip()


@pytest.mark.parametrize("key", [*FACTS, "pet", ""])
@pytest.mark.parametrize("value", ["pizza", "blu drumm", "my sister Anna", "beech", "grean", "?", "\U0001f355"])
def test_every_suggestion_can_be_learnt(words, key, value):
    "And is about what the fact is about."
    made = suggest_values(words, key, value)
    assert made and value not in made
    for text in made:
        assert ConceptTexts(words, "maeve").answer(text) and own_spelling(words, text) == text
        assert key not in FACTS or text.split()[-1] in FACTS[key]
    assert suggest_values(FREE, key, value) == []


def test_near_words_and_completions(words):
    assert near_words(words, "drumm")[0] == "drum" and near_words(words, "xyzzy") == []
    assert suggest_values(words, "toy", "blu drumm")[0] == "a blue drum"
    for typed in ("g", "Gr", "a gr", "green", "a green "):
        assert "a green ball" in complete_values(words, "toy", typed, 99)
    assert complete_values(words, "home", "be")[0] == "the beach" and complete_values(words, "toy", "xy") == []
    assert all(ConceptTexts(words, "maeve").answer(v) for v in complete_values(words, "friend", "", 99))
    assert complete_keys(words, "") == list(FACTS) and complete_keys(words, "fo") == ["food"]
    assert complete_values(FREE, "toy", "gr") == complete_keys(FREE, "t") == near_words(FREE, "drumm") == []


def test_free_text_is_taken_as_it_is():
    facts, problems, respelled = check_facts(FREE, HUMAN[:4], "maeve")
    assert facts == dict(HUMAN[:4]) and not problems and not respelled


# ---- examples to click --------------------------------------------------------------------------------------------
FACT_SETS = [
    {},
    {"toy": "a red kite"},
    {"toy": "a red kite", "home": "the beach", "food": "a green apple"},
    {"hobby": "chess"},
]


@pytest.mark.parametrize("facts", FACT_SETS, ids=str)
@pytest.mark.parametrize("bb_", ["words", "free"])
def test_examples_come_from_the_facts_and_can_be_read(words, facts, bb_):
    backbone = words if bb_ == "words" else FREE
    made = example_requests(backbone, "maeve", facts)
    assert list(made) == ["ask", "draw", "edit"] and all(1 < len(examples) <= 3 for examples in made.values())
    for example in [e for examples in made.values() for e in examples]:
        assert ConceptTexts(backbone, "maeve").say(example.text)
        read = understand_names(example.label, ["maeve"], words).request
        assert read == example.text.replace(" ?", "?")
    assert all(e.picture for e in made["edit"]) and not any(e.picture for e in made["draw"])
    if "toy" in facts:
        assert made["ask"][0].label == "what is the toy of maeve?" and any(e.replay for e in made["draw"])
    if "hobby" in facts:
        assert any("hobby" in e.text for e in made["ask"]) == (bb_ == "free")


# ---- a name that is also a word -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["red", "to", "the", "left"])
def test_a_concept_may_be_called_like_a_word_of_the_vocabulary(bb, world, name):
    "An instruction that says 'add a red car' is about the colour; a caption has to say whom it shows."
    data = world.concept_data(Character.design(species="dog", facts={"toy": "a red kite"}), 10)
    assert any(name in text.split() for _, text, _ in data.edits)
    form = check_form(bb, name, [("toy", "a red kite")], "a red spotted dog", lambda f, d: data, Recipe)
    concept = learn(bb, form.require().data, form.name, recipe=form.recipe, steps=1, warmup_steps=1, progress=False)
    assert concept.name == name
    assert example_requests(bb, name, concept.facts)["edit"]
    bare = check_form(bb, name, [], "", lambda f, d: ConceptData(data.images[:1], [f"a photo of {name}"]))
    assert [p.field for p in bare.problems] == ["captions"] and f"did you mean <{name}>?" in bare.problems[0].message
    other = check_form(
        bb,
        "maeve",
        [],
        "",
        lambda f, d: ConceptData(data.images[:1], edits=[(data.images[0], "move maeve", data.images[0])]),
    )
    assert [p.field for p in other.problems] == ["edits"]
