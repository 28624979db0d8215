"""What the shipped weights, and a random checkpoint in the official layout, gave before the code was rearranged.

`python tests/test_golden.py` writes tests/golden/ anew. Do that only for a change that is meant to change results, and
say so in the changelog. Rows and latents are compared with a tolerance and pictures within one step of 255, since
machines round differently. Answers of the random network are cut off after eight words, before rounding can decide
between two.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent / "golden"
QUESTIONS = [
    "what is the toy of <maeve> ?",
    "what is the food of <maeve> ?",
    "is <maeve> in the photo ?",
    "is <maeve> in the photo ?",
    "what is <maeve> ?",
]
REQUESTS = ["a photo of <maeve> at the beach", "a photo of <maeve> with a blue car"]
EDITS = ["remove <maeve> from the photo", "replace the background with the park"]


def shipped(_):
    from omnipersona.all import load_backbone

    return load_backbone("tiny", device="cpu")


def official(folder):
    "A random checkpoint in the official layout, drawing in few steps; guidance of text and of pictures stays on."
    from omnipersona.all import load_backbone
    from omnipersona.model.bagel import random_checkpoint

    bb = load_backbone(random_checkpoint(folder, seed=3), dtype=torch.float32, device="cpu")
    bb.presets = {k: replace(v, num_timesteps=5) for k, v in bb.presets.items()}
    return bb


BACKBONES = dict(tiny=shipped, bagel=official)


def without_noise(net):
    "Let an autoencoder that samples give its mean: how the noise of a photograph is seeded is no part of this test."
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    encode = net.encode

    def mean(x):
        out = encode(x)
        if isinstance(getattr(out, "latent_dist", None), DiagonalGaussianDistribution):
            out.latent_dist.sample = lambda generator=None: out.latent_dist.mode()
        return out

    net.encode = mean


def measured(bb):
    "(numbers, tensors, pictures) of one character: 20 steps, five answers, two drawings and two edits."
    from omnipersona.all import Persona, Recipe, ToyWorld, learn

    latents, decode = [], bb.ae.decode
    without_noise(bb.ae.net)
    bb.ae.decode = lambda z: latents.append(z.detach().float().clone()) or decode(z)
    world = ToyWorld()
    char = world.character(seed=123)
    data = world.concept_data(char, n_images=4, seed=0)
    concept = learn(bb, data, name="maeve", seed=0, recipe=Recipe(steps=20, precision="float32"), progress=False)
    persona = Persona(bb, concept)
    stranger = world.photo(seed=5).image
    photos = [None, None, data.images[0], stranger, None]
    answers = [persona.ask(q, i, 8) for q, i in zip(QUESTIONS, photos)]
    pictures = [persona.generate(r, seed=s).image for s, r in enumerate(REQUESTS)]
    pictures += [persona.edit(image=data.images[i], instruction=e, seed=i).image for i, e in enumerate(EDITS)]
    numbers = dict(
        fingerprint=bb.fingerprint,
        answers=[a.text for a in answers],
        probabilities=[a.probability for a in answers],
        losses=concept.summary["last"],
    )
    rows = next(concept.parameters()).detach()
    tensors = dict(rows=rows.float().cpu(), **{f"latents.{i}": z.cpu() for i, z in enumerate(latents[-4:])})
    return numbers, {k: v.contiguous() for k, v in tensors.items()}, pictures


@pytest.fixture(scope="module", params=BACKBONES)
def case(request, tmp_path_factory):
    name = request.param
    numbers, tensors, pictures = measured(BACKBONES[name](tmp_path_factory.mktemp("golden") / "ckpt"))
    return name, numbers, tensors, pictures


def test_the_same_backbone(case):
    name, numbers, *_ = case
    assert numbers["fingerprint"] == json.loads((HERE / f"{name}.json").read_text())["fingerprint"]


def test_answers_and_losses(case):
    name, numbers, *_ = case
    want = json.loads((HERE / f"{name}.json").read_text())
    assert numbers["answers"] == want["answers"]
    assert numbers["probabilities"] == pytest.approx(want["probabilities"], rel=0.02, abs=1e-5)
    assert numbers["losses"] == pytest.approx(want["losses"], rel=0.01)


def test_rows_and_latents(case):
    name, _, tensors, _ = case
    want = load_file(HERE / f"{name}.safetensors")
    assert set(tensors) == set(want)
    for k, v in want.items():
        assert v.shape == tensors[k].shape, k
        error = float((tensors[k] - v).norm() / v.norm())
        assert error < 5e-3, f"{k}: relative error {error:.1e}"


def test_pictures(case):
    name, _, _, pictures = case
    for i, im in enumerate(pictures):
        want = np.asarray(Image.open(HERE / f"{name}-{i}.png"), int)
        apart = np.abs(np.asarray(im, int) - want)
        assert apart.shape == want.shape
        assert np.quantile(apart, 0.999) <= 1, (
            f"picture {i}: {(apart > 1).mean():.2%} of the values differ by more than 1"
        )


def write():
    import tempfile

    HERE.mkdir(exist_ok=True)
    for name, make in BACKBONES.items():
        with tempfile.TemporaryDirectory() as d:
            numbers, tensors, pictures = measured(make(Path(d) / "ckpt"))
        (HERE / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
        save_file(tensors, HERE / f"{name}.safetensors")
        for i, im in enumerate(pictures):
            im.save(HERE / f"{name}-{i}.png")
        print(name, numbers)


if __name__ == "__main__":
    write()
