"The harness of the benchmark: what stops it, what it keeps, and that the same seeds give the same table."

import errno
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from omnipersona.__main__ import main as command
from omnipersona.__main__ import numbers
from omnipersona.basics import OmniError
from omnipersona.bench import cells as cells_module
from omnipersona.bench import items as items_module
from omnipersona.bench import omnipbench as omnipbench_module
from omnipersona.bench.bench_figures import bars_figure, radar_figure, sample_items, sample_sheet
from omnipersona.bench.bench_table import (
    BENCH_COLUMNS,
    bench_table,
    escape_latex,
    escape_markdown,
    table_html,
    table_latex,
    table_markdown,
)
from omnipersona.bench.cells import Cell, CellPlan, cell_groups, pick_items, plan_items, plan_teachings, read_cell
from omnipersona.bench.embedders import ClipEmbedder, DinoEmbedder
from omnipersona.bench.exact import ExactJudge, ToyIdentity
from omnipersona.bench.items import PICTURE_ANSWERS, BenchItem, Prediction, PredictionFolder
from omnipersona.bench.method import Answer, Method, method
from omnipersona.bench.omnipbench import CellScorer, ScorePlan, chosen_methods, judge_named, run_omnipbench
from omnipersona.bench.paired_statistics import bootstrap_interval, compare_methods, holm, paired_bootstrap
from omnipersona.bench.parallel import run_groups
from omnipersona.bench.run_cells import CellProgress, run_bench_cells, run_cell, seconds_left
from omnipersona.bench.scoring import score_predictions
from omnipersona.bench.teachings import teachings
from omnipersona.bench.toy_omnipbench import bench_characters, write_toy_omnipbench
from omnipersona.bench.unifybench import read_unifybench
from omnipersona.bench.unifybench_writer import photo_source, write_unifybench


@pytest.fixture(scope="module")
def toy_bench(tmp_path_factory):
    return write_toy_omnipbench(tmp_path_factory.mktemp("bench") / "toy", 2, easy=20)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "A random backbone in a folder: a cell needs its name only."
    from helpers import random_backbone

    folder = tmp_path_factory.mktemp("random") / "backbone"
    random_backbone().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def plan(toy_bench, saved, tmp_path):
    return CellPlan(str(toy_bench), str(tmp_path / "out"), saved, toy=True, most=1, copies=1)


class Says:
    "Answers everything; stops, sleeps or fails at some answer. It counts what it is asked."

    n_parameters, n_pictures, seconds = 10, 4, 0.5
    asked = 0

    def __init__(self, data=None, at=None, what=None):
        self.picture, self.at, self.what, self.n = data and data.images[0], at, what, 0

    def answer(self, item, images, seed):
        self.n += 1
        Says.asked += 1
        if self.n == self.at:
            self.what()
        return Answer(image=self.picture) if item.wants_picture else Answer(f"yes {seed}", confidence=0.5)


def says(name="says", at=None, what=None):
    return Method(name, lambda bb, teaching, others, seed, budget: Says(teaching.data, at, what))


def no_learning(bb, teaching, others, seed, budget):
    raise RuntimeError("nan in the loss")


def stop():
    raise KeyboardInterrupt


def dies(bb, teaching, others, seed, budget):
    os._exit(1)


def stored(out):
    "Everything that was answered, without times."
    found = PredictionFolder(out).read()
    return [(p.key, p.text, p.error, p.image and (Path(out) / p.image).read_bytes()) for p in found]


# ---- what may be learnt from --------------------------------------------------------------------------------------
def test_a_method_gets_training_material_and_nothing_else(toy_bench):
    bench = read_unifybench(toy_bench)
    taught = teachings(bench, truths=bench_characters(2))
    for name, t in taught.items():
        char, data = t.truth, t.data
        assert data.facts == char.facts and data.description == char.description and data.edits and data.qa
        learnt = [np.asarray(p).tobytes() for p in [*data.images, *data.look_alikes, *data.others]]
        learnt += [np.asarray(p).tobytes() for e in data.edits for p in e[::2]]
        tested = [*bench.concepts[name].test, *(f for i in bench.concepts[name].lists["items"] for f in i.images)]
        from omnipersona.pictures import load_image

        assert not set(learnt) & {np.asarray(load_image(toy_bench / f)).tobytes() for f in tested}
        assert f"<{name}>" not in str(data.captions + data.qa) and "<sks>" in str(data.captions)
    assert teachings(bench)["anna"].truth is None
    with pytest.raises(OmniError, match="'maeve': not in this benchmark; it has anna, ben"):
        teachings(bench, ["maeve"])


