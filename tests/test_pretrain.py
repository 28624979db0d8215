"How the tiny weights are made: the same samples for one seed, a loop that can be interrupted, a folder at the end."

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import shipped
from helpers import SIZES

from omnipersona.basics import OmniError
from omnipersona.model.experts import MoTConfig
from omnipersona.model.loading import load_backbone
from omnipersona.model.mot import MoT
from omnipersona.model.segments import LatentImage, Text
from omnipersona.pretrain.families import FAMILY_SIZE, LOOK_ALIKE, families, family
from omnipersona.pretrain.loader import (
    BatchLoader,
    IndexShard,
    ShardStore,
    batch_from_arrays,
    batch_to_arrays,
    share_of_groups,
)
from omnipersona.pretrain.mixture import GROUPS, TOGETHER, practise_facts, practise_text, step_batches
from omnipersona.pretrain.shard import Shard
from omnipersona.pretrain.tasks import PICTURE_TASKS, PretrainTasks, practise_recognise
from omnipersona.pretrain.trainer import Trainer, TrainerConfig
from omnipersona.pretrain.training import PretrainConfig, main

FEW = {name: (2, tasks) for name, (_, tasks) in GROUPS.items()}
ALL = dict(draw=dict(t2i=2, edit=2, subject=1), talk=dict(recognise=1, vqa=1, text=1))


@pytest.fixture(scope="module")
def shard():
    "Twelve families with random numbers in place of what the image encoders would make of them."
    g = torch.Generator().manual_seed(0)
    latents, features = (torch.randn(12, FAMILY_SIZE, *shape, generator=g) for shape in ((64, 32), (36, 32)))
    return Shard([family(i) for i in range(12)], latents, features)


def small_trainer(bb, shard, folder, groups=FEW, steps=20, cooldown_steps=10):
    torch.manual_seed(0)
    words = dict(vocab_size=bb.tok.vocab_size, special=bb.tok.special, spare=bb.tok.spare)
    model = MoT(MoTConfig(**words, **SIZES | dict(z_channels=32)))
    config = TrainerConfig(steps=steps, warmup_steps=2, cooldown_steps=cooldown_steps, groups=groups)
    return Trainer(model, PretrainTasks(shard, bb.tok), folder, config).resume()


def silent(row):
    pass


def equal(a, b):
    "Whether two batches are the same."
    x, y = vars(a.packed), vars(b.packed)
    tensors = [k for k, v in x.items() if isinstance(v, torch.Tensor) and k != "_mask"]
    return a.counts == b.counts and all(torch.equal(x[k], y[k]) for k in tensors)


# ---- samples ------------------------------------------------------------------------------------------------------
def test_a_number_determines_a_family():
    found, pictures = families(3, 2)
    again, more = families(4, 1)
    assert found[1] == again[0] == family(4) and np.array_equal(pictures[1], more[0])
    characters = [s.char for s in found[0].scenes]
    assert characters[0] == characters[1] == characters[2] != characters[LOOK_ALIKE]


def test_samples_of_one_seed_are_the_same_twice(bb, shard):
    for groups in (GROUPS, ALL):
        runs = [step_batches(PretrainTasks(shard, bb.tok, seed=(5, 7)), groups, bb.model.special) for _ in range(2)]
        assert all(equal(a, b) for a, b in zip(*runs))
    other = step_batches(PretrainTasks(shard, bb.tok, seed=(5, 8)), ALL, bb.model.special)
    assert not all(a.packed.ids.shape == b.packed.ids.shape and equal(a, b) for a, b in zip(runs[0], other))


def test_samples_are_those_that_the_weights_were_made_with(bb, shard):
    "The hash was computed with the code that made the shipped weights, of words, places and times of two steps."
    tasks, digest = PretrainTasks(shard, bb.tok, seed=3), hashlib.sha256()
    talk = dict(vqa=1, yesno=1, colors=1, words=1, know=1, looks=2, recognise=2, text=4, facts=1)
    for groups in (GROUPS, dict(a=dict(t2i=2, edit=2, subject=2), b=talk)):
        for b in step_batches(tasks, groups, bb.model.special):
            for x in (b.packed.ids, b.packed.labels, b.packed.latent_pos >= 0, (b.packed.t * 1000).round()):
                digest.update(x.numpy().astype(np.int32).tobytes())
    assert digest.hexdigest()[:16] == "7998c82ea269e957"


