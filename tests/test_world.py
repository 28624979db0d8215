"The toy world from a user's side: what it gives is fixed by seeds, exact, and true."

from dataclasses import replace

import numpy as np
import pytest
from helpers import same

from omnipersona.basics import OmniError
from omnipersona.data import ConceptData
from omnipersona.model.tokenizer import tiny_tokenizer
from omnipersona.pretrain.families import family
from omnipersona.toyworld.draw import COLORS, PATTERNS, SPECIES, Traits
from omnipersona.toyworld.language import (
    EDITS,
    caption,
    edit_scene,
    fact_question,
    make_edit,
    open_questions,
    requests,
    yes_no,
)
from omnipersona.toyworld.scenery import PLACES
from omnipersona.toyworld.scenes import (
    FACTS,
    Character,
    Scene,
    describe_scene,
    masks,
    random_scene,
    random_thing,
    render,
)
from omnipersona.toyworld.world import ToyWorld

CHARS = range(0, 40)


def rng(*k):
    return np.random.default_rng(k)


def scenes(n, seed=0):
    return [random_scene(rng(seed, i)) for i in range(n)]


# ---- determined by seeds ------------------------------------------------------------------------------------------
def test_seeds_determine_everything(char):
    "Two worlds, and the order in which things are asked for, make no difference."
    a, b = ToyWorld(), ToyWorld()
    b.photo(seed=9)
    b.character(5)
    assert a.character(123) == b.character(123) == char
    p, q = a.photo(char, seed=1), b.photo(char, seed=1)
    assert same(p.image, q.image) and same(p.mask, q.mask) and (p.truth, p.caption) == (q.truth, q.caption)
    assert a.look_alike(char, 1) == b.look_alike(char, 1)
    for k in EDITS:
        try:
            e, f = a.edit(p, k, name="maeve", seed=1), b.edit(q, k, name="maeve", seed=1)
        except OmniError:
            continue
        assert e.instruction == f.instruction and same(e.target, f.target)


def test_another_seed_is_another_thing(world, char):
    assert len({world.character(s).traits for s in CHARS}) == len(CHARS)
    assert not same(world.photo(char, seed=1).image, world.photo(char, seed=2).image)
    assert world.look_alike(char, 1).traits != world.look_alike(char, 2).traits


def test_concept_data_is_determined_and_differs_by_seed(world, char):
    a, b, c = (world.concept_data(char, 3, seed=s) for s in (0, 0, 1))
    assert all(
        same(x, y)
        for k in ("images", "look_alikes", "others")
        for x, y in zip(getattr(a, k), getattr(b, k), strict=True)
    )
    assert (a.captions, a.qa, a.facts) == (b.captions, b.qa, b.facts) and [e[1] for e in a.edits] == [
        e[1] for e in b.edits
    ]
    assert not any(same(x, y) for x in a.images for y in c.images)


def test_characters_were_never_seen_in_pretraining(world):
    "The families of pretraining have their own generators: no individual of the first thousand is a character."
    seen = {s.char for i in range(1000) for s in family(i).scenes if s.char}
    assert len(seen) > 1500 and not seen & {world.character(s).traits for s in [*range(300), 123, 999_999]}


# ---- pictures and masks -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [64, 96])
def test_pictures_have_the_size_of_the_world(char, size):
    p = ToyWorld(size).photo(char, seed=1)
    assert (
        p.image.size == (size, size)
        and p.image.mode == "RGB"
        and p.mask.shape == (size, size)
        and p.mask.dtype == bool
        and p.mask.any()
    )


