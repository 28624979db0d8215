"Learning from a user's side: repeatable, interruptible, exactly resumable, and safe against numbers that are none."

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SHORT, defaults, random_backbone, unchanged, weights
from safetensors.torch import load_file

import omnipersona.concept.learn as learn_module
import omnipersona.concept.learner as learner_module
from omnipersona.basics import OmniError
from omnipersona.concept.checkpoints import resume, save_checkpoint
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn, loss_figure, running_mean, with_fields
from omnipersona.concept.learner import Learner
from omnipersona.concept.losses import Recipe, task_losses
from omnipersona.concept.sampling import EncodedData, SamplesPerStep, noised_copies, step_samples
from omnipersona.data import ConceptData
from omnipersona.model.bagel import random_checkpoint
from omnipersona.model.loading import load_backbone

HERE = Path(__file__).parent


def run(bb, data, name="maeve", **kw):
    return learn(bb, data, name, **dict(recipe=SHORT, progress=False) | kw)


def stop_at(n):
    return lambda learner: learner.global_step == n


def interrupt_at(n):
    def f(learner):
        if learner.global_step == n:
            raise KeyboardInterrupt

    return f


def same_history(a, b):
    def near(x, y):
        return x.keys() == y.keys() and all(abs(x[k] - y[k]) <= 1e-3 * (1 + abs(x[k])) for k in x)

    return len(a) == len(b) and all(map(near, a, b))


def equal(a, b):
    "Matrix products may round differently from run to run."
    return torch.allclose(a.embeddings, b.embeddings, atol=1e-3) and same_history(a.history, b.history)


# ---- the same again -----------------------------------------------------------------------------------------------
def test_same_seed_same_embeddings(bb, data, concept):
    "Whatever state torch's own generators are in."
    torch.manual_seed(99)
    again = run(bb, data)
    assert equal(concept, again) and not torch.equal(concept.embeddings, run(bb, data, seed=1).embeddings)


def test_what_comes_back(bb, data, concept):
    assert isinstance(concept, Concept) and concept.name == "maeve"
    assert not concept.embeddings.requires_grad and concept.facts == data.facts
    s = concept.summary
    assert s["steps"] == 6 and not s["stopped"] and s["seed"] == 0 and s["seconds"] > 0 and s["recipe"]["steps"] == 6
    assert set(s["last"]) == {"recognise", "vqa", "facts", "draw", "edit"}
    assert all(map(math.isfinite, s["last"].values())) and json.dumps(s)
    assert [r["step"] for r in concept.history] == [1, 2, 3, 4, 5, 6] and len(loss_figure(concept.history, 2).axes) == 2