@pytest.mark.parametrize("task", PICTURE_TASKS)
def test_every_task_ends_in_what_is_learnt(bb, shard, task):
    tasks = PretrainTasks(shard, bb.tok, seed=1)
    for i in range(len(shard)):
        tasks.plan_batch()
        last = PICTURE_TASKS[task](tasks, i)[-1]
        draws = task in ("t2i", "subject", "edit")
        assert (
            (isinstance(last, LatentImage) and last.t is not None) if draws else (isinstance(last, Text) and last.loss)
        )


def test_answers_are_balanced_and_facts_were_told(bb, shard):
    tasks = PretrainTasks(shard, bb.tok, seed=2)
    answers = Counter()
    for i in range(len(shard)):
        for _ in range(20):
            answers.update(bb.tok.decode(s.ids) for s in practise_recognise(tasks, i) if isinstance(s, Text) and s.loss)
    assert set(answers) == {"yes", "no"} and 0.45 < answers["yes"] / answers.total() < 0.55
    for sample in (practise_facts(tasks) for _ in range(20)):
        told = " ".join(bb.tok.decode(s.ids) for s in sample if not s.loss)
        assert all(bb.tok.decode(s.ids) in told for s in sample if s.loss)
    assert all(s[-1].loss for s in (practise_text(tasks) for _ in range(100)))


# ---- batches in numbers -------------------------------------------------------------------------------------------
def test_numbers_stand_for_pictures(bb, shard):
    "A batch of numbers, sent and filled, holds the same pictures and words."
    tasks = PretrainTasks(shard, bb.tok, seed=1)
    numbers = tasks.with_shard(IndexShard(shard))
    groups = dict(draw=dict(edit=3), talk=dict(vqa=2))
    plain, counted = [], []
    for batches, t in ((plain, tasks), (counted, numbers)):
        t.reseed(4)
        batches += step_batches(t, groups, bb.model.special)
    store = ShardStore(shard, "cpu")
    for a, sent in zip(plain, counted):
        b = store.fill(batch_from_arrays(batch_to_arrays(sent), "cpu"), seed=0)
        assert torch.equal(a.packed.mask, b.packed.mask) and a.counts == b.counts
        assert torch.equal(a.packed.features, b.packed.features) and torch.equal(a.packed.ids, b.packed.ids)
        clean = (a.packed.latent_pos >= 0) & (a.packed.mse_weight == 0)
        assert torch.equal(a.packed.x[clean], b.packed.x[clean])
        noised = a.packed.mse_weight > 0
        pictures = [(p.x - p.t[..., None] * p.target)[noised] for p in (a.packed, b.packed)]
        assert torch.allclose(*pictures, atol=1e-4) and torch.allclose(a.features, b.features, atol=1e-5)


def test_too_many_tokens_to_count():
    shape = 40_000, FAMILY_SIZE, 64, 1
    with pytest.raises(OmniError, match="take fewer"):
        IndexShard(Shard([None] * shape[0], *(torch.zeros(1).expand(shape) for _ in range(2))))


def test_workers_make_the_same_batches(bb, shard):
    taken = []
    for workers in (1, 2):
        loader = BatchLoader(PretrainTasks(shard, bb.tok), bb.model.special, workers=workers, seed=(3,))
        taken.append([b for step in (4, 5) for b in loader.take(ALL, step)])
        loader.close()
    assert all(equal(a, b) for a, b in zip(*taken))


def test_processes_share_a_step():
    for groups in (GROUPS, TOGETHER):
        parts = [share_of_groups(groups, rank, 3) for rank in range(3)]
        for name, group in groups.items():
            if isinstance(group, dict):
                assert sum((Counter(p[name]) for p in parts), Counter()) == Counter(group)
            else:
                assert sum(p[name][0] for p in parts) == group[0] and parts[0][name][1] == group[1]