@pytest.mark.parametrize(
    "file,content,why",
    [
        ("conversations.json", '[{"conversations": [{"from": "human"}]}]', "conversations.json, entry 0"),
        ("conversations.json", "[3]", "conversations.json, entry 0"),
        ("edits.json", '[{"source": "x.png"}]', "edits.json, entry 0"),
        ("edits.json", '[{"source": "x.png", "instruction": "go", "target": "y.png"}]', "x.png"),
    ],
)
def test_broken_training_files_are_named(toy_bench, tmp_path, file, content, why):
    folder = shutil.copytree(toy_bench, tmp_path / "bench")
    (folder / "concept/train/anna" / file).write_text(content)
    with pytest.raises(OmniError, match=re.escape(why)):
        teachings(read_unifybench(folder))


# ---- cells --------------------------------------------------------------------------------------------------------
def test_interrupted_and_resumed_equals_uninterrupted(plan, tmp_path):
    from dataclasses import replace

    other = replace(plan, out=str(tmp_path / "other"))
    with pytest.raises(KeyboardInterrupt):
        run_cell(says(at=5, what=stop), plan, "anna", 0)
    assert read_cell(plan.out, Cell("says", "anna", 0)) is None and len(stored(plan.out)) == 4
    Says.asked = 0
    again, whole = run_cell(says(), plan, "anna", 0), run_cell(says(), other, "anna", 0)
    assert Says.asked == 2 * whole["items"] - 4 and again["answered"] == whole["answered"] == whole["items"]
    assert stored(plan.out) == stored(other.out)
    run_cell(says(), plan, "anna", 0)
    assert Says.asked == 2 * whole["items"] - 4  # a cell that is done is not run again


def test_a_line_that_was_cut_is_answered_again(plan):
    run_cell(says(), plan, "anna", 0)
    cell = Cell("says", "anna", 0)
    file = PredictionFolder(plan.out, cell.name).file
    before = stored(plan.out)
    file.write_bytes(file.read_bytes()[:-20])
    cells_module.cell_file(plan.out, cell).unlink()
    run_cell(says(), plan, "anna", 0)
    assert stored(plan.out) == before


def test_a_failing_method_stops_nobody(plan):
    methods = [Method("broken", no_learning), says("one answer", 2, no_learning), says()]
    records = run_bench_cells(methods, ["anna", "ben"], [0], plan, 1, progress=False)
    found = {r["method"]: r for r in records if r["concept"] == "ben"}
    assert found["broken"]["status"] == "failed" and found["broken"]["error"] == "RuntimeError: nan in the loss"
    assert found["one answer"]["status"] == "done" and found["one answer"]["errors"] == 1
    assert found["says"]["status"] == "done" and found["says"]["errors"] == 0 and len(records) == 6
    mended = run_bench_cells([says("broken")], ["ben"], [0], plan, 1, progress=False)  # a failed cell is tried again
    assert mended[0]["status"] == "done"


def test_a_method_that_never_answers_has_failed(plan):
    silent = Method("silent", lambda *given: type("Silent", (Says,), dict(answer=lambda *given: Answer()))())
    record = run_cell(silent, plan, "anna", 0)
    assert record["status"] == "failed" and "none of" in record["error"] and "no text was given" in record["error"]


def test_time_is_limited_also_while_learning(plan):
    from dataclasses import replace

    slow = Method("slow", lambda *given: time.sleep(30))
    record = run_cell(slow, replace(plan, limit=0.2), "anna", 0)
    assert record["status"] == "failed" and "longer than 0.2 s" in record["error"] and record["seconds"] < 10
    record = run_cell(says("stuck", 3, lambda: time.sleep(30)), replace(plan, limit=1.0), "anna", 0)
    assert record["status"] == "failed" and "2 answers are kept" in record["error"]
    assert run_cell(says("stuck"), plan, "anna", 0)["status"] == "done"