def test_learning_writes_nothing_but_its_folder(bb, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = weights(bb.model)
    run(bb, data)
    assert not list(tmp_path.iterdir()) and unchanged(bb.model, before)
    run(bb, data, output_dir="run", save_steps=2)
    files = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert files == ["run/checkpoint.safetensors"]


def test_loss_of_a_training_batch_goes_down(bb, data):
    encoded = EncodedData(bb, data)
    batch = step_samples(encoded, SamplesPerStep(), torch.Generator().manual_seed(5))
    learner = Learner(bb, data, "maeve", recipe=Recipe(steps=40, warmup_steps=4), encoded=encoded)

    def losses():
        with torch.no_grad():
            return {t: float(loss / n) for t, (loss, n) in task_losses(bb, learner.concept, batch).items()}

    before = losses()
    for _ in range(40):
        learner.step()
    after = losses()
    assert sum(after.values()) < 0.97 * sum(before.values()), (before, after)
    assert all(after[t] < before[t] for t in before), (before, after)


@pytest.mark.parametrize(
    "mix", [dict(recognise=0), dict(draw=0, edit=0), dict(recognise=0, vqa=0, facts=0), dict(facts=5, copies=1)]
)
def test_any_task_can_be_left_out(bb, data, mix):
    c = run(bb, data, recipe=replace(SHORT, steps=2, samples=SamplesPerStep(**mix)))
    assert all(math.isfinite(v) for r in c.history for v in r.values())
    assert not {k for k, v in mix.items() if not v} & set(c.history[0])


@pytest.mark.parametrize(
    "kw",
    [
        dict(routing="coupled"),
        dict(init="random"),
        dict(init="words"),
        dict(n_und=4, n_gen=4),
        dict(n_und=3, n_gen=0),
        dict(weight_decay=0.1, lambda_image=0.5, lambda_edit=0.0),
    ],
)
def test_variants_of_the_recipe_run(bb, data, kw):
    c = run(bb, data, recipe=replace(SHORT, steps=2, **kw))
    assert torch.isfinite(c.embeddings).all() and len(c.embeddings) == 1 + kw.get("n_und", 16) + kw.get("n_gen", 16)


def test_learns_with_a_bf16_backbone(data):
    "The embeddings and their optimiser stay float32; losses are those of float32 but for rounding."
    b = random_backbone()
    one = run(b, data, recipe=replace(SHORT, steps=2))
    b.model.to(torch.bfloat16)
    b.ae.to(torch.bfloat16)
    c = run(b, data, recipe=replace(SHORT, steps=2))
    assert b.dtype == torch.bfloat16 and c.embeddings.dtype == torch.float32 and torch.isfinite(c.embeddings).all()
    for k, v in one.history[0].items():
        assert math.isclose(c.history[0][k], v, rel_tol=0.05), (k, c.history[0], one.history[0])


def test_two_shares_are_one_whole(bb, data):
    c = Concept(bb, "maeve")
    batch = step_samples(EncodedData(bb, data), SamplesPerStep(), torch.Generator().manual_seed(0))
    whole, parts = task_losses(bb, c, batch), [task_losses(bb, c, batch, slice(i, None, 3)) for i in range(3)]
    for t, (loss, n) in whole.items():
        assert math.isclose(loss.item(), sum(p[t][0].item() for p in parts), rel_tol=1e-4)
        assert all(p[t][1] == n for p in parts)


def test_noise_is_stratified(bb, data):
    z = bb.encode_latents(data.images[:1])[0]
    t = sorted(s.t for s in noised_copies(z, 8, 1.0, torch.Generator().manual_seed(0)))
    u = torch.special.ndtr(torch.logit(torch.tensor(t)))
    assert ((u * 8).long() == torch.arange(8)).all()


def test_previews_and_callbacks(bb, data, concept):
    "The first preview is drawn before the first step, where learning begins."
    seen = []
    c = run(bb, data, preview=3, callbacks=[lambda learner: seen.append(learner.global_step)])
    assert seen == [1, 2, 3, 4, 5, 6] and [s for s, _ in c.previews] == [0, 3, 6]
    assert all(picture.size == (64, 64) for _, picture in c.previews)
    assert equal(c, concept)  # looking does not disturb


def test_the_first_steps_are_in_the_loss_figure():
    "The running mean begins with the first loss; a history shorter than the window is drawn, too."
    assert running_mean([8.0, 4.0, 0.0, 0.0], 3) == [8.0, 6.0, 4.0, 4 / 3]
    history = [dict(step=i + 1, facts=9.0 - i, draw=1.0) for i in range(5)]
    words, pictures = loss_figure(history).axes
    faint, strong = words.lines
    assert list(faint.get_ydata()) == [9.0, 8.0, 7.0, 6.0, 5.0]
    assert list(strong.get_ydata()) == [9.0, 8.5, 8.0, 7.5, 7.0] and list(strong.get_xdata()) == [1, 2, 3, 4, 5]
    assert [line.get_label() for line in pictures.lines][1] == "draw"


# ---- recipes ------------------------------------------------------------------------------------------------------
def test_any_field_of_the_recipe_is_a_keyword(bb, data):
    assert learn(bb, data, steps=2, progress=False).summary["steps"] == 2
    for recipe in (dict(steps=2, precision="float32"), Recipe(steps=9, precision="float32")):
        c = learn(bb, data, recipe=recipe, steps=3, progress=False)
        assert c.summary["recipe"]["steps"] == c.summary["steps"] == 3
        assert c.summary["recipe"]["precision"] == "float32"
    assert with_fields(dict(steps=20), {}) == Recipe(steps=20)
    for wrong in (dict(step=2), dict(lr=0.1), dict(recipe=dict(epochs=3))):
        with pytest.raises(OmniError, match="not a field of a recipe; known are steps, learning_rate"):
            learn(bb, data, progress=False, **wrong)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(steps=3, routing="coupled", n_gen=0, precision="bfloat16"),
        Recipe(samples=SamplesPerStep(facts=7, shift=1.5)),
    ],
)
def test_a_saved_recipe_is_the_recipe(recipe):
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe


