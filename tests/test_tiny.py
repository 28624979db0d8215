"The shipped backbone and judge. Behaviour, not a benchmark: thresholds are far below what `make bench-main` prints."

import numpy as np
import pytest
import torch
from conftest import shipped
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.losses import Recipe
from omnipersona.concept.persona import Persona

PROMPTS = [
    f"a photo of a {c} {s} at the {p}"
    for c, s, p in zip(
        "red blue green yellow purple orange pink teal".split(),
        "dog cat rabbit bear robot teapot person dog".split(),
        "beach forest desert city mountain moon park castle".split(),
    )
]


def test_the_weights_are_light():
    folder = shipped("tiny")
    total = sum(p.stat().st_size for p in folder.parent.rglob("*") if p.is_file())
    assert total <= 40e6, f"{total / 1e6:.1f} MB"  # backbone and judge together
    assert {p.suffix for p in folder.parent.rglob("*") if p.is_file()} == {".safetensors", ".json"}


def test_its_fingerprint_and_words(tiny):
    assert tiny.name == "tiny" and tiny.size == 64 and len(tiny.fingerprint) == 16
    assert tiny.tok("what is the toy of <name_0> ?") and set(tiny.presets) >= {"draw", "edit"}


def photos_of(world, seeds, **scene):
    "Photos of characters that nobody trained on."
    return [world.photo(world.character(s), seed=s, **scene) for s in seeds]


def test_answers_about_pictures(tiny, world):
    "Far more colours right than the one in eight of guessing."
    photos = photos_of(world, range(900, 924))
    seen = tiny.encode_vit([p.image for p in photos])
    samples = [[s, tiny.text(f"what color is the {p.truth['species']} ?")] for s, p in zip(seen, photos)]
    said = [text for text, _ in tiny.generate_text(samples, max_new_tokens=6)]
    assert np.mean([text == p.truth["color"] for text, p in zip(said, photos)]) >= 0.7, said


def test_yes_no_questions_are_answered_with_yes_or_no(tiny, world):
    seen = tiny.encode_vit([p.image for p in photos_of(world, range(900, 912))])
    samples = [[s, tiny.text("is the photo taken at the moon ?")] for s in seen]
    said = [text for text, _ in tiny.generate_text(samples, max_new_tokens=4)]
    assert set(said) <= {"yes", "no"}, said


@pytest.mark.parametrize("about", ["color", "place"])
def test_a_given_word_is_compared(tiny, world, about):
    "Half of the questions are to be affirmed, half denied: both, far above guessing."
    photos = photos_of(world, range(900, 924))
    samples, want = [], []
    for i, (photo, before) in enumerate(zip(photos, [photos[-1], *photos])):
        word = (photo if i % 2 else before).truth[about]
        if not i % 2 and word == photo.truth[about]:
            continue  # a question that would have to be affirmed
        place = f"is the photo taken at the {word} ?"
        question = place if about == "place" else f"is the {photo.truth['species']} {word} ?"
        samples.append([tiny.encode_vit(photo.image)[0], tiny.text(question)])
        want.append(i % 2)
    yes = (tiny.probability(samples, ["yes", "no"])[:, 0] > 0.5).numpy()
    want = np.array(want, bool)
    assert (yes[want]).mean() >= 0.8 and (~yes[~want]).mean() >= 0.8, (yes, want)


def test_it_says_no_as_well(tiny, world):
    samples = []
    for photo in photos_of(world, range(900, 912)):
        elsewhere = "moon" if photo.truth["place"] != "moon" else "beach"
        question = tiny.text(f"is the photo taken at the {elsewhere} ?")
        samples.append([tiny.encode_vit(photo.image)[0], question])
    assert (tiny.probability(samples, ["yes", "no"])[:, 1] > 0.5).float().mean() >= 0.7


@pytest.fixture(scope="module")
def drawn(tiny, judge):
    "Two drawings of each prompt, as the judge reads them."
    prompts = [p for p in PROMPTS for _ in range(2)]
    pictures = tiny.generate_images([[tiny.text(t)] for t in prompts], range(16))
    return [(t.split(), judge.attributes(picture)) for t, picture in zip(prompts, pictures)]


def test_draws_bodies_of_the_right_kind_and_colour(drawn):
    "Far above the one in seven and the one in eight of guessing."
    assert np.mean([r["species"] == words[5] for words, r in drawn]) >= 0.45, drawn
    assert np.mean([r["color"] == words[4] for words, r in drawn]) >= 0.6, drawn


