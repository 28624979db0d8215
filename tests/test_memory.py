"Will it fit? From a configuration alone, and checked against what can be counted."

import pytest
import torch
from helpers import random_backbone

from omnipersona.basics import OmniError
from omnipersona.model.bagel import random_checkpoint
from omnipersona.model.bagel_config import BAGEL_7B, default_resizes, empty_ae, empty_mot, mot_config
from omnipersona.model.costs import (
    GPUS,
    count_weights,
    find_gpu,
    layer_flops,
    vae_flops,
    weight_gb,
    working_gb,
    workloads,
)
from omnipersona.model.memory import plan, plan_table
from omnipersona.model.segments import Text, pack

BIG = mot_config(**BAGEL_7B)


def test_every_weight_is_counted_once():
    parts = count_weights(BIG, empty_ae({}))
    assert sum(a + b for a, b in parts.values()) == sum(
        p.numel() for m in (empty_mot(BIG), empty_ae({})) for p in m.parameters()
    )
    assert weight_gb(parts, None)["understanding expert"] == pytest.approx(sum(parts["understanding expert"]) * 2 / 1e9)


def test_bits_agree_with_bitsandbytes():
    "Half a byte, and the scales: as many bytes as the quantised layers really hold."
    from omnipersona.bench.bagel_bench import random_bagel

    sizes = dict(
        BAGEL_7B,
        llm=BAGEL_7B["llm"]
        | dict(
            hidden_size=512,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=1024,
            vocab_size=400,
        ),
        vit=dict(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            patch_size=14,
            image_size=112,
        ),
        outer=dict(
            max_latent_size=8,
            vit_max_num_patch_per_side=8,
            vae_config=dict(ch=32, ch_mult=[1, 1, 1, 1], num_res_blocks=1, z_channels=4),
        ),
    )
    bb = random_bagel(sizes, "nf4", torch.bfloat16, image_size=64)
    layers = bb.model.language_model.model.layers
    held = sum(
        p.nbytes + sum(t.nbytes for t in (p.quant_state.absmax, p.quant_state.state2.absmax) if t is not None)
        if hasattr(p, "quant_state")
        else p.nbytes
        for p in layers.parameters()
    )
    parts = weight_gb(count_weights(bb.model.config, bb.ae), "nf4")
    assert (parts["understanding expert"] + parts["generation expert"]) * 1e9 == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("new,n", [(20, 1), (33, 3)])
def test_operations_are_those_that_torch_counts(new, n):
    from torch.utils.flop_counter import FlopCounterMode

    m = random_backbone().model
    b = pack([[Text(list(range(10, 8 + new)))]] * n, m.special, m.config.latent_channels)
    with FlopCounterMode(display=False) as k:
        m(b, record=lambda layer: lambda w: None)
    assert sum(layer_flops(m.config, new, new, n)) == pytest.approx(k.get_total_flops(), rel=0.02)


def test_more_costs_more():
    "Pictures, guidance branches and kept values cost memory and operations."
    at = {s: workloads(BIG, default_resizes(BIG, s)) for s in (256, 512, 1024)}
    for job in at[256]:
        assert at[256][job].flops < at[512][job].flops < at[1024][job].flops and working_gb(
            BIG, at[256][job]
        ) < working_gb(BIG, at[1024][job])
    for a in at.values():
        assert a["asking"].flops < a["drawing"].flops < a["editing"].flops
    learning = at[512]["learning"]
    assert working_gb(BIG, learning, True) < 0.3 * working_gb(BIG, learning, False)


def test_advice_is_true():
    "What is said to fit, fits; what does not, is not advised."
    p = plan("bagel-7b-mot", gpu="T4", image_size=512)
    assert (
        not p.fits["drawing"]
        and p.dtype == "float16"
        and "quant='nf4', image_size=512" in " ".join(p.advice)
        and "int8" not in " ".join(p.advice)
    )
    assert all(plan("bagel-7b-mot", gpu="T4", image_size=512, quant="nf4").fits.values())
    for g in ("A100-40", "A100-80", "H100"):
        assert g in p.advice[-1] and all(plan(gpu=g, image_size=512).fits.values())


def test_times_are_ranges_and_follow_the_gpu():
    table = plan_table(image_size=256, quants=("nf4",))
    assert [p.gpu for p in table] == [g for g in GPUS if g != "cpu"]
    for p in table:
        assert all(0 < lo < hi for lo, hi in p.seconds.values())
    by = {p.gpu: p.seconds["drawing"] for p in table}
    assert by["H100"][0] < by["A100-80"][0] < by["L4"][0] < by["T4"][0]


@pytest.mark.parametrize(
    "said,means",
    [
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L4", "L4"),
    ],
)
def test_names_as_torch_says_them(said, means):
    assert find_gpu(said) == GPUS[means]


@pytest.mark.parametrize(
    "bad,said",
    [
        (dict(gpu="GTX 1080"), "GTX 1080.*T4, L4"),
        (dict(gpu="NVIDIA L40S"), "L40S"),
        (dict(image_size=2048), "image_size=2048.*1024"),
        (dict(image_size=500), "image_size=500.*multiple of 16"),
        (dict(quant="q2"), "quant='q2'.*nf4"),
        (dict(name="nowhere"), "nowhere"),
    ],
)
def test_bad_input(bad, said):
    with pytest.raises(OmniError, match=said):
        plan(**bad)


def test_other_backbones(tmp_path):
    "The tiny one, and any folder; what a card says is escaped."
    assert all(plan("tiny", "T4").fits.values())
    folder = random_checkpoint(tmp_path / "<b>small")
    p = plan(folder, "L4", 128)
    assert (
        sum(p.weights.values()) < 0.01
        and "&lt;b&gt;small" in p._repr_html_()
        and "<b>small" not in p._repr_html_().replace("<b>" + "x", "")
    )
    assert "<b>small" in str(p)


def test_the_autoencoders_operations_by_hand():
    "Every convolution and linear map for each place it is used at, and the attention of the middle blocks."
    side, hand = 128, [0]
    ae = empty_ae(dict(ch=32, ch_mult=[1, 2, 4, 4], num_res_blocks=1, z_channels=4)).to_empty(device="cpu")

    def conv(m, _, y):
        hand[0] += 2 * y[0].numel() * m.weight[0].numel()

    def attention(m, x, _):
        hand[0] += 4 * (x[0].shape[-1] * x[0].shape[-2]) ** 2 * x[0].shape[1]

    for m in ae.modules():
        if isinstance(m, torch.nn.Conv2d):
            m.register_forward_hook(conv)
        elif isinstance(m, torch.nn.Linear):
            m.register_forward_hook(lambda m, _, y: hand.append(hand.pop() + 2 * y.numel() * m.in_features))
        elif type(m).__name__ == "Attention":
            m.register_forward_hook(attention)
    with torch.no_grad():
        z = ae.encode(torch.zeros(1, 3, side, side))
        hand[0] = 0
        ae.decode(z)
        decoding = hand[0]
        ae.encode(torch.zeros(1, 3, side, side))
        both = hand[0]
    assert vae_flops(ae, side) == pytest.approx(decoding, rel=0.02) and vae_flops(ae, side, True) == pytest.approx(
        both, rel=0.02
    )
    assert (
        plan(image_size=256).flops["drawing"]
        > workloads(BIG, default_resizes(BIG, 256))["drawing"].flops + vae_flops(empty_ae({}), 256) * 0.99
    )