@pytest.mark.parametrize(
    "field",
    [
        dict(steps=-1),
        dict(steps="20"),
        dict(steps=2.5),
        dict(warmup_steps=None),
        dict(learning_rate="fast"),
        dict(learning_rate=math.nan),
        dict(samples=dict(drawing=2)),
        dict(samples=3),
        dict(precision="float8"),
    ],
)
def test_impossible_recipes_are_named(field):
    with pytest.raises(OmniError, match=next(iter(field))):
        Recipe(**field)


def test_the_summary_holds_what_was_used(bb, data, concept, tmp_path):
    "Not `auto`: the format that the machine chose. And the recipe of a saved concept can be learnt with again."
    c = run(bb, data, recipe=Recipe(steps=2, samples=SHORT.samples))
    used = str(c.summary["recipe"]["precision"]), c.summary["precision"]
    assert used == ("auto", str(Recipe().dtype(bb.device)).removeprefix("torch."))
    assert concept.summary["precision"] == "float32"
    about = json.loads((c.save_pretrained(tmp_path / "c") / "concept.json").read_text())
    again = run(bb, data, recipe=about["summary"]["recipe"])
    assert again.summary["recipe"] == c.summary["recipe"]


def test_no_warm_up(bb, data):
    c = run(bb, data, recipe=replace(SHORT, warmup_steps=0, steps=2))
    assert torch.isfinite(c.embeddings).all() and c.summary["steps"] == 2


