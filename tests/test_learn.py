"Learning from a user's side: repeatable, interruptible, exactly resumable, and safe against numbers that are none."

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SHORT, random_backbone, unchanged, weights

import omnipersona.concept.losses as L_
from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import Learner, learn, loss_figure
from omnipersona.concept.losses import Recipe, task_losses
from omnipersona.concept.sampling import EncodedData, SamplesPerStep, noised
from omnipersona.data import ConceptData

HERE = Path(__file__).parent


def run(bb, data, name="maeve", **kw):
    return learn(bb, data, name, **dict(recipe=SHORT, progress=False) | kw)


def stop_at(n):
    return lambda L: L.global_step == n


def interrupt_at(n):
    def f(L):
        if L.global_step == n:
            raise KeyboardInterrupt

    return f


def same_log(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(abs(x[k] - y[k]) <= 1e-3 * (1 + abs(x[k])) for k in x) for x, y in zip(a, b)
    )


def equal(a, b):
    return torch.allclose(a.embeddings, b.embeddings, atol=1e-3) and same_log(
        a.history, b.history
    )  # matrix products may round differently from run to run


# ---- the same again -----------------------------------------------------------------------------------------------
def test_same_seed_same_rows(bb, data, concept):
    "Whatever state torch's own generators are in."
    torch.manual_seed(99)
    again = run(bb, data)
    assert equal(concept, again) and not torch.equal(concept.embeddings, run(bb, data, seed=1).rows)


def test_what_comes_back(bb, data, concept):
    assert (
        isinstance(concept, Concept)
        and concept.name == "maeve"
        and not concept.embeddings.requires_grad
        and concept.facts == data.facts
    )
    s = concept.summary
    assert s["steps"] == 6 and not s["stopped"] and s["seed"] == 0 and s["seconds"] > 0 and s["recipe"]["steps"] == 6
    assert (
        set(s["last"]) == {"recognise", "vqa", "facts", "draw", "edit"}
        and all(map(math.isfinite, s["last"].values()))
        and json.dumps(s)
    )
    assert [r["step"] for r in concept.history] == [1, 2, 3, 4, 5, 6] and len(loss_figure(concept.history, 2).axes) == 2


