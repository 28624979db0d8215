"The judge from a user's side: what it reads from pictures, whom it recognises, what it understands and refuses."

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from omnipersona.basics import OmniError
from omnipersona.pictures import to_tensor
from omnipersona.toyworld.draw import COLORS, SPECIES
from omnipersona.toyworld.judge import ToyJudge, understand
from omnipersona.toyworld.judge_training import contrastive_loss, family_scenes, judge_scenes, train_judge
from omnipersona.toyworld.scenery import OBJECTS, PLACES
from omnipersona.toyworld.scenes import Scene, Thing, random_traits, render

NAMES = "species color pattern accessory place side thing thing_color".split()


def traits(seed, **fixed):
    return random_traits(np.random.default_rng(seed), **fixed)


def thing(kind, color):
    return Thing(kind, color, float(COLORS[color][0]))


@pytest.fixture(scope="module")
def photos(world):
    return [world.photo(seed=9000 + i) for i in range(60)]


@pytest.fixture(scope="module")
def crowd(world):
    "Eight individuals: three photos of each, and three look-alikes of each."
    out = []
    for k in range(8):
        c = world.character(700 + k)
        out.append(
            (
                [world.photo(c, seed=10 * k + j).image for j in range(3)],
                [world.photo(world.look_alike(c, j), seed=10 * k + j).image for j in range(3)],
            )
        )
    return out


# ---- reading what is there ----------------------------------------------------------------------------------------
def test_one_picture_gives_one_reading(judge, photos):
    d = judge.attributes(photos[0].image)
    assert list(d) == NAMES and d == judge.attributes(to_tensor(photos[0].image))


def test_pictures_and_tensor_are_read_alike(judge, photos):
    ims = [p.image for p in photos[:5]]
    x = torch.stack([to_tensor(i) for i in ims])
    assert judge.attributes(ims) == judge.attributes(x) == [judge.attributes(i) for i in ims]
    assert torch.allclose(judge.identity(ims), judge.identity(x), atol=1e-5)


def test_reads_what_the_truth_says(judge, photos):
    read = judge.attributes([p.image for p in photos])
    for k in NAMES:
        right = np.mean([d[k] == p.truth[k] for d, p in zip(read, photos)])
        assert right >= 0.9, f"{k}: {right:.2f}"


def test_nothing_there_is_none(judge):
    d = judge.attributes(render(Scene("forest")))
    assert d == dict.fromkeys(NAMES) | dict(place="forest")
    d = judge.attributes(render(Scene("city", traits(1, species="teapot"), side="left")))
    assert (d["thing"], d["thing_color"], d["accessory"]) == (None, None, None) and (d["species"], d["side"]) == (
        "teapot",
        "left",
    )
    d = judge.attributes(render(Scene("park", None, None, thing("boat", "purple"))))
    assert (d["species"], d["color"], d["pattern"]) == (None, None, None) and (d["thing"], d["thing_color"]) == (
        "boat",
        "purple",
    )


def test_every_kind_of_picture_is_read(judge, photos, tmp_path):
    "Paths, arrays and objects with a picture, as everywhere else."
    im = photos[2].image
    im.save(tmp_path / "a.png")
    want = judge.attributes(im)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(im), photos[2]):
        assert judge.attributes(source) == want and judge.identity(source).shape == (128,)


@pytest.mark.parametrize("place", PLACES)
def test_every_place(judge, place):
    assert judge.attributes(render(Scene(place, traits(5))))["place"] == place


def test_size_and_mode_do_not_matter(judge):
    s = Scene("beach", traits(3, species="robot", color="blue"), "scarf", thing("kite", "red"), side="right")
    want = judge.attributes(render(s))
    for im in (render(s, 192), render(s).convert("RGBA"), render(s, 128).convert("RGB")):
        assert judge.attributes(im) == want
    assert judge.attributes(to_tensor(render(s, 128))[None])[0] == want
    assert judge.attributes([render(s), render(s, 96)]) == [want] * 2