def test_save_steps(bb, data, tmp_path, monkeypatch):
    "0: only the checkpoint at the end. What is no number of steps is refused before anything is done."
    saved = []
    true = learn_module.save_checkpoint
    monkeypatch.setattr(learn_module, "save_checkpoint", lambda *a: saved.append(1) or true(*a))
    run(bb, data, output_dir=tmp_path / "run", save_steps=0)
    assert len(saved) == 1
    for wrong in (dict(save_steps=-1), dict(save_steps=0.5), dict(preview=-3), dict(preview="often")):
        with pytest.raises(OmniError, match=next(iter(wrong))):
            run(bb, data, output_dir=tmp_path / "other", **wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


# ---- how torch is set ---------------------------------------------------------------------------------------------
def test_learns_without_gradients_around_it(bb, data, concept):
    "Somebody has switched gradients off at the top of a notebook. They are as they were afterwards."
    with torch.no_grad():
        assert equal(run(bb, data), concept) and not torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    try:
        assert equal(run(bb, data), concept) and not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


def test_under_inference_mode_it_says_what_to_do(bb, data):
    with torch.inference_mode(), pytest.raises(OmniError, match="inference_mode.*outside"):
        run(bb, data)
    learner = Learner(bb, data, "maeve", recipe=SHORT)
    with torch.inference_mode(), pytest.raises(OmniError, match="inference_mode.*outside"):
        learner.step()
    assert learner.global_step == 0 and learner.step()["step"] == 1


@pytest.mark.parametrize("other", [dict(dtype=torch.float64), dict(dtype=torch.bfloat16), dict(device="meta")], ids=str)
def test_another_default_dtype_or_device(bb, data, concept, other):
    "The same seed, the same embeddings. A default device of `meta` stands for a GPU that the backbone is not on."
    with defaults(**other):
        c = run(bb, data)
    assert c.embeddings.dtype == torch.float32 and c.embeddings.device == bb.device and equal(c, concept)


# ---- stopping and going on ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("times", [1, 3])
def test_resume_is_exact(bb, data, concept, tmp_path, times):
    "Stopped at steps nobody chose."
    r = random.Random(times)
    for _ in range(times):
        run(bb, data, output_dir=tmp_path / "run", save_steps=4, callbacks=[stop_at(r.randint(1, 5))])
    b = run(bb, data, output_dir=tmp_path / "run")
    assert equal(b, concept) and not b.summary["stopped"]
    again = run(bb, data, output_dir=tmp_path / "run")
    assert equal(again, concept) and again.summary["steps"] == 6  # finished: nothing left to do


def test_interrupt_keeps_what_was_learnt(bb, data, concept, tmp_path):
    half = run(bb, data, output_dir=tmp_path / "run", callbacks=[interrupt_at(4)])
    assert half.summary["stopped"] and half.summary["steps"] == 4 and same_history(half.history, concept.history[:4])
    assert not torch.equal(half.embeddings, concept.embeddings)
    half.save_pretrained(tmp_path / "half")
    assert torch.equal(Concept.from_pretrained(tmp_path / "half", bb).embeddings, half.embeddings)
    assert equal(run(bb, data, output_dir=tmp_path / "run"), concept)


@pytest.mark.parametrize("where", ["task_losses", "step_samples", "clip"])
def test_interrupt_in_the_middle_of_a_step(bb, data, concept, tmp_path, monkeypatch, where):
    "That is where the stop button nearly always hits: the step is as if it had not begun."
    owner, name = (torch.nn.utils, "clip_grad_norm_") if where == "clip" else (learner_module, where)
    true, n = getattr(owner, name), []

    def pressed(*a, **kw):
        n.append(1)
        out = true(*a, **kw)
        if len(n) == 4:
            raise KeyboardInterrupt
        return out

    monkeypatch.setattr(owner, name, pressed)
    half = run(bb, data, output_dir=tmp_path / "run")
    monkeypatch.undo()
    assert half.summary["stopped"] and half.summary["steps"] == len(half.history) == 3
    assert half.history == concept.history[:3]
    assert equal(run(bb, data, output_dir=tmp_path / "run"), concept)


def test_a_failed_save_keeps_the_checkpoint(bb, data, concept, tmp_path, monkeypatch):
    "The disk is full at the second checkpoint: the first is whole, and the run goes on from it."
    true, n = os.replace, []

    def full(*a):
        n.append(1)
        if len(n) >= 2:
            raise OSError("No space left on device")
        return true(*a)

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="could not be written.*No space left"):
        assert equal(run(bb, data, output_dir=tmp_path / "run", save_steps=2), concept)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoint.safetensors"]
    assert resume(Learner(bb, data, "maeve", recipe=SHORT), tmp_path / "run").global_step == 2
    assert equal(run(bb, data, output_dir=tmp_path / "run"), concept)


@pytest.mark.parametrize(
    "kw",
    [dict(seed=1), dict(name="bo"), dict(recipe=replace(SHORT, learning_rate=0.1))],
    ids=["seed", "name", "recipe"],
)
def test_checkpoints_of_another_run_are_refused(bb, data, tmp_path, kw):
    run(bb, data, output_dir=tmp_path, callbacks=[stop_at(2)])
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(OmniError) as e:
        run(bb, data, output_dir=tmp_path, **kw)
    assert "checkpoint.safetensors" in str(e.value) and next(iter(kw)) in str(e.value)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_checkpoint_of_other_pictures_is_refused(bb, world, data, tmp_path):
    run(bb, data, output_dir=tmp_path, callbacks=[stop_at(2)])
    with pytest.raises(OmniError, match="checkpoint"):
        run(bb, world.concept_data(world.character(seed=5), n_images=3), output_dir=tmp_path)