def test_learning_writes_nothing_but_its_folder(bb, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = weights(bb.model)
    run(bb, data)
    assert not list(tmp_path.iterdir()) and unchanged(bb.model, before)
    run(bb, data, folder="run", every=2)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [
        "run/checkpoint.safetensors"
    ]


def test_loss_of_a_training_batch_goes_down(bb, data):
    enc = EncodedData(bb, data)
    batch = step_samples(enc, SamplesPerStep(), torch.Generator().manual_seed(5))
    L = Learner(bb, data, "maeve", recipe=Recipe(steps=40, warmup_steps=4), encoded=enc)

    def loss():
        with torch.no_grad():
            return {t: float(l / n) for t, (l, n) in task_losses(bb, L.concept, batch).items()}

    before = loss()
    for _ in range(40):
        L.step()
    after = loss()
    assert sum(after.values()) < 0.97 * sum(before.values()) and all(after[t] < before[t] for t in before), (
        before,
        after,
    )


@pytest.mark.parametrize(
    "mix", [dict(recognise=0), dict(draw=0, edit=0), dict(recognise=0, vqa=0, facts=0), dict(facts=5, copies=1)]
)
def test_any_task_can_be_left_out(bb, data, mix):
    c = run(bb, data, recipe=replace(SHORT, steps=2, samples=SamplesPerStep(**mix)))
    assert all(math.isfinite(v) for r in c.history for v in r.values()) and not {
        k for k, v in mix.items() if not v
    } & set(c.history[0])


@pytest.mark.parametrize(
    "kw",
    [
        dict(routing="coupled"),
        dict(init="random"),
        dict(init="words"),
        dict(n_und=4, n_gen=4),
        dict(n_und=3, n_gen=0),
        dict(weight_decay=0.1, image=0.5, edit=0.0),
    ],
)
def test_variants_of_the_recipe_run(bb, data, kw):
    c = run(bb, data, recipe=replace(SHORT, steps=2, **kw))
    assert torch.isfinite(c.embeddings).all() and len(c.embeddings) == 1 + kw.get("n_und", 16) + kw.get("n_gen", 16)


def test_learns_with_a_bf16_backbone(data):
    "The rows and their optimiser stay float32; losses are those of float32 but for rounding."
    b = random_backbone()
    one = run(b, data, recipe=replace(SHORT, steps=2))
    b.model.to(torch.bfloat16)
    b.ae.to(torch.bfloat16)
    c = run(b, data, recipe=replace(SHORT, steps=2))
    assert b.dtype == torch.bfloat16 and c.embeddings.dtype == torch.float32 and torch.isfinite(c.embeddings).all()
    for k, v in one.history[0].items():
        assert math.isclose(c.history[0][k], v, rel_tol=0.05), (k, c.history[0], one.history[0])


def test_two_shares_are_one_whole(bb, data):
    c, batch = (
        Concept(bb, "maeve"),
        step_samples(EncodedData(bb, data), SamplesPerStep(), torch.Generator().manual_seed(0)),
    )
    whole, parts = task_losses(bb, c, batch), [task_losses(bb, c, batch, slice(i, None, 3)) for i in range(3)]
    for t, (l, n) in whole.items():
        assert math.isclose(l.item(), sum(p[t][0].item() for p in parts), rel_tol=1e-4) and all(
            p[t][1] == n for p in parts
        )


def test_noise_is_stratified(bb, data):
    z = bb.encode_latents(data.images[:1])[0]
    t = sorted(s.t for s in noised(z, 8, 1.0, torch.Generator().manual_seed(0)))
    u = torch.special.ndtr(torch.logit(torch.tensor(t)))
    assert ((u * 8).long() == torch.arange(8)).all()


def test_previews_and_callbacks(bb, data, concept):
    seen = []
    c = run(bb, data, preview=3, callbacks=[lambda L: seen.append(L.global_step)])
    assert seen == [1, 2, 3, 4, 5, 6] and [s for s, _ in c.previews] == [3, 6] and c.previews[0][1].size == (64, 64)
    assert equal(c, concept)  # looking does not disturb


# ---- stopping and going on ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("times", [1, 3])
def test_resume_is_exact(bb, data, concept, tmp_path, times):
    "Stopped at steps nobody chose."
    r = random.Random(times)
    for _ in range(times):
        run(bb, data, folder=tmp_path / "run", every=4, callbacks=[stop_at(r.randint(1, 5))])
    b = run(bb, data, folder=tmp_path / "run")
    assert equal(b, concept) and not b.summary["stopped"]
    again = run(bb, data, folder=tmp_path / "run")
    assert equal(again, concept) and again.summary["steps"] == 6  # finished: nothing left to do


def test_interrupt_keeps_what_was_learnt(bb, data, concept, tmp_path):
    half = run(bb, data, folder=tmp_path / "run", callbacks=[interrupt_at(4)])
    assert (
        half.summary["stopped"]
        and half.summary["steps"] == 4
        and same_log(half.history, concept.history[:4])
        and not torch.equal(half.rows, concept.embeddings)
    )
    half.save_pretrained(tmp_path / "half")
    assert torch.equal(Concept.from_pretrained(tmp_path / "half", bb).rows, half.rows)
    assert equal(run(bb, data, folder=tmp_path / "run"), concept)


@pytest.mark.parametrize("where", ["task_losses", "samples", "clip"])
def test_interrupt_in_the_middle_of_a_step(bb, data, concept, tmp_path, monkeypatch, where):
    "That is where the stop button nearly always hits: the step is as if it had not begun."
    owner, name = (torch.nn.utils, "clip_grad_norm_") if where == "clip" else (L_, where)
    true, n = getattr(owner, name), []

    def pressed(*a, **kw):
        n.append(1)
        out = true(*a, **kw)
        if len(n) == 4:
            raise KeyboardInterrupt
        return out

    monkeypatch.setattr(owner, name, pressed)
    half = run(bb, data, folder=tmp_path / "run")
    monkeypatch.undo()
    assert (
        half.summary["stopped"]
        and half.summary["steps"] == len(half.history) == 3
        and half.history == concept.history[:3]
    )
    assert equal(run(bb, data, folder=tmp_path / "run"), concept)


def test_a_failed_save_keeps_the_checkpoint(bb, data, concept, tmp_path, monkeypatch):
    "The disk is full at the second checkpoint: the first is whole, and the run goes on from it."
    true, n = os.replace, []

    def full(*a):
        n.append(1)
        if len(n) >= 2:
            raise OSError("No space left on device")
        return true(*a)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        run(bb, data, folder=tmp_path / "run", every=2)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoint.safetensors"]
    L = Learner(bb, data, "maeve", recipe=SHORT).resume(tmp_path / "run")
    assert L.global_step == 2
    assert equal(run(bb, data, folder=tmp_path / "run"), concept)


@pytest.mark.parametrize(
    "kw",
    [dict(seed=1), dict(name="bo"), dict(recipe=replace(SHORT, learning_rate=0.1))],
    ids=["seed", "name", "recipe"],
)
def test_checkpoints_of_another_run_are_refused(bb, data, tmp_path, kw):
    run(bb, data, folder=tmp_path, callbacks=[stop_at(2)])
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(OmniError) as e:
        run(bb, data, folder=tmp_path, **kw)
    assert (
        "checkpoint.safetensors" in str(e.value)
        and next(iter(kw)) in str(e.value)
        and (tmp_path / "checkpoint.safetensors").read_bytes() == before
    )


def test_a_checkpoint_of_other_pictures_is_refused(bb, world, data, tmp_path):
    run(bb, data, folder=tmp_path, callbacks=[stop_at(2)])
    with pytest.raises(OmniError, match="checkpoint"):
        run(bb, world.concept_data(world.character(seed=5), n_images=3), folder=tmp_path)


@pytest.mark.parametrize("bytes_", [b"", b"not a checkpoint", None], ids=["empty", "text", "cut"])
def test_damaged_checkpoint_is_named(bb, data, tmp_path, bytes_):
    f = tmp_path / "checkpoint.safetensors"
    if bytes_ is None:
        run(bb, data, folder=tmp_path, callbacks=[stop_at(1)])
        bytes_ = f.read_bytes()[:200]
    f.write_bytes(bytes_)
    with pytest.raises(OmniError, match="checkpoint.safetensors.*delete"):
        run(bb, data, folder=tmp_path)


# ---- numbers that are none ----------------------------------------------------------------------------------------
def test_nan_is_skipped_and_then_an_error(bb, data):
    "Pictures that are all poisoned: no step is taken, the tenth raises, the rows are as they were."
    enc = EncodedData(bb, data)
    L = Learner(bb, data, "maeve", recipe=replace(SHORT, steps=30), encoded=enc)
    start = L.concept.embeddings.detach().clone()
    for s in (*enc.seen, *enc.look, *enc.others):
        s.features = torch.full_like(s.features, math.nan)
    for i in range(9):
        row = L.step()
        assert math.isnan(row["recognise"]) and L.skipped == i + 1
    with pytest.raises(FloatingPointError, match="since step 1;"):
        L.step()
    assert torch.equal(L.concept.embeddings, start)


def test_one_bad_picture_does_not_spoil_the_rows(bb, data):
    L = Learner(bb, data, "maeve", recipe=replace(SHORT, steps=20))
    s = L.encoded.seen[0]
    s.features = torch.full_like(s.features, math.nan)
    rows = [L.step() for _ in range(12)]
    bad = [any(map(math.isnan, r.values())) for r in rows]
    assert (
        0 < sum(bad) < 12
        and torch.isfinite(L.concept.embeddings).all()
        and all(torch.isfinite(v).all() for v in L.state().values() if v.is_floating_point())
    )


def test_learn_passes_the_error_on_and_keeps_finite_rows(bb, data, tmp_path, monkeypatch):
    true = L_.task_losses
    monkeypatch.setattr(
        L_, "task_losses", lambda *a, **kw: {t: (l * math.nan, n) for t, (l, n) in true(*a, **kw).items()}
    )
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run(bb, data, recipe=replace(SHORT, steps=30), folder=tmp_path)
    from safetensors.torch import load_file

    assert torch.isfinite(load_file(tmp_path / "checkpoint.safetensors")["rows"]).all()


# ---- a folder of one's own ----------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path, data):
    d = tmp_path / "maeve"
    for sub in ("", "negatives", "look_alikes"):
        (d / sub).mkdir()
    for i, im in enumerate(data.images):
        im.save(d / f"{i}.png")
    for i, im in enumerate(data.others[:2]):
        im.save(d / f"negatives/{i}.png")
    data.look_alikes[0].save(d / "look_alikes/0.png")
    (d / "targets").mkdir()
    data.edits[0][2].save(d / "targets/0.png")
    (d / "captions.json").write_text(json.dumps({"0.png": "A photo of <sks> at the beach."}))
    (d / "edits.json").write_text(
        json.dumps([dict(source="0.png", instruction="Remove <sks> from the photo", target="targets/0.png")])
    )
    return d


def test_from_folder_with_everything(bb, folder, data):
    d = ConceptData.from_folder(folder, facts=dict(toy="a red kite"), description="a red dog")
    assert (len(d.images), len(d.look_alikes), len(d.others), len(d.edits)) == (3, 1, 2, 1) and d.facts == dict(
        toy="a red kite"
    )
    assert (
        d.captions == ["A photo of <sks> at the beach.", "a photo of <sks>", "a photo of <sks>"]
        and d.edits[0][1] == "Remove <sks> from the photo"
    )
    assert all(im.mode == "RGB" and im.size[0] == im.size[1] for im in d.images)
    c = run(bb, d)
    assert c.facts == d.facts and set(c.history[-1]) == {"step", "recognise", "facts", "draw", "edit"}
    name = bb.tok.names[0]
    enc = EncodedData(bb, d, name)
    assert (
        bb.tok.decode(enc.captions[0].ids) == f"a photo of {name} at the beach ."
        and bb.tok.decode(enc.edits[0][1].ids) == f"remove {name} from the photo"
    )


def test_from_folder_with_pictures_only(bb, folder):
    for f in ("captions.json", "edits.json"):
        (folder / f).unlink()
    d = ConceptData.from_folder(folder)
    assert d.captions == ["a photo of <sks>"] * 3 and not d.facts and not d.edits and "facts: none" in repr(d)


@pytest.mark.parametrize(
    "file,text,words",
    [
        ("captions.json", '{"9.png": "a photo of <sks>"}', ["9.png"]),
        ("captions.json", '{"0.png": 3}', ["captions.json", "0.png"]),
        ("captions.json", '["a"]', ["captions.json", "object"]),
        ("captions.json", '{"0.png": ', ["captions.json", "JSON"]),
        ("edits.json", '[{"source": "0.png"}]', ["edits.json", "instruction"]),
        ("edits.json", "{}", ["edits.json", "list"]),
        ("edits.json", '[{"source": "9.png", "instruction": "remove <sks>", "target": "0.png"}]', ["9.png"]),
        ("edits.json", '[{"source": "0.png", "instruction": 3, "target": "1.png"}]', ["edits.json", "instruction"]),
        ("edits.json", '[{"source": 3, "instruction": "remove <sks>", "target": "1.png"}]', ["edits.json", "source"]),
    ],
)
def test_bad_companions_are_named(folder, file, text, words):
    (folder / file).write_text(text)
    with pytest.raises(OmniError) as e:
        ConceptData.from_folder(folder)
    assert all(w in str(e.value) for w in words), str(e.value)


@pytest.mark.parametrize("facts", [{"toy": ""}, {"": "a red kite"}, {"toy": None}, {3: "a kite"}])
def test_facts_are_pairs_of_texts(data, facts):
    with pytest.raises(OmniError, match="facts"):
        ConceptData(data.images, facts=facts)


def test_captions_are_counted(data):
    with pytest.raises(OmniError, match="1 captions for 3 pictures"):
        ConceptData(data.images, captions=["a photo of <sks>"])


# ---- processes ----------------------------------------------------------------------------------------------------
def script(*args, launch=(), timeout=240):
    env = os.environ | dict(
        OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    )
    return subprocess.run(
        [sys.executable, *launch, str(HERE / "learn_script.py"), *map(str, args)],
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_killed_between_steps(bb, data, concept, tmp_path):
    "SIGKILL at step 5, checkpoints every 2: the next process goes on from step 4, and ends as if nothing had been."
    r = script(tmp_path / "out.json", "--steps", 6, "--folder", tmp_path / "run", "--kill", 5)
    assert r.returncode == -9 and not (tmp_path / "out.json").exists(), r.stderr[-2000:]
    assert Learner(bb, data, "maeve", recipe=SHORT).resume(tmp_path / "run").step == 4
    c = run(bb, data, folder=tmp_path / "run", every=2)
    assert len(c.history) == 6 and torch.allclose(
        c.embeddings, concept.embeddings, rtol=1e-4, atol=1e-5
    )  # another process may run other threads


def test_accelerate_with_two_processes(bb, data, tmp_path):
    "The same losses per task as one process: here, and under a launcher with two."
    # `--cpu` alone starts one process, whatever the number: it leaves several to MPI. `--multi_gpu` starts them, and Accelerator(cpu=True) keeps them off the GPUs
    launch = (
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    )
    r = script(tmp_path / "two.json", "--accelerate", launch=launch)
    assert r.returncode == 0, r.stderr[-3000:]
    two = json.loads((tmp_path / "two.json").read_text())
    one = run(bb, data, recipe=replace(SHORT, steps=5))
    assert two["processes"] == 2 and len(two["log"]) == len(one.history) == 5
    for a, b in zip(one.history, two["log"]):
        assert set(a) == set(b)
        for k in a:
            assert math.isclose(a[k], b[k], rel_tol=1e-4), (k, a, b)
    assert np.allclose(np.array(two["rows"]), one.embeddings.numpy(), rtol=1e-3, atol=1e-3)


def test_a_checkpoint_gives_back_every_bit(bb, data, tmp_path):
    "Rows, both moments, the sampling generator, step and log: what the next step depends on, exactly as it was."
    recipe = Recipe(steps=6, samples=SamplesPerStep(copies=1))
    a = Learner(bb, data, "maeve", recipe=recipe)
    for _ in range(3):
        a.one()
    a.save(tmp_path)
    b = Learner(bb, data, "maeve", recipe=recipe).resume(tmp_path)
    x, y = a.state(), b.state()
    assert x.keys() == y.keys() >= {"rows", "rng", "exp_avg", "exp_avg_sq"} and all(torch.equal(x[k], y[k]) for k in x)
    assert (a.step, a.history) == (b.step, b.history) and float(a.opt.state[a.concept.embeddings]["step"]) == float(
        b.opt.state[b.concept.embeddings]["step"]
    )