def test_sees_pictures_only(judge, photos):
    "Two readings of one picture are equal, and the picture is left as it was."
    im = photos[1].image
    before = np.asarray(im).copy()
    assert judge.attributes(im) == judge.attributes(im.copy()) and torch.equal(
        judge.identity(im), judge.identity(im.copy())
    )
    assert np.array_equal(before, np.asarray(im))


# ---- recognising who it is ----------------------------------------------------------------------------------------
def test_identity_is_a_unit_vector(judge, photos):
    one, many = judge.identity(photos[0].image), judge.identity([p.image for p in photos[:7]])
    assert one.shape == (128,) and many.shape == (7, 128) and one.dtype == torch.float32 and not one.requires_grad
    assert torch.allclose(many.norm(dim=1), torch.ones(7), atol=1e-5) and torch.allclose(one, many[0], atol=1e-5)


def test_own_photos_are_nearer_than_look_alikes(judge, crowd):
    same, other = [], []
    for mine, theirs in crowd:
        z, o = judge.identity(mine), judge.identity(theirs)
        same += [float(z[i] @ z[j]) for i in range(3) for j in range(i)]
        other += (z @ o.T).flatten().tolist()
        assert min((z @ z.T).flatten()) > (z @ o.T).mean()
    assert np.mean(same) > 0.8 and np.mean(other) < 0.5


def test_identity_overlooks_what_changes_from_photo_to_photo(judge):
    t = traits(11, species="bear", color="green")
    s = Scene("park", t)
    z = judge.identity(render(s))
    for other in (
        replace(s, place="moon"),
        replace(s, side="left"),
        replace(s, accessory="glasses"),
        replace(s, size=0.9),
        replace(s, flip=True),
        replace(s, thing=traits(12)),
    ):
        assert judge.identity(render(other)) @ z > 0.75, other
    for change in (
        dict(hue2=t.hue2 + 180),
        dict(hue=t.hue + 180, color="pink"),
        dict(species="teapot", hue2=t.hue2 + 120),
    ):
        assert judge.identity(render(replace(s, char=replace(t, **change)))) @ z < 0.75, change


# ---- asking by name -----------------------------------------------------------------------------------------------
SCENE = Scene(
    "beach", traits(21, species="dog", color="red", pattern="spotted"), "hat", thing("kite", "blue"), side="left"
)
PAIR = Scene(
    "moon",
    traits(22, species="robot", color="teal", pattern="plain"),
    "glasses",
    traits(23, species="rabbit", color="orange", pattern="striped"),
    side="right",
)


@pytest.mark.parametrize(
    "scene,what",
    [
        (SCENE, w)
        for w in (
            "a red dog",
            "a red spotted dog",
            "a spotted dog",
            "a dog",
            "dog",
            "A Red Dog",
            "a blue kite",
            "a kite",
            "the beach",
            "a hat",
        )
    ]
    + [
        (PAIR, w)
        for w in (
            "a teal robot",
            "a teal plain robot",
            "an orange rabbit",
            "a rabbit",
            "a striped rabbit",
            "the moon",
            "glasses",
        )
    ],
)
def test_shows(judge, scene, what):
    assert judge.shows(render(scene), what) is True


@pytest.mark.parametrize(
    "scene,what",
    [
        (SCENE, w)
        for w in (
            "a blue dog",
            "a red kite",
            "a red striped dog",
            "a cat",
            "the moon",
            "a crown",
            "glasses",
            "a red ball",
        )
    ]
    + [(PAIR, w) for w in ("a teal rabbit", "an orange robot", "a plain rabbit", "a dog", "a hat", "a teal kite")],
)
def test_does_not_show(judge, scene, what):
    assert judge.shows(render(scene), what) is False


def test_descriptions_of_the_world_are_understood(world):
    for i in range(40):
        c = world.character(i)
        assert understand(c.description)["kind"] == c.traits.species
        for fact in c.facts.values():
            assert understand(fact)
    for kind in OBJECTS + SPECIES:
        assert understand(f"a {kind}") == dict(kind=kind)