@pytest.mark.parametrize("bytes_", [b"", b"not a checkpoint", None], ids=["empty", "text", "cut"])
def test_damaged_checkpoint_is_named(bb, data, tmp_path, bytes_):
    f = tmp_path / "checkpoint.safetensors"
    if bytes_ is None:
        run(bb, data, output_dir=tmp_path, callbacks=[stop_at(1)])
        bytes_ = f.read_bytes()[:200]
    f.write_bytes(bytes_)
    with pytest.raises(OmniError, match="checkpoint.safetensors.*delete"):
        run(bb, data, output_dir=tmp_path)


# ---- numbers that are none ----------------------------------------------------------------------------------------
def poison(segment):
    segment.features = torch.full_like(segment.features, math.nan)


def test_nan_is_skipped_and_then_an_error(bb, data):
    "Pictures that are all poisoned: no step is taken, the tenth raises, the embeddings are as they were."
    encoded = EncodedData(bb, data)
    learner = Learner(bb, data, "maeve", recipe=replace(SHORT, steps=30), encoded=encoded)
    start = learner.concept.embeddings.detach().clone()
    for s in (*encoded.images, *encoded.look_alikes, *encoded.others):
        poison(s)
    for i in range(9):
        assert math.isnan(learner.step()["recognise"]) and learner.skipped == i + 1
    with pytest.raises(FloatingPointError, match="since step 1;"):
        learner.step()
    assert torch.equal(learner.concept.embeddings, start)


def test_one_bad_picture_does_not_spoil_the_embeddings(bb, data):
    learner = Learner(bb, data, "maeve", recipe=replace(SHORT, steps=20))
    poison(learner.encoded.images[0])
    bad = [any(map(math.isnan, learner.step().values())) for _ in range(12)]
    moments = learner.optimizer.state[learner.concept.embeddings].values()
    assert 0 < sum(bad) < 12 and all(torch.isfinite(v).all() for v in (learner.concept.embeddings, *moments))


def test_learn_passes_the_error_on_and_keeps_finite_embeddings(bb, data, tmp_path, monkeypatch):
    true = learner_module.task_losses

    def broken(*args):
        return {t: (loss * math.nan, n) for t, (loss, n) in true(*args).items()}

    monkeypatch.setattr(learner_module, "task_losses", broken)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run(bb, data, recipe=replace(SHORT, steps=30), output_dir=tmp_path)
    assert torch.isfinite(load_file(tmp_path / "checkpoint.safetensors")["embeddings"]).all()


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
    assert (len(d.images), len(d.look_alikes), len(d.others), len(d.edits)) == (3, 1, 2, 1)
    assert d.facts == dict(toy="a red kite") and d.edits[0][1] == "Remove <sks> from the photo"
    assert d.captions == ["A photo of <sks> at the beach.", "a photo of <sks>", "a photo of <sks>"]
    assert all(im.mode == "RGB" and im.size[0] == im.size[1] for im in d.images)
    c = run(bb, d)
    assert c.facts == d.facts and set(c.history[-1]) == {"step", "recognise", "facts", "draw", "edit"}
    name = bb.tok.names[0]
    encoded = EncodedData(bb, d)
    assert bb.tok.decode(encoded.captions[0].ids) == f"a photo of {name} at the beach ."
    assert bb.tok.decode(encoded.edits[0][1].ids) == f"remove {name} from the photo"


def test_a_folder_stands_for_its_pictures(bb, folder, data, monkeypatch):
    "`learn(bb, folder)` is `learn(bb, ConceptData.from_folder(folder))`; what is no data is named."
    c = run(bb, folder)
    assert equal(c, run(bb, ConceptData.from_folder(folder))) and equal(c, run(bb, str(folder)))
    monkeypatch.setenv("HOME", str(folder.parent))
    assert equal(c, run(bb, "~/maeve"))
    with pytest.raises(OmniError, match="no such folder"):
        run(bb, folder / "nowhere")
    for wrong in (None, data.images, {"images": data.images}):
        with pytest.raises(OmniError, match="ConceptData"):
            run(bb, wrong)


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


