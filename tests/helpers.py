"What several tests need: a random backbone, small and quick, and small comparisons."

from contextlib import contextmanager

import numpy as np
import torch

from omnipersona.concept.losses import Recipe
from omnipersona.concept.sampling import SamplesPerStep
from omnipersona.model.autoencoder import Refiner, pca_autoencoder
from omnipersona.model.backbone import Backbone
from omnipersona.model.bagel import SMALL
from omnipersona.model.experts import MoTConfig
from omnipersona.model.flow import SamplingConfig
from omnipersona.model.mot import MoT
from omnipersona.model.tokenizer import tiny_tokenizer
from omnipersona.pictures import to_tensor
from omnipersona.toyworld.world import ToyWorld

VIT = SMALL["vit"] | dict(num_hidden_layers=1, patch_size=10, image_size=60, num_channels=3)
SIZES = {k: v for k, v in SMALL["llm"].items() if k != "vocab_size"} | dict(z_channels=8, vit_config=VIT)
QUICK = SamplingConfig(5, 2.0, 2.0, 1.0)  # four steps of drawing
SHORT = Recipe(  # exact, so that runs can be compared
    steps=6, warmup_steps=2, samples=SamplesPerStep(copies=2), precision="float32"
)


def random_backbone(seed=0, **sizes):
    """A backbone that knows nothing. One seed gives the same weights in every process.

    The state of torch's own generator is left alone."""
    tok, w = tiny_tokenizer(), ToyWorld()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ae = pca_autoencoder(torch.stack([to_tensor(w.photo(seed=i).image) for i in range(24)]), width=32, latents=8)
        model = MoT(MoTConfig(vocab_size=tok.vocab_size, special=tok.special, spare=tok.spare, **SIZES | sizes))
        ae.refiner = Refiner(8, 1)
        torch.nn.init.normal_(ae.refiner.write.weight, std=0.01)  # at first it would say nothing
        return Backbone(model, ae, tok, name="random")


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def apart(a, b):
    "Largest difference of two pictures, in steps of 255."
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def weights(m):
    return {k: v.clone() for k, v in m.state_dict().items()}


def unchanged(m, before):
    return all(torch.equal(v, before[k]) for k, v in m.state_dict().items())


@contextmanager
def defaults(dtype=torch.float32, device=None):
    "Another default dtype or device of torch, as a notebook may have set it."
    was = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(was)
        torch.set_default_device(None)