@pytest.mark.parametrize(
    "what,named",
    [
        ("a red dragon", "dragon"),
        ("a shiny kite", "shiny"),
        ("a striped kite", "striped kite"),
        ("a red hat", "red hat"),
        ("a blue beach", "blue beach"),
        ("a red blue dog", "red blue dog"),
        ("a dog kite", "dog kite"),
        ("red", "red"),
        ("", "''"),
        ("the", "the"),
    ],
)
def test_what_is_not_understood_is_named(judge, what, named):
    with pytest.raises(OmniError, match="does not understand") as e:
        judge.shows(render(SCENE), what)
    assert named in str(e.value)


# ---- what it refuses, and what it says of itself ------------------------------------------------------------------
@pytest.mark.parametrize(
    "odd", [[], torch.zeros(2, 1, 64, 64), torch.zeros(64, 64), torch.zeros(0, 3, 64, 64), "a picture", None, 5]
)
def test_refuses_what_is_no_picture(judge, odd):
    with pytest.raises(OmniError, match="picture"):
        judge.attributes(odd)
    with pytest.raises(OmniError, match="picture"):
        judge.identity(odd)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(OmniError, match="attributes.safetensors"):
        ToyJudge(tmp_path)


def test_accuracy_is_stored_and_shown(judge):
    a = judge.accuracy
    for part in ("crisp", "through_autoencoder"):
        assert set(NAMES) <= set(a[part]) and all(0.9 < a[part][k] <= 1 for k in NAMES)
    for part in ("identity", "identity_through_autoencoder"):
        assert a[part]["nearest"] > 0.95 and a[part]["same"] > 0.8 and a[part]["look_alike"] < 0.4
    assert a["n"] >= 500 and str(judge) == repr(judge)
    for word in NAMES + ["look-alike", str(a["n"]), f"{a['crisp']['species']:.3f}"]:
        assert word in str(judge)


def test_a_trained_judge_is_read_back(tmp_path, judge):
    new = train_judge(tmp_path, n_scenes=40, n_families=2, steps=(2, 2), log=None, n=12, families=2)
    again = ToyJudge(tmp_path)
    im = render(SCENE)
    assert torch.equal(new.identity(im), again.identity(im)) and again.accuracy["n"] == 12 and "crisp" in repr(again)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "attributes.safetensors",
        "identity.safetensors",
        "judge.json",
    ]
    assert not torch.allclose(again.identity(im), judge.identity(im), atol=0.1)


def test_training_is_the_same_each_time(tmp_path):
    a, b = (train_judge(tmp_path / n, n_scenes=20, n_families=2, steps=(2, 2), log=None, n=6, families=1) for n in "ab")
    im = render(SCENE)
    assert torch.equal(a.identity(im), b.identity(im)) and a.accuracy == b.accuracy


def test_training_and_testing_share_nobody():
    who = [{s.char for s in family_scenes(5, seed)} for seed in (2_000_000, 3_000_000)]
    assert not who[0] & who[1] and len(who[0]) == 20
    assert not set(judge_scenes(30, 2_000_000)) & set(judge_scenes(30, 3_000_000))


def test_contrastive_loss_likes_what_it_should():
    who = torch.tensor([0, 0, 1, 1])
    good = torch.eye(2)[who]
    bad = torch.eye(2)[torch.tensor([0, 1, 0, 1])]
    assert contrastive_loss(good, who) < 1e-3 < contrastive_loss(bad, who)
    assert torch.allclose(contrastive_loss(good, who), contrastive_loss(good.flip(0), who.flip(0)))
    alone = torch.cat([good, -good[:1]]), torch.cat([who, who[:1] * 0 + 99])
    near = torch.cat([good, good[:1]]), alone[1]  # somebody who is there once: a negative only
    assert contrastive_loss(good, who) <= contrastive_loss(*alone) < contrastive_loss(*near)


def test_import_reads_no_weights():
    "Weights are read by `ToyJudge()`, and diffusers only by who trains."
    heavy = "{'diffusers', 'transformers'} & {*sys.modules}"
    code = f"import sys, omnipersona.toyworld.judge_training; assert not {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
