"Recording: it changes nothing, what it records is what the attention used, and a source is encoded once."

import numpy as np
import pytest
import torch
from helpers import QUICK, same

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.inside.concept_maps import concept_maps
from omnipersona.inside.edit_attention import edit_maps
from omnipersona.inside.expert_attention import expert_attention, with_rollout
from omnipersona.inside.figures import by_layer_figure, token_axis
from omnipersona.inside.recording import (
    first_named,
    observe,
    packed_request,
    record,
    token_experts,
    token_labels,
    token_positions,
)
from omnipersona.model import experts

ASK, EDIT = "a photo of <maeve>", "make <maeve> red"


@pytest.fixture(scope="module")
def who(bb, concept):
    return Persona(bb, concept)


@pytest.fixture
def encodings(bb, monkeypatch):
    "Counts how often an image encoder is called, for how many pictures."
    counts = dict(latents=[], vit=[])
    old = {k: getattr(bb, f"encode_{k}") for k in counts}

    def counted(kind):
        def encode(images, *more):
            counts[kind].append(len(images) if isinstance(images, list) else 1)
            return old[kind](images, *more)

        return encode

    for kind in counts:
        monkeypatch.setattr(bb, f"encode_{kind}", counted(kind), raising=False)
    return counts


# ---- nothing changes, and nothing stays behind --------------------------------------------------------------------
def test_recording_an_answer(who):
    "A whole row of the recorded weights adds up to 1; the answer stays."
    off = who.ask("is <maeve> a dog ?")
    with record(who.bb) as trace:
        on = who.ask("is <maeve> a dog ?")
    assert on.text == off.text and on.probability == off.probability
    assert all(np.allclose(e["weights"].sum(-1), 1, atol=1e-4) for e in trace.entries)


def test_observers_nest_and_leave_nothing_behind(who):
    "Two observers see the same; after the blocks, and after an error in one, none is left."
    layers = [block.self_attn for block in who.bb.model.language_model.model.layers]
    outer, inner = [], []
    with observe(who.bb, lambda layer, *_: outer.append(layer)):
        with observe(who.bb, lambda layer, *_: inner.append(layer), [1]):
            who.ask("is <maeve> a dog ?")
        assert all(layer.observer is not None for layer in layers)
    assert inner and inner == [i for i in outer if i == 1]
    with pytest.raises(OmniError, match="limit"):
        with record(who.bb, limit=10):
            who.ask("is <maeve> a dog ?")
    assert all(layer.observer is None for layer in layers) and not who.bb.model._forward_pre_hooks


def test_layers_that_do_not_exist(who):
    with pytest.raises(OmniError, match="no layer 7; this backbone has layers 0 to 1"):
        concept_maps(who, ASK, 3, QUICK, layers=[1, 7])


# ---- the weights --------------------------------------------------------------------------------------------------
def test_weights_are_those_of_the_attention(who, monkeypatch):
    "Times the values they give what `attend` gives, in every pass of a drawing, every layer and every branch."
    seen, attend = [], experts.attend

    def watched(q, k, v, mask):
        out = attend(q, k, v, mask)
        seen.append((v, out))
        return out

    monkeypatch.setattr(experts, "attend", watched)
    with record(who.bb) as trace:
        who.generate(ASK, 3, QUICK)
    assert len(seen) == len(trace.entries) > 2 * 4
    for (v, out), entry in zip(seen, trace.entries):
        w = torch.from_numpy(entry["weights"])
        values = v.float().repeat_interleave(w.shape[1] // v.shape[1], 1)
        assert torch.allclose(w @ values, out.float(), atol=1e-5)


def test_a_selection_is_part_of_the_whole(who):
    "Queries, keys, layers and heads choose from what an unlimited recording has."
    with record(who.bb) as whole:
        who.ask("is <maeve> a dog ?")
    with record(who.bb, lambda *_: [0], lambda *_: [1, 2], [1], [3]) as part:
        who.ask("is <maeve> a dog ?")
    want = [e["weights"][:, [3]][:, :, [0]][..., [1, 2]] for e in whole.entries if e["layer"] == 1 and e["call"] == 0]
    assert np.array_equal(part.entries[0]["weights"], want[0]) and {e["layer"] for e in part.entries} == {1}


# ---- who stands where ---------------------------------------------------------------------------------------------
def test_positions_and_labels(who):
    b, grid = packed_request(who, ASK)
    c = first_named(ASK, who.concepts)[1]
    ids = torch.cat([b.ids, b.gen_ids], 1)[0]
    assert ids[token_positions(b, c)].tolist() == c.ids and grid == who.bb.grid
    assert token_labels(c)[::16] == ["<maeve>", "und 16", "gen 16"]
    assert token_experts(c) == ["name"] + ["und"] * 16 + ["gen"] * 16
    with pytest.raises(OmniError, match="name a learnt concept, such as <maeve>"):
        first_named("a photo of a dog", who.concepts)


def test_every_label_of_a_figure_is_readable(bb):
    "Groups and few numbers on an axis of 33 tokens; no reserved name, and panels for scores."
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    token_axis(ax, token_labels(Concept(bb, "maeve")))
    texts = [t.get_text() for t in ax.get_xticklabels()]
    assert len(texts) == 11 and [t.split("\n")[1] for t in texts if "\n" in t] == ["name", "und", "gen"]
    assert list(ax.get_xticks())[:3] == [0, 1, 4] and not any("name_0" in t for t in texts)
    plt.close(fig)
    panels = by_layer_figure({"a": dict(und=[0.1], gen=[0.2], chance=[0.1]), "b": dict(und=[0.3])}).axes
    assert [p.get_title() for p in panels] == ["a", "b"] and len(panels[0].lines) == 3


# ---- one encoding of a source -------------------------------------------------------------------------------------
def test_a_source_is_encoded_once(who, world, encodings):
    im = world.photo(seed=3).image
    result, _ = edit_maps(who, EDIT, im, 1, QUICK)
    assert encodings == dict(latents=[1], vit=[1])
    _, maps = concept_maps(who, EDIT, 1, QUICK, source=im)
    assert encodings == dict(latents=[1] * 2, vit=[1] * 2)
    with_rollout(who, EDIT, maps, im)
    expert_attention(who, EDIT, source=im)
    assert encodings == dict(latents=[1] * 4, vit=[1] * 4) and len(maps.times) == 4
    assert same(result.image, who.edit(EDIT, im, 1, QUICK).image)


def test_encoded_or_not_a_source_is_the_same(who, world):
    im = world.photo(seed=3).image
    a, _ = packed_request(who, EDIT, source=im)
    b, _ = packed_request(who, EDIT, source=who.bb.encode_source(im)[0])
    assert torch.equal(a.x, b.x) and torch.equal(a.features, b.features) and torch.equal(a.ids, b.ids)


def test_text_first_then_the_picture(who, world):
    with pytest.raises(OmniError, match="the text comes first, then the picture"):
        edit_maps(who, world.photo(seed=3).image, EDIT)