def test_a_full_disk_is_said_and_loses_nothing(plan, monkeypatch):
    run_cell(says("before"), plan, "anna", 0)
    before = stored(plan.out)

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(items_module, "atomic_write", full)  # pictures
        m.setattr(cells_module, "atomic_write", full)  # records
        record = run_cell(says(), plan, "anna", 0)
    assert record["status"] == "failed" and "No space left on device" in record["error"]
    assert read_cell(plan.out, Cell("says", "anna", 0)) is None
    assert set(before) <= set(stored(plan.out))
    assert run_cell(says(), plan, "anna", 0)["status"] == "done"


def test_stop_while_learning_is_not_taken_for_good_enough(plan):
    import signal

    def half(bb, teaching, others, seed, budget):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            return Says(teaching.data)  # as `learn`: what was learnt until now

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may have none
    try:
        with pytest.raises(KeyboardInterrupt):
            run_cell(Method("half", half), plan, "anna", 0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not stored(plan.out)


def test_all_methods_answer_the_same_items_from_the_same_noise(plan):
    run_bench_cells([says("a"), says("b")], ["anna"], [0, 1], plan, 1, progress=False)
    found = {p.key: p.text for p in PredictionFolder(plan.out).read()}
    assert all(found[i, "a", s] == found[i, "b", s] for i, _, s in found)
    texts = [i.id for i in plan_items(plan, "anna") if not i.wants_picture]
    assert all(found[i, "a", 0] != found[i, "a", 1] for i in texts) and len({found[i, "a", 0] for i in texts}) == len(
        texts
    )


def test_what_is_learnt_once_is_shared(plan):
    times = []

    def learn(bb, teaching, others, seed, budget):
        times.append(teaching.name)
        assert [t.name for t in others] == ["ben"] and budget.recipe().precision == plan.precision
        return Says(teaching.data)

    base = Method("base", learn)
    same = Method("same", learn, same_learning="base", adapt=lambda learnt: learnt)
    (group,) = [g for g in cell_groups([same, base], ["anna"], [0])]
    assert [m.name for m in group[0]] == ["base", "same"]
    records = run_bench_cells([same, base], ["anna"], [0], plan, 1, progress=False)
    assert times == ["anna"] and [r["status"] for r in records] == ["done", "done"]
    assert records[0]["parameters"] == 5 and records[0]["taught"] == 2  # of one concept: the half


def test_names_of_cells_differ_where_cells_differ():
    names = [Cell(m, c, s).name for m in ("lora", "lora larger", "lora-larger") for c in ("a", "b") for s in (0, 1)]
    long = [Cell("x" * 50, "y" * 32, s).name for s in range(9)]
    assert len(set(names + long)) == len(names + long) and all(
        re.fullmatch("[A-Za-z0-9_-]{1,32}", n) for n in names + long
    )


def test_picked_items_are_of_every_kind_and_the_same_each_time(toy_bench):
    everything = plan_items(CellPlan(str(toy_bench), "out"), "ben")
    picked = pick_items(everything, 2)
    assert picked == pick_items(everything, 2) and {i.task for i in picked} == {i.task for i in everything}
    assert pick_items(everything, None) == everything and pick_items([], 3) == []
    with pytest.raises(OmniError, match="'maeve': not in this benchmark"):
        plan_items(CellPlan(str(toy_bench), "out"), "maeve")
    assert plan_teachings(CellPlan(str(toy_bench), "out"), "ben")[1][0].name == "anna"


# ---- many processes -----------------------------------------------------------------------------------------------
def test_processes_give_what_one_gives_and_a_dead_one_is_reported(plan, tmp_path):
    from dataclasses import replace

    other = replace(plan, out=str(tmp_path / "other"))
    methods = [method("chance"), method("oracle")]
    one = run_bench_cells(methods, ["anna", "ben"], [0], plan, 1, progress=False)
    two = run_bench_cells([*methods, Method("dying", dies)], ["anna", "ben"], [0], other, 2, progress=False)
    dead = [r for r in two if r["method"] == "dying"]
    assert [r["status"] for r in dead] == ["failed"] * 2 and all("its process has ended" in r["error"] for r in dead)
    assert stored(plan.out) == stored(other.out) and {r["status"] for r in one} == {"done"}
    assert len([r for r in two if r["status"] == "done"]) == 4


@pytest.mark.parametrize("package,backend", [("ray", "ray"), ("distributed", "dask")])
def test_a_cluster_gives_the_same(package, backend):
    pytest.importorskip(package)
    assert list(run_groups(abs, [-1, 2, -3], 2, backend)) == [1, 2, 3]


@pytest.mark.parametrize("package,backend", [("ray", "ray"), ("distributed", "dask")])
def test_a_missing_cluster_is_said(package, backend, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(OmniError, match=f"needs the package.*pip install '{backend}"):
        list(run_groups(abs, [1], 2, backend))


def test_wrong_jobs_and_backends():
    for options, why in ((dict(backend="spark"), "'spark': one of loky, ray, dask"), (dict(jobs=0), "jobs=0")):
        with pytest.raises(OmniError, match=why):
            list(run_groups(abs, [1], **options))


def test_time_left_knows_that_methods_differ():
    ran = [dict(method="chance", seconds=1.0), dict(method="lora", seconds=100.0)]
    assert seconds_left(ran, ["lora"] * 4, 2) == 200 and seconds_left(ran, ["chance"], 2) == 1
    shown = CellProgress([Cell("lora", "anna", s) for s in range(3)], shown=False)
    shown(dict(method="lora", concept="anna", seed=0, seconds=60.0, status="done"))
    assert seconds_left(shown.seen, shown.left, 1) == 120


# ---- everything together ------------------------------------------------------------------------------------------
@pytest.fixture
def small(monkeypatch, toy_bench, saved):
    "`run_omnipbench` with two characters and a random backbone, in this process."
    monkeypatch.setattr(omnipbench_module, "write_toy_omnipbench", lambda folder: shutil.copytree(toy_bench, folder))
    options = dict(backbone=saved, quick=True, most=1, jobs=1, progress=False, precision="float32")
    return lambda out, methods="chance,oracle", **more: run_omnipbench(methods=methods, out=out, **options | more)


def test_two_runs_with_the_same_seeds_give_the_same_table(small, tmp_path):
    broken = [Method("broken", no_learning), method("oracle"), method("chance")]
    a, b = (small(tmp_path / n, broken) for n in "ab")
    strip = dict(costs=False)
    assert table_markdown(a["table"], **strip) == table_markdown(b["table"], **strip)
    assert (tmp_path / "a/scores.jsonl").read_bytes() == (tmp_path / "b/scores.jsonl").read_bytes()
    assert [r["scores"] for r in a["table"]["rows"]] == [r["scores"] for r in b["table"]["rows"]]
    assert a["cells"] == dict(done=4, all=6) and {f["error"] for f in a["failed"]} == {"RuntimeError: nan in the loss"}
    assert "broken (2 of 2 cells failed)" in table_markdown(a["table"])
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert report["backbone"] and report["versions"]["torch"] and report["settings"]["precision"] == "float32"
    for name in ("table.md", "table.html", "table.tex", "bars.png", "radar.png", "drawings.png", "edits.png"):
        assert (tmp_path / "a" / name).stat().st_size > 300, name
    other = small(tmp_path / "a", broken, seeds=[1])
    assert other["cells"] == dict(done=4, all=6)  # more seeds may be added
    with pytest.raises(OmniError, match="results of other settings lie here .steps was 0.1 and is 0.5 now"):
        small(tmp_path / "a", steps=0.5)


def test_scoring_alone_asks_no_method(small, tmp_path, monkeypatch):
    first = small(tmp_path / "a", [says()])
    Says.asked = 0
    monkeypatch.setattr(omnipbench_module, "run_bench_cells", stop)
    again = small(tmp_path / "a", [says()], score_only=True)
    assert Says.asked == 0 and again["table"] == first["table"]
    with pytest.raises(OmniError, match="nothing is stored here"):
        small(tmp_path / "b", score_only=True)


def test_slips_are_found_before_hours_of_work(small, tmp_path):
    for options, why in (
        (dict(methods="omnipersonna"), "omnipersona"),
        (dict(concepts="maeve"), "'maeve': not in this benchmark"),
        (dict(concepts=99), "concepts=99"),
        (dict(how=ScorePlan("gpt")), "judge 'gpt'"),
        (dict(data=str(tmp_path / "nothing")), "no such folder"),
        (dict(seeds=["x"]), "seed='x'"),
    ):
        with pytest.raises(OmniError, match=why):
            small(tmp_path / "a", **options)
    assert not (tmp_path / "a/cells").exists()
    with pytest.raises(OmniError, match="OPENAI_API_KEY is not set|OPENAI_API_KEY"):
        os.environ.pop("OPENAI_API_KEY", None)
        judge_named("endpoint:gpt", tmp_path)


def test_a_judge_that_times_out_costs_ratings_and_not_the_run(small, tmp_path, monkeypatch):
    from omnipersona.bench.ratings import CachedJudge

    class Silent:
        about = dict(judge="silent")

        def reply(self, text, images, seed):
            raise TimeoutError("the reply was not complete after 60 s")

    monkeypatch.setattr(omnipbench_module, "judge_named", lambda name, kept: CachedJudge(Silent(), kept))
    report = small(tmp_path / "a", "chance", how=ScorePlan("endpoint:silent"))
    assert report["judged"]["failed"] == report["judged"]["asked"] > 0 and report["cells"]["done"] == 2
    scores = [json.loads(line) for line in (tmp_path / "a/scores.jsonl").read_text().splitlines()]
    rated = [s for s in scores if s["metric"] == "rating"]
    assert rated and all(s["value"] == 0 and s["missing"] == s["n"] for s in rated)


def test_a_corrupt_folder_is_an_error_that_names_the_file(toy_bench, saved, tmp_path):
    folder = shutil.copytree(toy_bench, tmp_path / "bench")
    (folder / "concept/test/anna/1.png").write_bytes(b"\x89PNG no")
    (folder / "test_data/ben.json").unlink()
    asked = dict(
        data=str(folder), methods="chance", out=tmp_path / "a", backbone=saved, quick=True, jobs=1, progress=False
    )
    with pytest.raises(OmniError) as e:
        run_omnipbench(**asked)
    assert "anna/1.png: broken" in str(e.value) and "test_data/ben.json: missing" in str(e.value)
    report = run_omnipbench(**asked, strict=False)
    assert report["cells"] == dict(done=2, all=2)


def tiny_clip():
    from transformers import CLIPConfig, CLIPModel

    size = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    vision, text = size | dict(image_size=32, patch_size=16), size | dict(vocab_size=99, max_position_embeddings=16)
    torch.manual_seed(0)
    net = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8))

    def tokenize(texts):
        return dict(
            input_ids=torch.tensor([[min(98, len(w)) for w in f"{t} x x x x x x x x".split()[:8]] for t in texts])
        )

    return ClipEmbedder(net, tokenize)