def test_draws_somebody_of_the_right_kind_and_colour(drawn):
    """Far above the one in seven and the one in eight of guessing.

    A dog without a pattern is somebody's companion in this world, so the judge may read it as one."""
    assert np.mean([words[5] in (r["species"], r["thing"]) for words, r in drawn]) >= 0.7, drawn
    assert np.mean([words[4] in (r["color"], r["thing_color"]) for words, r in drawn]) >= 0.8, drawn


def test_draws_what_a_whole_caption_says(tiny, judge, world):
    photos = photos_of(world, range(900, 916))
    read = judge.attributes(tiny.generate_images([[tiny.text(x.caption)] for x in photos], range(16)))
    for k in ("species", "color", "place"):
        assert np.mean([r[k] == x.truth[k] for r, x in zip(read, photos)]) >= 0.8, (k, read)
    with_thing = [(r, x.truth) for r, x in zip(read, photos) if x.truth["thing"]]
    assert np.mean([all(r[k] == truth[k] for k in ("thing", "thing_color")) for r, truth in with_thing]) >= 0.6, read


def test_draws_the_place_that_is_asked_for(tiny, judge):
    read = [judge.attributes(im)["place"] for im in tiny.generate_images([[tiny.text(t)] for t in PROMPTS], range(8))]
    assert sum(r == t.split()[8] for r, t in zip(read, PROMPTS)) >= 6, read


def test_edits_the_place(tiny, judge, world):
    photos = photos_of(world, range(900, 904), place="park")
    change = tiny.text("change the background to the moon")
    samples = [[*source, change] for source in tiny.encode_source([p.image for p in photos])]
    out = tiny.generate_images(samples, range(4), "edit")
    assert sum(judge.attributes(im)["place"] == "moon" for im in out) >= 3


def test_the_autoencoder_is_nearly_transparent(tiny, judge, world):
    photos = photos_of(world, range(900, 908))
    back = tiny.decode_latents(torch.stack([z.x for z in tiny.encode_latents([p.image for p in photos])]))
    assert all(np.abs(np.asarray(a, float) - np.asarray(p.image, float)).mean() < 8 for a, p in zip(back, photos))
    assert sum(judge.attributes(a)["species"] == p.truth["species"] for a, p in zip(back, photos)) >= 7


@pytest.fixture(scope="module")
def learnt(tiny, world, char):
    return learn(tiny, world.concept_data(char, n_images=6), "maeve", recipe=Recipe(steps=60), progress=False)


def test_a_quick_learn_lowers_the_loss_of_facts(learnt):
    losses = [step["facts"] for step in learnt.history]
    assert np.mean(losses[-15:]) < 0.9 * np.mean(losses[:8])


def test_what_was_learnt_survives_the_folder(tiny, learnt, char, tmp_path):
    again = Concept.from_pretrained(learnt.save_pretrained(tmp_path / "c"), tiny)
    questions = [f"what is the {k} of <maeve> ?" for k in char.facts]
    said, said_again = ([r.text for r in Persona(tiny, c).ask_many(questions)] for c in (learnt, again))
    assert said == said_again


# ---- the judge ----------------------------------------------------------------------------------------------------
def test_the_judge_reads_pictures(judge, world):
    photos = photos_of(world, range(900, 930))
    read = [judge.attributes(p.image) for p in photos]
    for k in ("species", "color", "place", "accessory"):
        assert np.mean([r[k] == p.truth[k] for r, p in zip(read, photos)]) > 0.85, k
    assert set(read[0]) == set(photos[0].truth) and isinstance(judge.accuracy, dict) and "held-out" in repr(judge)


def test_the_judge_knows_individuals(judge, world):
    "Nearer to itself than to a look-alike."
    right = []
    for s in range(900, 920):
        c = world.character(s)
        o = world.look_alike(c, s)
        a, b, x = (judge.identity(world.photo(w, seed=i).image) for w, i in ((c, 1), (c, 2), (o, 3)))
        assert a.shape == (128,) and abs(float(a.norm()) - 1) < 1e-4
        right.append(float(a @ b) > float(a @ x))
    assert np.mean(right) > 0.8


def test_the_judge_finds_things(judge, world):
    photos = photos_of(world, range(900, 908), thing=None, place="moon")
    assert sum(judge.shows(p.image, "the moon") for p in photos) >= 7
    with pytest.raises(OmniError, match="dragon"):
        judge.shows(Image.new("RGB", (64, 64)), "a red dragon")
