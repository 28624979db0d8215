"The persona from a user's side: the interface as promised, names, requests that cannot be met, bad pictures."

import copy
import inspect
import io
import pickle
from dataclasses import replace

import pytest
import torch
from helpers import QUICK, SHORT, apart, defaults, random_backbone, same, unchanged, weights
from PIL import Image

import omnipersona.concept.persona as persona_module
from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept, TextPrompt
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona, Result
from omnipersona.concept.requests import request_segments, restore_answer
from omnipersona.data import ConceptData
from omnipersona.model.bagel import random_checkpoint
from omnipersona.model.loading import load_backbone


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
answers = [p.ask("what is the toy of <maeve> ?").text, p.ask("is <maeve> in the photo ?", img).text]
drawn = p.generate("a photo of <maeve> at the beach", seed=0).image
edited = p.edit("remove <maeve> from the photo", img, seed=0).image
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
    assert s.mask.shape == e.mask.shape == (64, 64) and s.mask.dtype == e.mask.dtype == bool
    assert isinstance(s.truth, dict) and isinstance(s.caption, str)
    assert {"toy", "home", "food", "friend"} <= set(char.facts)
    assert all(isinstance(v, str) for v in char.facts.values()) and ns["other"].description == char.description
    assert e.instruction == "remove <maeve> from the photo"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["maeve_concept"]


PROMISED = """load_backbone ToyWorld ConceptData learn Concept Persona ToyJudge Recipe SamplesPerStep SamplingConfig
Character OmniError TextPrompt"""


def test_everything_promised_is_in_all():
    ns = {}
    exec("from omnipersona.all import *", ns)
    assert not set(PROMISED.split()) - set(ns)


def test_defaults_are_the_promised_ones():
    def defaults_of(f):
        return {k: v.default for k, v in inspect.signature(f).parameters.items()}

    assert defaults_of(Persona.ask)["image"] is None and "name" in defaults_of(learn)
    assert all(defaults_of(f)["seed"] == 0 for f in (Persona.generate, Persona.edit, learn))
    assert [*inspect.signature(Persona.edit).parameters][1:3] == ["instruction", "image"]
    assert [*inspect.signature(Persona.ask).parameters][1:3] == ["question", "image"]


def test_results(p, img):
    question = "What is the toy of <maeve>?"
    a = p.ask(question, max_new_tokens=4)
    assert isinstance(a, Result) and isinstance(a.text, str) and a.image is None and 0 <= a.probability <= 1
    assert str(a) == a.text and a.request == a.prompt == question  # as it was typed
    assert a._repr_png_() is None and a.trace is None
    drawn = p.generate("a photo of <maeve>", seed=5, sampling=QUICK)
    edited = p.edit("remove <maeve> from the photo", img, sampling=QUICK)
    assert (drawn.seed, edited.seed) == (5, 0)
    for r in (drawn, edited):
        assert r.text is None and r.image.size == (64, 64) and r.image.mode == "RGB"
        assert r.seconds > 0 and r._repr_png_().startswith(b"\x89PNG") and str(r)


def test_results_are_data(p, img):
    "They pickle, copy and print, and hold what is needed to draw them again."
    drawn = p.generate("a photo of <maeve>", seed=5, sampling=QUICK, negative="last", replay=True)
    edited = p.edit("remove <maeve> from the photo", img, seed=3, sampling=QUICK)
    asked = p.ask("is <maeve> in the photo ?", img, max_new_tokens=2)
    for r in (drawn, edited, asked):
        for again in (pickle.loads(pickle.dumps(r)), copy.deepcopy(r)):
            assert str(again) == str(r) and (again.request, again.prompt) == (r.request, r.prompt)
            assert again.trace == r.trace and repr(r.trace) in repr(r)
            if r.image is not None:
                assert same(again.image, r.image) and same(p.redraw(again).image, r.image)
    assert not same(p.redraw(edited, seed=4).image, edited.image)
    other = p.redraw(drawn, request="a photo of a red dog", seed=1)
    assert same(other.image, p.generate("a photo of a red dog", 1, QUICK, negative="last").image) and not other.trace
    with pytest.raises(OmniError, match="only pictures are drawn again"):
        p.redraw(asked)


def test_seeds_repeat(p, img):
    def draw(seed):
        return p.generate("a photo of <maeve>", seed=seed, sampling=QUICK).image

    def edit(seed):
        return p.edit("remove <maeve> from the photo", img, seed=seed, sampling=QUICK).image

    for f in (draw, edit):
        assert same(f(1), f(1)) and not same(f(1), f(2))