def tiny_dino():
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    return DinoEmbedder(Dinov2Model(config), size=28, resize=32)


def test_photographs_of_ones_own_run_through(world, saved, tmp_path, monkeypatch):
    "A folder in the layout, written by the package's own writer, with a tiny CLIP and DINO."
    albums = {
        n: [p.image.resize((96, 80)) for p in world.album(world.character(s), 4)] for n, s in (("rex", 1), ("mo", 2))
    }
    facts = [("where does it sleep ?", "It sleeps in the kitchen.")]
    prompts = ["a photo of <rex> with its toy"]
    sources = [
        photo_source("rex", albums["rex"], "dog", facts, albums["mo"][:2], prompts=prompts),
        photo_source("mo", albums["mo"], "cat", facts, albums["rex"][:2]),
    ]
    folder = write_unifybench(tmp_path / "mine", sources, albums["mo"][:2])
    monkeypatch.setattr(ClipEmbedder, "from_pretrained", lambda name, mode="correct": tiny_clip())
    monkeypatch.setattr(DinoEmbedder, "from_pretrained", lambda name: tiny_dino())
    how = ScorePlan("none", clip="a clip", dino="a dino")
    options = dict(out=tmp_path / "a", how=how, backbone=saved, jobs=1, progress=False, copies=1)
    report = run_omnipbench(str(folder), "chance,oracle", **options)
    titles = [c["title"] for c in report["table"]["columns"]]
    assert {"Rec", "CLIP-I", "DINO", "CLIP-T"} <= set(titles) and "Identity" not in titles
    rows = {r["method"]: r["scores"] for r in report["table"]["rows"]}
    assert rows["oracle"]["Rec"]["mean"] == 1 and report["cells"] == dict(done=4, all=4)
    taught = teachings(read_unifybench(folder))["rex"].data
    assert taught.qa == [(0, "where does it sleep ?", "It sleeps in the kitchen.")] and taught.description == "a dog"


