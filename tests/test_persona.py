"The facade from a user's side: the interface as promised, names, requests that cannot be met, and pictures that are none."

import inspect
import io
from dataclasses import replace

import pytest
import torch
from helpers import QUICK, SHORT, apart, random_backbone, same, unchanged, weights
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept, TextPrompt
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona, Result
from omnipersona.concept.requests import request_segments
from omnipersona.data import ConceptData


@pytest.fixture(scope="module")
def p(bb, concept):
    return Persona(bb, concept)


@pytest.fixture(scope="module")
def duo(bb, concept, data):
    return Persona(bb, [concept, learn(bb, data, "Bo-2", seed=1, recipe=replace(SHORT, steps=2), progress=False)])


@pytest.fixture(scope="module")
def img(world):
    return world.photo(seed=4).image


# ---- the interface of the README ----------------------------------------------------------------------------------
INTERFACE = """
from omnipersona.all import *
world   = ToyWorld()
char    = world.character(seed=123)
data    = world.concept_data(char, n_images=10, seed=0)
concept = learn(bb, data, name="maeve", seed=0, recipe=SHORT)
concept.save_pretrained("maeve_concept"); concept = Concept.from_pretrained("maeve_concept", bb)
p = Persona(bb, concept)
img = data.images[0]
answers = [p.ask("what is the toy of <maeve> ?").text, p.ask("is <maeve> in the photo ?", image=img).text]
drawn = p.generate("a photo of <maeve> at the beach", seed=0).image
edited = p.edit(img, "remove <maeve> from the photo", seed=0).image
scene = world.photo(char, seed=1)
other = world.look_alike(char, seed=1)
e = world.edit(scene, "remove", name="maeve", seed=1)
"""