@pytest.mark.parametrize("other", [dict(dtype=torch.float64), dict(dtype=torch.bfloat16), dict(device="meta")], ids=str)
def test_another_default_dtype_or_device(p, img, other):
    "The same seed, the same picture. A default device of `meta` stands for a GPU that the backbone is not on."

    def made():
        drawn = p.generate("a photo of <maeve>", seed=1, sampling=QUICK)
        edited = p.edit("remove <maeve> from the photo", img, seed=1, sampling=QUICK)
        return drawn.image, edited.image, p.ask("is <maeve> in the photo ?", img, max_new_tokens=3).text

    before = made()
    with defaults(**other):
        after = made()
    assert same(before[0], after[0]) and same(before[1], after[1]) and before[2] == after[2]


def test_many_equals_one_at_a_time(duo, img, world):
    "Requests with one concept, two, and none, in one batch."
    requests = ["what is the toy of <maeve> ?", "is <Bo-2> with <maeve> ?", "yes", "where is <Bo-2> ?"]
    photos, seeds = [world.photo(seed=i).image for i in range(4)], [3, 4, 5, 6]
    for images in (None, photos):
        for i, r in enumerate(duo.ask_many(requests, images, max_new_tokens=4)):
            one = duo.ask(requests[i], images and images[i], max_new_tokens=4)
            assert (one.text, one.prompt) == (r.text, r.prompt) and abs(one.probability - r.probability) < 1e-3
    for i, r in enumerate(duo.generate_many(requests, seeds, QUICK)):
        assert apart(r.image, duo.generate(requests[i], seeds[i], QUICK).image) <= 1
    for i, r in enumerate(duo.edit_many(requests, photos, seeds, QUICK)):
        assert apart(r.image, duo.edit(requests[i], photos[i], seeds[i], QUICK).image) <= 1


def test_nothing_asked_gives_nothing(p):
    assert p.ask_many([]) == p.ask_many([], []) == [] == p.generate_many([], []) == p.edit_many([], [], [])
    assert p.generate_many([], [], replay=True) == []


def test_many_questions_that_name_nobody(p, img):
    both = p.ask_many(["yes", "no"], [img, img], max_new_tokens=4)
    assert [r.text for r in both] == [p.ask(q, img, max_new_tokens=4).text for q in ("yes", "no")]
    said = p.ask_many(["yes", "no"], max_new_tokens=4)
    assert [r.text for r in said] == [p.ask(q, max_new_tokens=4).text for q in ("yes", "no")]


def test_a_source_is_read_and_encoded_once(bb, concept, img, tmp_path, monkeypatch):
    "Whatever guidance and replay do with it: one file, one pass through the ViT, one through the autoencoder."
    img.save(tmp_path / "a.png")
    calls = dict(read=[], vit=[], ae=[])
    vit, encode, read = bb.model.vit_model.forward, bb.ae.encode, persona_module.load_image

    def noted(kind, f):
        def call(*args, **kw):
            calls[kind].append(args)
            return f(*args, **kw)

        return call

    monkeypatch.setattr(bb.model.vit_model, "forward", noted("vit", vit))
    monkeypatch.setattr(bb.ae, "encode", noted("ae", encode))
    monkeypatch.setattr(persona_module, "load_image", noted("read", read))
    monkeypatch.setattr(Image, "open", noted("opened", Image.open))
    calls["opened"] = []
    three = replace(QUICK, cfg_img_scale=2.0)
    Persona(bb, concept).edit("remove <maeve> from the photo", tmp_path / "a.png", sampling=three)
    assert [len(calls[k]) for k in ("read", "opened", "vit", "ae")] == [1, 1, 1, 1]
    Persona(bb, concept).ask("is <maeve> in the photo ?", tmp_path / "a.png", max_new_tokens=1)
    assert [len(calls[k]) for k in ("opened", "vit", "ae")] == [2, 2, 1]


def test_using_a_concept_changes_nothing(bb, p, concept, img):
    before, embeddings = weights(bb.model), concept.embeddings.clone()
    p.ask("is <maeve> in the photo ?", img)
    p.generate("a photo of <maeve>", sampling=QUICK)
    p.edit("remove <maeve> from the photo", img, sampling=QUICK)
    assert unchanged(bb.model, before) and torch.equal(concept.embeddings, embeddings) and concept.slot == 0


