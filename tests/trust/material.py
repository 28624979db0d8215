"What the cases of several areas need, made once in a process."

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers
import torch
from helpers import SHORT, random_backbone
from PIL import Image

from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona
from omnipersona.data import ConceptData
from omnipersona.model.bagel import random_checkpoint
from omnipersona.model.loading import load_backbone
from omnipersona.toyworld.world import ToyWorld

MORE_CONTROL = ("<|endoftext|>", "<|object_ref_start|>", "<|fim_prefix|>", "<tool_call>")  # Qwen has them, too


@cache
def bb():
    "A random backbone of the tiny kind. No case may change it."
    return random_backbone()


@cache
def bagel():
    "BAGEL's layout with random weights; a byte-level BPE tokenizer as BAGEL's, with NFC and more control tokens."
    folder = random_checkpoint(Path(tempfile.mkdtemp(prefix="omnipersona-trust-")) / "bagel")
    hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    hf.normalizer = tokenizers.normalizers.NFC()
    hf.add_special_tokens(list(MORE_CONTROL[:3]))
    hf.add_tokens([tokenizers.AddedToken(MORE_CONTROL[3], normalized=False)])
    hf.save(str(folder / "tokenizer.json"))
    return load_backbone(folder, torch.float32, "cpu")


@cache
def photos():
    "Three small pictures."
    return [ToyWorld().photo(seed=i).image for i in range(3)]


@cache
def data():
    return ConceptData(list(photos()), facts={"toy": "a red kite"})


@cache
def concept():
    "What six steps make of a concept."
    return learn(bb(), data(), name="maeve", recipe=SHORT, progress=False)


def persona(size=bb):
    "Two concepts, random ones."
    b = size()
    return Persona(b, [Concept(b, "maeve"), Concept(b, "bo")])


def noise(seed=0, width=320, height=240):
    "A picture that resembles no other."
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