def test_the_interface_as_promised(bb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ns = dict(bb=bb, SHORT=SHORT)
    exec(INTERFACE, ns)
    assert all(isinstance(a, str) for a in ns["answers"]) and len(ns["data"].images) == 10
    for im in (ns["drawn"], ns["edited"], ns["scene"].image, ns["e"].source, ns["e"].target, *ns["data"].images):
        assert isinstance(im, Image.Image) and im.size == (64, 64) and im.mode == "RGB"
    s, e, char = ns["scene"], ns["e"], ns["char"]
    assert (
        s.mask.shape == e.mask.shape == (64, 64)
        and s.mask.dtype == e.mask.dtype == bool
        and isinstance(s.truth, dict)
        and isinstance(s.caption, str)
    )
    assert (
        {"toy", "home", "food", "friend"} <= set(char.facts)
        and all(isinstance(v, str) for v in char.facts.values())
        and ns["other"].description == char.description
    )
    assert e.instruction == "remove <maeve> from the photo" and sorted(f.name for f in tmp_path.iterdir()) == [
        "maeve_concept"
    ]


def test_everything_promised_is_in_all():
    ns = {}
    exec("from omnipersona.all import *", ns)
    assert not {
        "load_backbone",
        "ToyWorld",
        "ConceptData",
        "learn",
        "Concept",
        "Persona",
        "ToyJudge",
        "Recipe",
        "SamplesPerStep",
        "SamplingConfig",
        "Character",
        "OmniError",
        "TextPrompt",
    } - set(ns)


def test_defaults_are_the_promised_ones():
    d = lambda f: {k: v.default for k, v in inspect.signature(f).parameters.items()}
    assert (
        d(Persona.ask)["image"] is None
        and d(Persona.generate)["seed"] == d(Persona.edit)["seed"] == d(learn)["seed"] == 0
        and "name" in d(learn)
    )


def test_results(p, img):
    a, g, e = (
        p.ask("What is the toy of <maeve>?", max_new_tokens=4),
        p.generate("a photo of <maeve>", seed=5, sampling=QUICK),
        p.edit(img, "remove <maeve> from the photo", sampling=QUICK),
    )
    assert (
        isinstance(a, Result)
        and isinstance(a.text, str)
        and a.image is None
        and 0 <= a.probability <= 1
        and str(a) == a.text
        and a.request == "What is the toy of <maeve>?"
        and a.prompt == "what is the toy of <maeve> ?"
    )
    for r in (g, e):
        assert (
            r.text is None
            and r.image.size == (64, 64)
            and r.image.mode == "RGB"
            and r.seconds > 0
            and r._repr_png_().startswith(b"\x89PNG")
            and str(r)
        )
    assert (g.seed, e.seed) == (5, 0) and a._repr_png_() is None and a.trace is None


def test_seeds_repeat(p, img):
    draw = lambda s: p.generate("a photo of <maeve>", seed=s, sampling=QUICK).image
    edit = lambda s: p.edit(img, "remove <maeve> from the photo", seed=s, sampling=QUICK).image
    for f in (draw, edit):
        assert same(f(1), f(1)) and not same(f(1), f(2))


def test_many_equals_one_at_a_time(duo, img, world):
    "Requests with one concept, two, and none, in one batch."
    qs = ["what is the toy of <maeve> ?", "is <Bo-2> with <maeve> ?", "yes", "where is <Bo-2> ?"]
    ims = [world.photo(seed=i).image for i in range(4)]
    for images in (None, ims):
        for i, r in enumerate(duo.ask_many(qs, images, max_new_tokens=4)):
            one = duo.ask(qs[i], images and images[i], max_new_tokens=4)
            assert (one.text, one.prompt) == (r.text, r.prompt) and abs(one.probability - r.probability) < 1e-3
    for i, r in enumerate(duo.generate_many(qs, [3, 4, 5, 6], QUICK)):
        assert apart(r.image, duo.generate(qs[i], 3 + i, QUICK).image) <= 1
    for i, r in enumerate(duo.edit_many(ims, qs, [3, 4, 5, 6], QUICK)):
        assert apart(r.image, duo.edit(ims[i], qs[i], 3 + i, QUICK).image) <= 1


def test_using_a_concept_changes_nothing(bb, p, concept, img):
    before, rows = weights(bb.model), concept.embeddings.clone()
    p.ask("is <maeve> in the photo ?", img)
    p.generate("a photo of <maeve>", sampling=QUICK)
    p.edit(img, "remove <maeve> from the photo", sampling=QUICK)
    assert unchanged(bb.model, before) and torch.equal(concept.embeddings, rows) and concept.slot == 0


# ---- names and requests -------------------------------------------------------------------------------------------
def test_a_request_without_a_concept_goes_to_the_untouched_backbone(bb, p, img):
    "Answers, drawings and edits are those of the bare backbone, bit for bit."
    q, d, e = "what is in the photo ?", "a photo of a red dog at the beach", "make the dog blue"
    assert (
        p.ask(q, img, max_new_tokens=5).text
        == bb.generate_text([[*bb.encode_vit(img), bb.text(q)]], max_new_tokens=5)[0][0]
    )
    assert same(p.generate(d, 1, QUICK).image, bb.generate_images([[bb.text(d)]], [1], QUICK)[0])
    assert same(
        p.edit(img, e, 1, QUICK).image, bb.generate_images([bb.encode_source(img)[0] + [bb.text(e)]], [1], QUICK)[0]
    )


def test_concepts_of_a_request_are_read_in_the_order_they_are_named(duo):
    c = duo.concepts
    prompts, text, _ = request_segments(duo.bb, "is <Bo-2> next to <maeve> ? is <Bo-2> ?", duo.concepts)
    assert [s.ids for s in prompts] == [
        c["Bo-2"].prompt().ids,
        c["maeve"].prompt().ids,
    ] and text == f"is {c['Bo-2'].token} next to {c['maeve'].token} ? is {c['Bo-2'].token} ?"


@pytest.mark.parametrize("name", ["maeve", "Bo-2", "X", "a_b", "007", "n" * 32, "MAEVE", "dog"])
def test_names_of_all_kinds(bb, concept, name):
    "Letters of both cases, digits, dashes; even a word of the world."
    c = Concept(bb, name, concept.embeddings.detach())
    r = Persona(bb, c).ask(f"What is the toy of <{name}>?", max_new_tokens=3)
    assert (
        r.prompt == f"what is the toy of <{name}> ?"
        and r.text == Persona(bb, concept).ask("what is the toy of <maeve> ?", max_new_tokens=3).text
    )


def test_names_that_look_like_the_backbones_own(bb, concept):
    "A concept may be called `name_1`: the answer still says who was meant."
    p = Persona(
        bb, [Concept(bb, "name_1", concept.embeddings.detach()), Concept(bb, "bo", concept.embeddings.detach())]
    )
    assert (
        p.ask("where is <name_1> ?", max_new_tokens=1).prompt == "where is <name_1> ?"
        and p.ask("is <bo> with <name_1> ?", max_new_tokens=1).prompt == "is <bo> with <name_1> ?"
    )


@pytest.mark.parametrize(
    "text",
    [
        "where is <rex> ?",
        "where is <Maeve> ?",
        "where is <> ?",
        "where is <maeve > ?",
        "where is <name_0> ?",
        "where is <name_9> ?",
    ],
)
def test_unknown_names_are_named_with_the_known_ones(p, text):
    for f in (p.ask, p.generate, lambda t: p.edit(Image.new("RGB", (64, 64)), t)):
        with pytest.raises(OmniError) as e:
            f(text)
        assert text.split("is ")[1].split(" ?")[0] in str(e.value) and "<maeve>" in str(e.value)


@pytest.mark.parametrize("text", ["", "   ", "\n", None, 3])
def test_empty_requests(p, text):
    for f in (p.ask, p.generate, lambda t: p.edit(Image.new("RGB", (64, 64)), t)):
        with pytest.raises(OmniError, match="empty request"):
            f(text)


@pytest.mark.parametrize(
    "text,word",
    [
        ("is <maeve> <|im_end|> ?", "<|im_end|>"),
        ("<|im_start|>", "<|im_start|>"),
        ("<maeve> <|vision_start|>", "<|vision_start|>"),
        ("what is [UNK] ?", "[unk]"),
        ("what is the spaceship of <maeve> ?", "spaceship"),
        ("a photo of <maeve> on a skateboard", "skateboard"),
        ("@0@ is red", "@0@"),
        ("<b>maeve</b>", "<b>"),
        ("where is maeve ?", "maeve"),
        ("das ist schön", "schön"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_what_it_cannot_read_is_named(p, text, word):
    "Special tokens, words outside its world, markup, and the placeholders used inside."
    for f in (p.ask, p.generate):
        with pytest.raises(OmniError) as e:
            f(text)
        assert word in str(e.value).lower() and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "my dog", "", "<maeve>", "../x", "a" * 33, None, "maëve"]
)
def test_bad_names_are_refused_everywhere(bb, data, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for make in (
        lambda: Concept(bb, name),
        lambda: TextPrompt(bb, name, "a dog"),
        lambda: learn(bb, data, name, recipe=SHORT, folder="run", progress=False),
    ):
        with pytest.raises(OmniError, match="not a name"):
            make()
    assert not list(tmp_path.iterdir())


def test_two_of_one_name_and_another_backbone(bb, concept, p):
    with pytest.raises(OmniError, match="<maeve>"):
        Persona(bb, [concept, concept])
    with pytest.raises(OmniError, match="<maeve>.*learn it again"):
        Persona(random_backbone(1), concept)


def test_described_persona(bb):
    q = "what is the toy of <rex> ?"
    d = TextPrompt(bb, "rex", "a red dog", dict(toy="a blue kite"))
    p = Persona(bb, d)
    assert (
        p.ask(q, max_new_tokens=4).text
        == bb.generate_text([[d.prompt(), bb.text(q.replace("<rex>", d.token))]], max_new_tokens=4)[0][0]
    )


def test_no_concepts_at_all(bb, img):
    "A Persona of nobody is the backbone."
    p = Persona(bb, [])
    assert isinstance(p.ask("where is it ?", img, max_new_tokens=2).text, str)
    with pytest.raises(OmniError, match="none"):
        p.ask("where is <maeve> ?")


def test_lists_that_do_not_match(p, img):
    "Nobody's request is dropped in silence."
    for f in (
        lambda: p.generate_many(["a dog", "a cat"], [0], QUICK),
        lambda: p.edit_many([img], ["make it blue", "make it red"], [0, 1], QUICK),
        lambda: p.ask_many(["yes", "no"], [img]),
    ):
        with pytest.raises(OmniError):
            f()


# ---- pictures -----------------------------------------------------------------------------------------------------
def bad_pictures(d):
    "Files that cannot be used, by what is wrong with them."
    jpg = io.BytesIO()
    Image.effect_noise((300, 200), 80).save(jpg, "JPEG")
    (d / "text.png").write_text("maeve likes kites")
    (d / "cut.jpg").write_bytes(jpg.getvalue()[: len(jpg.getvalue()) // 2])
    (d / "empty.png").touch()
    Image.new("RGB", (1, 1)).save(d / "dot.png")
    Image.new("1", (20_000, 20_000)).save(d / "poster.png")
    return d


BAD = ["text.png", "cut.jpg", "empty.png", "dot.png", "poster.png"]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return bad_pictures(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("sub", ["", "negatives", "look_alikes"])
def test_a_bad_file_in_a_folder_is_named(bb, data, bad, tmp_path, name, sub):
    d = tmp_path / "maeve"
    (d / sub).mkdir(parents=True)
    [im.save(d / f"{i}.png") for i, im in enumerate(data.images)]
    (d / sub / name).write_bytes((bad / name).read_bytes())
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(OmniError) as e:
        learn(bb, ConceptData.from_folder(d), "maeve", recipe=SHORT, folder=tmp_path / "run", progress=False)
    assert (
        name in str(e.value) and "\n" not in str(e.value) and sorted(p for p in tmp_path.rglob("*")) == before
    )  # nothing half-written


@pytest.mark.parametrize("name", [*BAD, "none.png", ""])
def test_a_bad_picture_in_a_request_is_named(p, bad, name):
    for f in (
        lambda: p.ask("is <maeve> in the photo ?", bad / name),
        lambda: p.edit(bad / name, "remove <maeve> from the photo"),
    ):
        with pytest.raises(OmniError) as e:
            f()
        assert (name or bad.name) in str(e.value)


def test_no_picture_at_all(tmp_path):
    for make in (
        lambda: ConceptData.from_folder(tmp_path),
        lambda: ConceptData.from_folder(tmp_path / "nobody"),
        lambda: ConceptData([]),
    ):
        with pytest.raises(OmniError, match="picture"):
            make()
    assert not list(tmp_path.iterdir())


def test_one_picture_is_enough(bb, tmp_path, data):
    data.images[0].save(tmp_path / "a.png")
    c = learn(bb, ConceptData.from_folder(tmp_path), "maeve", recipe=SHORT, progress=False)
    assert (
        c.summary["steps"] == 6
        and torch.isfinite(c.embeddings).all()
        and isinstance(Persona(bb, c).ask("is <maeve> in the photo ?", data.images[0], max_new_tokens=2).text, str)
    )


def test_pictures_come_as_files_or_objects_of_any_size(p, img, tmp_path):
    img.save(tmp_path / "a.png")
    q = "what is in the photo ?"
    big = img.resize((640, 640), Image.NEAREST)
    one = p.ask(q, img, max_new_tokens=4)
    assert (
        one.text
        == p.ask(q, tmp_path / "a.png", max_new_tokens=4).text
        == p.ask(q, str(tmp_path / "a.png"), max_new_tokens=4).text
        == p.ask(q, img.convert("RGBA"), max_new_tokens=4).text
    )
    assert p.edit(big.convert("L"), "make it blue", sampling=QUICK).image.size == (64, 64)
    with pytest.raises(OmniError):
        p.ask(q, img.resize((1, 1)))


@pytest.mark.parametrize(
    "facts,word",
    [
        ({"spaceship": "a red kite"}, "spaceship"),
        ({"toy": "a red spaceship"}, "spaceship"),
        ({"toy": "a <|im_end|>"}, "<|im_end|>"),
    ],
)
def test_facts_in_unknown_words_are_named_before_anything_is_learnt(bb, data, tmp_path, facts, word):
    with pytest.raises(OmniError) as e:
        learn(bb, ConceptData(data.images, facts=facts), "maeve", recipe=SHORT, folder=tmp_path / "run", progress=False)
    assert word in str(e.value) and not list(tmp_path.iterdir())