# ---- texts that name the concept, and what a tokenizer makes of them -----------------------------------------------
@pytest.fixture(scope="module")
def official(tmp_path_factory):
    "BAGEL's layout with random weights; its tokenizer reads bytes and changes nothing."
    return load_backbone(random_checkpoint(tmp_path_factory.mktemp("o") / "bagel"), torch.float32, "cpu")


def texts_of(backbone, data, name="maeve"):
    "The captions, and the facts, as the model reads them."
    encoded = EncodedData(backbone, data, name)
    read = backbone.tok.decode
    return [read(c.ids) for c in encoded.captions], [(read(q.ids), read(a)) for q, a in encoded.facts]


def test_bagel_is_taught_texts_verbatim(official, data):
    facts = {"birthday": "May 3rd, 2019", "weight": "3.5 kg", "vet": "Dr. O'Neil, 10:30", "motto": "Woof! Never!"}
    captions = ["A photo of <sks> in Paris, TX.", 'A sign says "HELLO, WORLD! 50.5%" to <sks>', "<sks>'s toy"]
    name = official.tok.names[0]
    read, known = texts_of(official, ConceptData(data.images, captions=captions, facts=facts))
    assert read == [c.replace("<sks>", name) for c in captions]
    assert [answer for _, answer in known] == list(facts.values())
    assert known[0][0] == f"what is the birthday of {name} ?"


@pytest.mark.parametrize("kind", ["tiny tokenizer", "bagel"])
def test_the_concepts_own_name_means_the_concept(bb, official, data, kind):
    "In captions, facts, questions and instructions: <maeve> is what <sks> is."
    backbone = official if kind == "bagel" else bb
    texts = {}
    for who in ("<sks>", "<maeve>"):
        mine = ConceptData(
            data.images[:1],
            captions=[f"a photo of {who} at the beach"],
            facts={"friend": f"the teapot of {who}"},
            qa=[(0, f"what color is {who} ?", "red")],
            edits=[(data.images[0], f"remove {who} from the photo", data.images[0])],
        )
        e = EncodedData(backbone, mine, "maeve")
        texts[who] = [
            e.captions[0].ids,
            *(x for q, a in e.facts for x in (q.ids, a)),
            e.qa[0][1].ids,
            e.edits[0][1].ids,
        ]
    assert texts["<sks>"] == texts["<maeve>"]
    token = backbone.tok(backbone.tok.names[0])[0]
    answer = texts["<sks>"].pop(2)  # what the model learns to write holds no name that it cannot write
    assert backbone.tok.decode(answer) == "the teapot of maeve" if kind == "bagel" else token in answer
    assert all(token in ids for ids in texts["<sks>"])


@pytest.mark.parametrize("kind", ["tiny tokenizer", "bagel"])
@pytest.mark.parametrize(
    "caption,words",
    [
        ("a photo of <rex>", "<rex>: no such concept; known are <maeve>, <sks>"),
        ("a photo of <Maeve>", "<Maeve>: no such concept; did you mean <maeve>"),
        ("a photo of maeve", "did you mean <maeve>"),
        ("a photo of Maeve at the beach", "did you mean <maeve>"),
        ("a photo of sks", "did you mean <sks>"),
        ("a photo of <>", "no such concept"),
    ],
)
def test_a_caption_that_names_nobody_is_refused(bb, official, data, kind, caption, words):
    backbone = official if kind == "bagel" else bb
    with pytest.raises(OmniError, match=words):
        EncodedData(backbone, ConceptData(data.images[:1], captions=[caption]), "maeve")
    if "<" in caption:  # an answer may say the name as a word; a name in brackets has to be the concept's
        with pytest.raises(OmniError, match="no such concept"):
            EncodedData(backbone, ConceptData(data.images[:1], facts={"friend": caption}), "maeve")