# ---- names and requests -------------------------------------------------------------------------------------------
def test_a_request_without_a_concept_goes_to_the_untouched_backbone(bb, p, img):
    "Answers, drawings and edits are those of the bare backbone, bit for bit."
    question, request, change = "what is in the photo ?", "a photo of a red dog at the beach", "make the dog blue"
    bare = bb.generate_text([[*bb.encode_vit(img), bb.text(question)]], max_new_tokens=5)[0][0]
    assert p.ask(question, img, max_new_tokens=5).text == restore_answer(bare, p.concepts)
    assert same(p.generate(request, 1, QUICK).image, bb.generate_images([[bb.text(request)]], [1], QUICK)[0])
    edited = bb.generate_images([bb.encode_source(img)[0] + [bb.text(change)]], [1], QUICK)[0]
    assert same(p.edit(change, img, 1, QUICK).image, edited)


def test_concepts_of_a_request_are_read_in_the_order_they_are_named(duo):
    first, second = duo.concepts["Bo-2"], duo.concepts["maeve"]
    prompts, text, _ = request_segments(duo.bb, "is <Bo-2> next to <maeve> ? is <Bo-2> ?", duo.concepts)
    assert [s.ids for s in prompts] == [first.prompt().ids, second.prompt().ids]
    assert text == f"is {first.token} next to {second.token} ? is {first.token} ?"


@pytest.mark.parametrize("name", ["maeve", "Bo-2", "X", "a_b", "007", "n" * 32, "MAEVE", "dog"])
def test_names_of_all_kinds(bb, concept, name):
    "Letters of both cases, digits, dashes; even a word of the world."
    c = Concept(bb, name, concept.embeddings.detach())
    r = Persona(bb, c).ask(f"What is the toy of <{name}>?", max_new_tokens=3)
    assert r.prompt == f"What is the toy of <{name}>?"
    assert r.text == Persona(bb, concept).ask("what is the toy of <maeve> ?", max_new_tokens=3).text


def test_names_that_look_like_the_backbones_own(bb, concept):
    "A concept may be called `name_1`: the answer still says who was meant."
    p = Persona(bb, [Concept(bb, n, concept.embeddings.detach()) for n in ("name_1", "bo")])
    for request in ("where is <name_1> ?", "is <bo> with <name_1> ?"):
        assert p.ask(request, max_new_tokens=1).prompt == request


BLANK = Image.new("RGB", (64, 64))
UNKNOWN = ["<rex>", "<Maeve>", "<>", "<maeve >", "<name_0>", "<name_9>"]


def every_way(p):
    "A request as a question, a prompt and an instruction."
    return p.ask, p.generate, lambda text: p.edit(text, BLANK)


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_names_are_named_with_the_known_ones(p, name):
    for f in every_way(p):
        with pytest.raises(OmniError) as e:
            f(f"where is {name} ?")
        assert name in str(e.value) and "<maeve>" in str(e.value)


NEARLY = ["Is maeve in the photo?", "a photo of Maeve", "where is <Maeve> ?", "<maeve > at the beach", "MAEVE's toy"]


@pytest.mark.parametrize("request_", NEARLY)
def test_a_name_is_never_read_as_a_word(bb, tiny, concept, request_):
    "On no backbone is a request answered without the concept that it speaks of."
    words = TextPrompt(tiny, "maeve", "a red dog")
    for p in (Persona(bb, concept), Persona(tiny, words)):
        for f in every_way(p):
            with pytest.raises(OmniError, match="did you mean <maeve>"):
                f(request_)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    "BAGEL's layout with random weights; its tokenizer reads bytes and changes nothing."
    return load_backbone(random_checkpoint(tmp_path_factory.mktemp("o") / "bagel"), torch.float32, "cpu")


@pytest.mark.parametrize(
    "request_", ["<maeve>'s toy", "What did <maeve> eat on May 3rd, 2019? 3.5 kg!", "HELLO, <maeve>"]
)
def test_bagel_reads_requests_verbatim(official, request_):
    p = Persona(official, Concept(official, "maeve"))
    token = p.concepts["maeve"].token
    prompts, _, text = request_segments(official, request_, p.concepts)
    assert len(prompts) == 1 and official.tok.decode(text.ids) == request_.replace("<maeve>", token)
    assert p.ask(request_, max_new_tokens=1).prompt == request_
    assert p.generate(request_, sampling=QUICK).prompt == request_
    for nearly in NEARLY:
        with pytest.raises(OmniError, match="did you mean <maeve>"):
            p.ask(nearly)


def test_the_tiny_tokenizer_does_not_know_every_word(tiny):
    "A possessive is refused, with the word that it does not know; the name is read."
    p = Persona(tiny, TextPrompt(tiny, "maeve", "a red dog"))
    with pytest.raises(OmniError, match="<maeve>'s toy.*does not know"):
        p.generate("a photo of <maeve>'s toy")