# ---- the loop -----------------------------------------------------------------------------------------------------
def test_an_interrupted_trainer_ends_with_the_same_weights(bb, shard, tmp_path):
    lengths = dict(steps=5, cooldown_steps=3)  # it is interrupted while the rate falls
    whole = small_trainer(bb, shard, tmp_path / "whole", **lengths).run(until=4, log_steps=2, report=silent)
    small_trainer(bb, shard, tmp_path / "parts", **lengths).run(until=3, log_steps=2, report=silent)
    second = small_trainer(bb, shard, tmp_path / "parts", **lengths)
    assert second.global_step == 3 and second.schedule.get_last_lr() > whole.schedule.get_last_lr()
    second.run(until=4, log_steps=2, report=silent)
    one, two = (t.weights.state() for t in (whole, second))
    assert set(one) == set(two) and all(torch.equal(one[k], two[k]) for k in one)
    assert [row["step"] for row in second.history] == [2, 4]
    assert second.schedule.get_last_lr() == whole.schedule.get_last_lr()


def test_the_average_follows_its_formula(bb, shard, tmp_path):
    "e = d e + (1-d) w with d = t/(t+20) after step t, until that reaches ema_decay."
    t = small_trainer(bb, shard, tmp_path)
    t.weights.ema_decay = 0.1  # reached in the third step
    name = "language_model.model.layers.0.mlp.gate_proj.weight"
    expected = t.weights.params[name].detach().clone()
    for step in range(1, 5):
        t.step()
        decay = min(0.1, step / (step + 20))
        expected = decay * expected + (1 - decay) * t.weights.params[name].detach()
    assert torch.allclose(t.weights.average[name], expected, atol=1e-7)
    assert not torch.equal(expected, t.weights.params[name])
    t.use_average()
    assert torch.allclose(dict(t.model.named_parameters())[name], expected, atol=1e-7)


def test_the_learning_rate_rises_stays_and_falls(bb, shard, tmp_path):
    t = small_trainer(bb, shard, tmp_path)
    rates = []
    for _ in range(20):
        rates.append(t.schedule.get_last_lr()[0] / t.config.learning_rate)
        t.weights.optimizer.step()
        t.schedule.step()
    assert rates[0] < rates[1] < rates[2] and rates[2:11] == [1] * 9
    assert np.all(np.diff(rates[10:]) < 0) and 0.02 < rates[-1] < 0.2


def test_the_generation_expert_rests_where_nothing_is_drawn(bb, shard, tmp_path):
    t = small_trainer(bb, shard, tmp_path, dict(who=(2, dict(recognise=1.0))))
    before = {k: p.detach().clone() for k, p in t.weights.params.items() if "layers" in k and p.ndim == 2}
    t.step()
    for k, old in before.items():
        moved = float((t.weights.params[k].detach() - old).norm() / old.norm())
        assert (moved < 1e-4) == ("moe_gen" in k), k  # weight decay alone


# ---- all of it ----------------------------------------------------------------------------------------------------
def test_two_steps_write_a_backbone(tmp_path):
    shipped("tiny")
    config = PretrainConfig(
        tmp_path,
        start="tiny",
        n_families=3,
        trainer=TrainerConfig(steps=2, warmup_steps=1, cooldown_steps=1, groups=dict(a=dict(t2i=1, vqa=1))),
        processes=1,
        jobs=1,
        device="cpu",
        dtype=torch.float32,
    )
    main(config)
    made, tiny = load_backbone(tmp_path / "tiny", device="cpu"), load_backbone("tiny", device="cpu")
    assert made.fingerprint != tiny.fingerprint and made.tok.names == tiny.tok.names
    old = tiny.model.state_dict()
    changed = {k for k, p in made.model.state_dict().items() if not torch.equal(p, old[k])}
    assert changed and not [k for k in changed if k.startswith(("vit_model", "vit_pos_embed", "latent_pos_embed"))]
    assert made.generate_text([[made.text("what is the toy of <name_0> ?")]], max_new_tokens=2)
    main(config)  # all is there: nothing is learnt again
    assert load_backbone(tmp_path / "tiny", device="cpu").fingerprint == made.fingerprint