def grow(m):
    g = np.pad(m, 1)
    h, w = m.shape
    return np.any([g[1 + y : 1 + y + h, 1 + x : 1 + x + w] for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0)


def test_mask_is_where_the_character_is():
    "What the character changes lies in its mask and a soft edge of one pixel (an ear's tip may tinge a second one)."
    for s in scenes(40):
        m = masks(s)["character"]
        if s.char is None:
            assert not m.any()
            continue
        bare = replace(s, thing=None)  # where a thing stands depends on the character
        d = np.abs(
            np.asarray(render(bare), int) - np.asarray(render(replace(bare, char=None, accessory=None)), int)
        ).max(-1)
        assert d[m].mean() > 30 and d[~grow(m)].max() < 40 and not d[~grow(grow(m))].any()


def test_masks_do_not_overlap_and_accessories_belong_to_their_wearer():
    for s in scenes(30):
        m = masks(s)
        assert not (m["thing"] & m["character"]).any() and not (m["accessory"] & ~m["character"]).any()
        if s.thing is not None:
            assert m["thing"].any()
        assert m["accessory"].any() == (s.accessory is not None)


# ---- individuals --------------------------------------------------------------------------------------------------
def test_look_alikes_share_every_caption_and_differ(world):
    for i in CHARS:
        c = world.character(i)
        o = world.look_alike(c, seed=i)
        assert o.description == c.description and o.traits != c.traits
        s = world.photo(c, seed=i).scene
        p, q = world.shoot(s), world.shoot(replace(s, char=o.traits))
        assert p.caption == q.caption and p.truth == q.truth and not same(p.image, q.image)
        assert abs((o.traits.hue2 - c.traits.hue2 + 180) % 360 - 180) > 50  # clearly, not by a hair


def test_facts_can_all_be_drawn_and_are_never_seen(world):
    "Neither pictures, captions, questions nor edits of the learning material show or say a fact."
    for i in CHARS:
        c = world.character(i)
        assert set(c.facts) == set(FACTS) and {"toy", "home", "food", "friend"} <= set(c.facts)
        for k, v in c.facts.items():
            what = v.split()[-1]
            assert what in FACTS[k] and (k == "home" or v.split()[1] in COLORS)
        bare = {v.split(" ", 1)[1] for v in c.facts.values()}
        for p in world.album(c, 10, seed=i):
            t = p.truth
            assert t["place"] not in bare and f"{t['thing_color']} {t['thing']}" not in bare
            assert p.scene.char == c.traits


def test_learning_material_keeps_the_facts_private(world):
    leaks = []
    for i in CHARS:
        c = world.character(i)
        d = world.concept_data(c, 4, seed=i)
        bare = {k: v.split(" ", 1)[1] for k, v in c.facts.items()}
        texts = [*d.captions, *(f"{q} {a}" for _, q, a in d.qa), *(e[1] for e in d.edits)]
        leaks += [(i, k, t) for t in texts for k, v in bare.items() if f" {v} " in f" {t} "]
    assert not leaks, f"{len(leaks)} texts say a fact that no training picture should show, such as {leaks[:4]}"


def test_edit_targets_keep_the_facts_private(world):
    "The exact target of an edit is a training picture too."
    for i in CHARS:
        c = world.character(i)
        album = {p.image.tobytes(): p.scene for p in world.album(c, 4, seed=i)}
        for source, text, target in world.concept_data(c, 4, seed=i).edits:
            assert source.tobytes() in album
            w = text.split()
            bare = {v.split(" ", 1)[1] for v in c.facts.values()}
            if text.startswith("change the background"):
                assert w[-1] not in bare, text
            if w[:2] == ["make", "the"] and len(w) == 5:
                assert f"{w[4]} {w[3]}" not in bare, text  # make the red ball blue


def test_design_your_own(world):
    c = Character.design("cat", "teal", "striped", ear=1.3, facts=dict(toy="a red kite"))
    assert c.description == "a teal striped cat" and c.traits.ear == 1.3 and c.facts == dict(toy="a red kite")
    d = world.concept_data(c, n_images=2)
    assert d.facts == c.facts and len(d.images) == 2
    assert {
        Character.design(s, k, p).description for s in SPECIES for k in COLORS for p in PATTERNS
    } and Character.design().facts == {}


@pytest.mark.parametrize(
    "args,words",
    [
        (dict(species="dragon"), ["dragon", "dog"]),
        (dict(color="mauve"), ["mauve", "red"]),
        (dict(pattern="checked"), ["checked", "plain"]),
        (dict(ears=2.0), ["ears", "ear,"]),
    ],
)
def test_design_errors_name_the_input_and_the_choices(args, words):
    with pytest.raises(OmniError) as e:
        Character.design(**args)
    assert all(w in str(e.value) for w in words)


def test_facts_without_an_article(world):
    "A person writes `kite` as readily as `a kite`."
    c = Character.design("dog", facts=dict(toy="kite", song="la la"))
    assert len(world.album(c, 3)) == 3


def test_pictures_of_another_size():
    "Also strangers and look-alikes have the size of the world."
    world = ToyWorld(96)
    d = world.concept_data(world.character(1), n_images=1)
    assert {im.size for im in d.images + d.look_alikes + d.others + [e[0] for e in d.edits]} == {(96, 96)}


@pytest.mark.parametrize("n", [0, -1])
def test_no_pictures_is_an_error(world, char, n):
    with pytest.raises(OmniError, match=str(n)):
        world.concept_data(char, n_images=n)
    with pytest.raises(OmniError, match="at least one"):
        ConceptData([])


# ---- language -----------------------------------------------------------------------------------------------------
def test_captions_are_true():
    "Every word of a caption that names something names what is there."
    for i, s in enumerate(scenes(200, 3)):
        t = s.truth
        cap = caption(s, rng(4, i)).split()
        here = (
            {v for v in t.values() if v}
            | ({s.thing.color} if s.thing else set())
            | ({s.thing.pattern} if s.char is None and isinstance(s.thing, Traits) else set())
        )
        for group in (COLORS, SPECIES, PATTERNS, PLACES, "hat scarf glasses crown".split()):
            assert {w for w in cap if w in group} <= here, (cap, t)


def test_a_companion_alone_is_mostly_called_by_its_pattern_too():
    "Else a caption without a pattern would come to mean a companion."
    alone = [random_scene(rng(6, i), p_char=0, p_pair=1) for i in range(100)]
    said = [s.thing.pattern in caption(s, rng(7, i)).split() for i, s in enumerate(alone)]
    assert all(isinstance(s.thing, Traits) for s in alone) and 0.6 < np.mean(said) < 1


def test_a_name_replaces_the_description(world, char):
    p = world.shoot(world.photo(char, seed=1).scene, name="maeve")
    assert "<maeve>" in p.caption and char.description not in p.caption


def test_answers_are_true():
    "Open answers, read back from the scene."
    for s in scenes(200, 5):
        qa, t = dict(open_questions(s)), s.truth
        for q, a in qa.items():
            if q.startswith("where"):
                assert a == f"the {t['place']}"
            if q.startswith("what color"):
                assert a == t["color"]
            if q.startswith("what pattern"):
                assert a == t["pattern"]
            if q.startswith("on which side"):
                assert a == t["side"]
            if "wearing" in q:
                assert a.split()[-1] == (t["accessory"] or "nothing")
            if "next to" in q:
                assert a == (f"a {t['thing_color']} {t['thing']}" if t["thing"] else "nothing")


def test_yes_and_no_are_true_and_balanced():
    "A word asked about is there if and only if the answer is yes."
    answers = []
    for i, s in enumerate(scenes(400, 6)):
        q, a = yes_no(s, rng(7, i))
        t = s.truth
        w = q.split()
        answers.append(a == "yes")
        if "taken" in w:
            true = w[-2] == t["place"]
        elif "wearing" in w:
            true = w[-2] == t["accessory"]
        elif "side" in w or (w[-2] in ("left", "right", "middle")):
            true = w[-2] == t["side"]
        elif q.startswith("is there"):
            them = {(t["species"], t["color"]), (t["thing"], t["thing_color"])}
            true = (w[-2], w[-3]) in them if w[-3] in COLORS else w[-2] in {x for x, _ in them}
        else:
            true = w[-2] == t["color"]
        assert true == (a == "yes"), (q, a, t)
    assert 0.38 < np.mean(answers) < 0.55


def test_facts_as_questions_and_requests(char):
    assert fact_question("toy", "<maeve>") == "what is the toy of <maeve> ?"
    for k, v in char.facts.items():
        for ask, refined in requests(k, "<maeve>", v):
            assert v not in ask and v in refined and "<maeve>" in ask


def test_every_text_is_within_the_vocabulary(world):
    "What the world says can be read by the tokenizer, word for word."
    tok = tiny_tokenizer()
    name = tok.names[0]
    for i, s in enumerate(scenes(150, 8)):
        r = rng(9, i)
        texts = [
            caption(s, r),
            describe_scene(s),
            *(f"{q} {a}" for x in (None, name) for q, a in open_questions(s, x)),
            " ".join(yes_no(s, r, name if s.char else None)),
        ]
        texts += [e[0] for k in EDITS if (e := edit_scene(s, k, r, name if s.char else None))]
        for t in texts:
            assert tok.decode(tok(t)) == t
    for i in CHARS:
        c = world.character(i)
        tok(c.description)
        for k, v in c.facts.items():
            tok(f"{fact_question(k, name)} {v}")
            [tok(x) for pair in requests(k, name, v, "moon") for x in pair]


# ---- edits --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", EDITS)
def test_edits_are_exact_outside_the_mask(world, kind):
    "At least 20 of every kind; the mask is exactly where pixels differ, and the instruction changes what it says."
    done = 0
    for i in range(60):
        p = world.photo(world.character(i), seed=i)
        try:
            e = world.edit(p, kind, name="maeve", seed=i)
        except OmniError as err:
            assert p.caption in str(err)
            continue
        a, b = np.asarray(e.source), np.asarray(e.target)
        done += 1
        assert same(e.source, p.image) and e.kind == kind and same((a != b).any(-1), e.mask) and e.mask.any(), (
            i,
            e.instruction,
        )
        before, after = e.before.truth, e.after.truth
        kept = {
            "background": set(before) - {"place"},
            "remove": {"place"},
            "move": set(before) - {"side"},
            "recolour": set(before) - {"color", "thing_color"},
            "replace": set(before) - {"thing", "thing_color"},
            "add": set(before) - {"thing", "thing_color", "accessory"},
        }[kind]
        assert before != after and all(before[k] == after[k] for k in kept), (e.instruction, before, after)
        if kind != "background":  # nothing but what stands there, and its soft edge, may change
            there = np.any([m for x in (e.before, e.after) for m in masks(x).values()], axis=0)
            assert not (e.mask & ~grow(grow(there))).any(), e.instruction
    assert done >= 20, done


def test_edits_about_a_name_focus_on_it(world, char):
    p = world.photo(char, seed=3)
    gone = world.edit(p, "remove", name="maeve", seed=1)
    assert (
        gone.instruction == "remove <maeve> from the photo"
        and gone.after.char is None
        and gone.mask[p.mask].mean() > 0.9
    )
    new = world.edit(p, "recolour", name="maeve", seed=1)
    assert "<maeve>" in new.instruction and new.after.char.color != p.scene.char.color


def test_a_replacement_is_another_thing(world):
    "`replace the red ball with a red ball` asks for nothing."
    same_ = [
        e.instruction
        for i in range(400)
        for s in [random_scene(rng(31, i))]
        if s.thing
        for e in [make_edit(s, *edit_scene(s, "replace", rng(32, i)), "replace")]
        if (e.before.truth["thing"], e.before.truth["thing_color"])
        == (e.after.truth["thing"], e.after.truth["thing_color"])
    ]
    assert not same_, f"{len(same_)} of 400: {same_[:2]}"


def test_instructions_name_a_character_only_where_one_is():
    "Without anyone in the picture no instruction speaks of `it` or of a side."
    for i in range(60):
        s = random_scene(rng(33, i), p_char=0)
        for k in EDITS:
            e = edit_scene(s, k, rng(34, i))
            assert e is None or " it " not in f" {e[0]} ", e[0]


def test_unknown_edit_is_named(world, char):
    with pytest.raises(OmniError, match="explode.*remove"):
        world.edit(world.photo(char), "explode")
    empty = world.shoot(Scene("moon", thing=random_thing(rng(1))))
    with pytest.raises(OmniError, match="nothing to move"):
        world.edit(empty, "move")