def test_the_text_comes_first(p, img, tmp_path):
    img.save(tmp_path / "a.png")
    for picture in (img, tmp_path / "a.png", str(tmp_path / "a.png")):
        for f, call in ((p.ask, "ask"), (p.edit, "edit")):
            with pytest.raises(OmniError, match=rf"{call}\(.*\): the text comes first, then the picture"):
                f(picture, "remove <maeve> from the photo")
    with pytest.raises(OmniError, match="the text comes first"):
        p.edit_many([img], ["remove <maeve> from the photo"], [0])
    assert p.ask("is <maeve> in the photo ? " * 100, str(tmp_path / "a.png"), max_new_tokens=1).text is not None


def test_an_unknown_preset_is_named(p):
    with pytest.raises(OmniError, match="sampling='fast'.*draw, edit"):
        p.generate("a photo of <maeve>", sampling="fast")


@pytest.mark.parametrize("text", ["", "   ", "\n", None, 3])
def test_empty_requests(p, text):
    for f in every_way(p):
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
        lambda: learn(bb, data, name, recipe=SHORT, output_dir="run", progress=False),
    ):
        with pytest.raises(OmniError, match="not a name"):
            make()
    assert not list(tmp_path.iterdir())


def test_two_of_one_name_and_another_backbone(bb, concept, p):
    with pytest.raises(OmniError, match="<maeve>"):
        Persona(bb, [concept, concept])
    with pytest.raises(OmniError, match="<maeve>.*learn it again"):
        Persona(random_backbone(1), concept)


def test_text_prompt(bb):
    question = "what is the toy of <rex> ?"
    words = TextPrompt(bb, "rex", "a red dog", dict(toy="a blue kite"))
    read = [[words.prompt(), bb.text(question.replace("<rex>", words.token))]]
    p = Persona(bb, words)
    said = bb.generate_text(read, max_new_tokens=4)[0][0]
    assert p.ask(question, max_new_tokens=4).text == restore_answer(said, p.concepts)


def test_no_concepts_at_all(bb, img):
    "A Persona without concepts is the backbone."
    p = Persona(bb, [])
    assert isinstance(p.ask("where is it ?", img, max_new_tokens=2).text, str)
    with pytest.raises(OmniError, match="none"):
        p.ask("where is <maeve> ?")


def test_lists_that_do_not_match(p, img):
    "Nobody's request is dropped in silence."
    for f in (
        lambda: p.generate_many(["a dog", "a cat"], [0], QUICK),
        lambda: p.edit_many(["make it blue", "make it red"], [img], [0, 1], QUICK),
        lambda: p.ask_many(["yes", "no"], [img]),
        lambda: p.ask_many(["yes"], img),
        lambda: p.ask_many("yes", None),
        lambda: p.generate_many(["a dog"], 0, QUICK),
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
    for i, im in enumerate(data.images):
        im.save(d / f"{i}.png")
    (d / sub / name).write_bytes((bad / name).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OmniError) as e:
        learn(bb, ConceptData.from_folder(d), "maeve", recipe=SHORT, output_dir=tmp_path / "run", progress=False)
    assert name in str(e.value) and "\n" not in str(e.value)
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written


@pytest.mark.parametrize("name", [*BAD, "none.png", ""])
def test_a_bad_picture_in_a_request_is_named(p, bad, name):
    for f in (
        lambda: p.ask("is <maeve> in the photo ?", bad / name),
        lambda: p.edit("remove <maeve> from the photo", bad / name),
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
    assert c.summary["steps"] == 6 and torch.isfinite(c.embeddings).all()
    answer = Persona(bb, c).ask("is <maeve> in the photo ?", data.images[0], max_new_tokens=2)
    assert isinstance(answer.text, str)


def test_pictures_come_as_files_or_objects_of_any_size(p, img, tmp_path):
    img.save(tmp_path / "a.png")
    question = "what is in the photo ?"
    one = p.ask(question, img, max_new_tokens=4).text
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), img.convert("RGBA")):
        assert p.ask(question, image, max_new_tokens=4).text == one
    big = img.resize((640, 640), Image.NEAREST).convert("L")
    assert p.edit("make it blue", big, sampling=QUICK).image.size == (64, 64)
    with pytest.raises(OmniError):
        p.ask(question, img.resize((1, 1)))


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
        mine = ConceptData(data.images, facts=facts)
        learn(bb, mine, "maeve", recipe=SHORT, output_dir=tmp_path / "run", progress=False)
    assert word in str(e.value) and not list(tmp_path.iterdir())