def test_a_thousand_predictions_are_scored_without_a_model(toy_bench, judge, tmp_path, monkeypatch):
    "No backbone and no method; the judge's network is called for batches of pictures, and for ratings one by one."
    plan = CellPlan(str(toy_bench), str(tmp_path), toy=True, copies=1)
    items = [i for c in ("anna", "ben") for i in plan_items(plan, c)]
    folder, picture = PredictionFolder(tmp_path), read_unifybench(toy_bench).concepts["anna"].test[0]
    drawn = tmp_path / "pictures/one.png"
    drawn.parent.mkdir(parents=True)
    shutil.copy(toy_bench / picture, drawn)
    said = []
    for seed in range(-(-1000 // len(items))):
        for i in items:
            more = dict(image="pictures/one.png") if i.wants_picture else dict(text=i.answer or "unknown")
            said.append(Prediction(i.id, "method", seed, **more))
    calls: dict = {}
    outputs = judge.outputs

    def counted(name, images):
        calls[name] = calls.get(name, 0) + 1
        return outputs(name, images)

    monkeypatch.setattr(judge, "outputs", counted)
    monkeypatch.setattr(cells_module, "load_backbone", stop)
    exact = ExactJudge(judge)
    options = dict(toy=judge, embedders=dict(identity=ToyIdentity(judge)), folder=toy_bench, predicted=tmp_path)
    rows = score_predictions(items, said, exact, **options)
    assert len(said) >= 1000 and len({(r["item"], r["seed"]) for r in rows}) == len(said)
    pictures = sum(next(i for i in items if i.id == p.item).task in PICTURE_ANSWERS for p in said)
    assert calls["identity"] <= 2  # one drawing and twenty photos, together
    assert calls["attributes"] <= 1 + 4 * pictures and exact.tally.failed == 0
    assert folder.read() == []


# ---- statistics ---------------------------------------------------------------------------------------------------
def test_statistics_on_cases_made_by_hand():
    same = {(c, s): 0.5 for c in "abcdef" for s in (0, 1)}
    assert bootstrap_interval(same) == dict(mean=0.5, low=0.5, high=0.5, concepts=6, n=12)
    uneven = {("a", 0): 0.0, ("a", 1): 0.0, ("a", 2): 0.0, ("b", 0): 1.0, ("c", 0): float("nan"), ("c", 1): None}
    assert bootstrap_interval(uneven)["mean"] == 0.5 and bootstrap_interval(uneven)["concepts"] == 2
    assert np.isnan(bootstrap_interval({})["mean"]) and bootstrap_interval({})["low"] is None
    better = {k: v + 0.1 for k, v in same.items()}
    found = paired_bootstrap(better, same)
    assert np.isclose(found["difference"], 0.1) and found["p"] < 0.001 and found["n"] == 12
    assert paired_bootstrap(same, same)["p"] == 1 and paired_bootstrap({}, same)["p"] is None
    half = paired_bootstrap(
        {(c, 0): float(c in "abc") for c in "abcdef"}, {(c, 0): float(c in "def") for c in "abcdef"}
    )
    assert half["difference"] == 0 and half["p"] > 0.5
    assert holm(dict(a=0.01, b=0.02, c=0.03)) == dict(a=0.03, b=0.04, c=0.04)
    with pytest.raises(OmniError, match="p of a is 2"):
        holm(dict(a=2))


def scores_of(levels, n=8, seed=0, columns=BENCH_COLUMNS[:3]):
    "Invented scores."
    r = np.random.default_rng(seed)
    return [
        dict(
            task=c.task, metric=c.metric, method=m, concept=f"c{k}", seed=0, n=5, missing=0, value=v + r.normal(0, 0.02)
        )
        for c in columns
        for m, v in levels.items()
        for k in range(n)
    ]


def test_comparisons_are_corrected_over_the_whole_table():
    scores = scores_of(dict(omnipersona=0.8, lora=0.5, same=0.8))
    rows = compare_methods(scores, [(c.task, c.metric) for c in BENCH_COLUMNS[:3]])
    assert len(rows) == 6 and all(r["corrected"] >= r["p"] for r in rows)
    assert all((r["corrected"] < 0.05) == (r["against"] == "lora") for r in rows)
    few = compare_methods(scores_of(dict(omnipersona=0.8, lora=0.5), n=3), [("rec", "weighted")])
    assert few[0]["p"] is None and few[0]["corrected"] is None


# ---- tables and figures -------------------------------------------------------------------------------------------
NASTY = [
    "a|b",
    "<script>alert(1)</script>",
    "50% & $x_1^2$ #{~}",
    "\\input{secret}",
    "[x](http://evil)",
    "**b** `c`",
    "è ü 字",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_are_escaped_in_every_format(name):
    table = bench_table(scores_of({"omnipersona": 0.8, name: 0.6}))
    page, tex, md = table_html(table), table_latex(table), table_markdown(table)
    assert "<script>" not in page and "<script>" not in md
    assert "\\input{" not in tex and not re.search(r"(?<!\\)[%#]", tex) and not re.search(r"(?<!\\)_", tex)
    lines = [line for line in md.split("\n") if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    rows = [line for line in tex.split("\n") if line.endswith("\\\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows}) == 1
    assert "[x](" not in md and escape_markdown("a|b") == "a\\|b" and escape_latex("a_b") == "a\\_b"
    bars_figure(table).canvas.draw()
    radar_figure(table).canvas.draw()


def test_the_table_says_what_is_best_what_differs_and_what_was_published():
    levels = dict(omnipersona=0.8, lora=0.5, better=0.9, oracle=1.0, chance=0.1)
    md = table_markdown(bench_table(scores_of(levels)), costs=False).split("\n")
    row = {line.split(" | ")[0].strip("| "): line for line in md if line.startswith("|")}
    assert "↓" in row["lora"] and "↑" in row["better"] and "**" in row["better"] and "**" not in row["oracle"]
    assert (
        "†" in row["OmniPersona †"] and "0.852" in row["OmniPersona †"] and any("for orientation only" in m for m in md)
    )
    empty = bench_table([], [dict(method="lora", status="failed")], methods=["lora"])
    assert "lora (1 of 1 cells failed)" in table_markdown(empty)
    for figure in (bars_figure, radar_figure):
        with pytest.raises(OmniError, match="nothing to show"):
            figure(empty)


def test_a_sheet_is_chosen_by_its_seed_and_shows_failures(tmp_path, toy_bench):
    items = plan_items(CellPlan(str(toy_bench), str(tmp_path)), "anna")
    rows = sample_items(items, 4, seed=3)
    assert rows == sample_items(list(items), 4, seed=3) and all(i.wants_picture for i in rows)
    assert len({tuple(i.id for i in sample_items(items, 4, seed=s)) for s in range(5)}) == 5
    said = [Prediction(rows[0].id, "a", 0, error="no"), Prediction(rows[1].id, "a", 0, image="gone.png")]
    sheet = sample_sheet(rows, said, ["a", "b $ %"], tmp_path, toy_bench)
    shown = [t.get_text() for ax in sheet.axes for t in ax.texts]
    assert shown.count("no picture") == 1 and shown.count("unreadable") == 1 and shown.count("not answered") == 6
    sheet.canvas.draw()
    with pytest.raises(OmniError, match="no item of parg asks"):
        sample_items([BenchItem("i", "anna", "qa", "who ?", answer="x")], task="parg")


# ---- the command --------------------------------------------------------------------------------------------------
def test_the_command(toy_bench, saved, tmp_path, capsys):
    words = [
        "bench",
        "--data",
        str(toy_bench),
        "--methods",
        "chance",
        "--backbone",
        saved,
        "--jobs",
        "1",
        "--most",
        "1",
    ]
    words += ["--copies", "1", "--judge", "none", "--concepts", "anna", "--seeds", "0-1", "--out", str(tmp_path / "a")]
    assert command(words) == 0
    told = capsys.readouterr().out
    assert "| chance |" in told and "2 of 2 cells are done" in told
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert report["command"].startswith("omnipersona bench --data") and "--seeds 0-1" in report["command"]
    assert command([*words, "--score-only"]) == 0
    assert command([*words, "--tasks", "dancing"]) == 2 and "'dancing' is no task" in capsys.readouterr().err
    assert numbers("0,3-5") == [0, 3, 4, 5]
    for wrong in (["bench", "--seeds", "x"], ["bench", "--backend", "spark"], ["fly"], []):
        with pytest.raises(SystemExit) as e:
            command(wrong)
        assert e.value.code == 2


def test_methods_come_in_the_order_of_the_table():
    names = [m.name for m in chosen_methods()]
    assert names[0] == "omnipersona" and {"chance", "oracle", "short prompt"} <= set(names)
    assert [m.name for m in chosen_methods("chance, omnipersona")] == ["chance", "omnipersona"]
    assert CellScorer(CellPlan("a", "b"), ScorePlan()).how.judge == "exact"