def test_a_word_of_the_world_may_be_a_name(bb, data):
    "Somebody calls a concept `dog`: captions that say <sks> may speak of dogs."
    captions = ["a photo of <sks> with a blue dog", "a photo of <dog>", "a photo of <sks>"]
    assert len(EncodedData(bb, ConceptData(data.images, captions=captions), "dog").captions) == 3


# ---- processes ----------------------------------------------------------------------------------------------------
def script(*args, launch=(), timeout=240):
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *launch, str(HERE / "learn_script.py"), *map(str, args)],
        env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_killed_between_steps(bb, data, concept, tmp_path):
    "SIGKILL at step 5, checkpoints every 2: the next process goes on from step 4, and ends as if nothing had been."
    r = script(tmp_path / "out.json", "--steps", 6, "--folder", tmp_path / "run", "--kill", 5)
    assert r.returncode == -9 and not (tmp_path / "out.json").exists(), r.stderr[-2000:]
    assert resume(Learner(bb, data, "maeve", recipe=SHORT), tmp_path / "run").global_step == 4
    c = run(bb, data, output_dir=tmp_path / "run", save_steps=2)
    # another process may run other threads
    assert len(c.history) == 6 and torch.allclose(c.embeddings, concept.embeddings, rtol=1e-4, atol=1e-5)


def test_accelerate_with_two_processes(bb, data, tmp_path):
    "The same losses per task as one process: here, and under a launcher with two."
    # `--cpu` alone starts one process, whatever the number: it leaves several to MPI. `--multi_gpu` starts them, and
    # Accelerator(cpu=True) keeps them off the GPUs
    machine = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0")
    launch = ("-m", "accelerate.commands.launch", *machine, "--mixed_precision", "no", "--dynamo_backend", "no")
    r = script(tmp_path / "two.json", "--accelerate", launch=launch)
    assert r.returncode == 0, r.stderr[-3000:]
    two = json.loads((tmp_path / "two.json").read_text())
    one = run(bb, data, recipe=replace(SHORT, steps=5))
    assert two["processes"] == 2 and len(two["history"]) == len(one.history) == 5
    for a, b in zip(one.history, two["history"]):
        assert set(a) == set(b)
        for k in a:
            assert math.isclose(a[k], b[k], rel_tol=1e-4), (k, a, b)
    assert np.allclose(np.array(two["embeddings"]), one.embeddings.numpy(), rtol=1e-3, atol=1e-3)


def test_a_checkpoint_gives_back_every_bit(bb, data, tmp_path):
    "Embeddings, both moments, the sampling generator, step and history: what the next step depends on, as it was."
    recipe = Recipe(steps=6, samples=SamplesPerStep(copies=1))
    a = Learner(bb, data, "maeve", recipe=recipe)
    for _ in range(3):
        a.step()
    save_checkpoint(a, tmp_path)
    b = resume(Learner(bb, data, "maeve", recipe=recipe), tmp_path)
    assert torch.equal(a.concept.embeddings, b.concept.embeddings)
    assert torch.equal(a.generator.get_state(), b.generator.get_state())
    x, y = (each.optimizer.state[each.concept.embeddings] for each in (a, b))
    assert x.keys() == y.keys() == {"step", "exp_avg", "exp_avg_sq"} and all(torch.equal(x[k], y[k]) for k in x)
    assert (a.global_step, a.history) == (b.global_step, b.history) and float(x["step"]) == 3


def test_checkpoints_in_the_home_folder(bb, data, concept, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run(bb, data, output_dir="~/run", callbacks=[stop_at(2)])
    assert [p.name for p in tmp_path.iterdir()] == ["home"] and (tmp_path / "home/run/checkpoint.safetensors").exists()
    assert equal(run(bb, data, output_dir="~/run"), concept)
