"Counting characters and things: pictures whose numbers are known, and a network that is not there."

import pytest
import torch
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.toyworld.counter import COUNTER_FILE, MOST_FIGURES, FigureCounter, crowded_pictures, make_counter


def test_pictures_are_the_same_for_the_same_seed_and_hold_every_number():
    pictures, counts = crowded_pictures(60, 7)
    again, _ = crowded_pictures(3, 8)
    assert torch.equal(pictures[1:4], again) and set(counts.sum(1).tolist()) == set(range(MOST_FIGURES + 1))


def test_a_network_counts_what_it_was_trained_on(tmp_path):
    make_counter(folder=tmp_path, n=64, steps=90, log=None)
    assert {f.name for f in tmp_path.iterdir()} == {COUNTER_FILE, "counter.json"}
    pictures, counts = crowded_pictures(64)
    counter = FigureCounter(tmp_path)
    assert (counter.count(pictures) == counts).float().mean() > 0.9
    large = [Image.fromarray(p.numpy()).resize((256, 256), Image.Resampling.NEAREST) for p in pictures[:8]]
    assert (counter(large) == counts[:8]).float().mean() > 0.8


def test_a_missing_network_is_named(tmp_path):
    with pytest.raises(OmniError, match="make counter"):
        FigureCounter(tmp_path)
