"The lessons and their benchmark: what is taught, what is measured, what is reported, and that a run can be cut off."

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import QUICK

import omnipersona.bench.crosstask_bench as bench
import omnipersona.bench.lessons as lessons
import omnipersona.bench.scores as scores
from omnipersona.basics import OmniError
from omnipersona.bench.crosstask_report import COMPARED, crosstask_report, report_text
from omnipersona.concept.losses import Recipe
from omnipersona.concept.persona import Persona
from omnipersona.concept.replay import Trace
from omnipersona.concept.sampling import TASKS, SamplesPerStep


# ---- lessons ------------------------------------------------------------------------------------------------------
def test_lessons():
    lesson = lessons.lesson
    assert lesson("nothing", 50).steps == 0
    assert lesson("text QA only", 50) == Recipe(steps=50, samples=SamplesPerStep().only("facts"))
    assert lesson("everything") == Recipe()
    assert lesson("coupled").routing == "coupled"
    assert lesson("no understanding").samples == SamplesPerStep().only("draw", "edit")
    taught = {task for k in lessons.SINGLE for task in TASKS if getattr(lesson(k).samples, task)}
    assert taught == set(TASKS)
    with pytest.raises(OmniError, match="'nonsense': no lesson; one of nothing"):
        lesson("nonsense")


def test_a_lesson_differs_from_everything_in_nothing_else():
    "What is left out is all that differs: tasks that stay keep the samples and weights of the recommended recipe."
    whole = Recipe()

    def without(tasks):
        return replace(whole, samples=replace(whole.samples, **{task: 0 for task in tasks}))

    for k, tasks in lessons.LEFT_OUT.items():
        assert lessons.LESSONS[f"no {k}"] == without(tasks)
    for k, tasks in lessons.ONLY.items():
        assert lessons.LESSONS[f"{k} only"] == without([task for task in TASKS if task not in tasks])
    assert lessons.LESSONS["coupled"] == replace(whole, routing="coupled")


def test_every_task_is_measured_with_and_without_replay(bb, concept, judge, char, monkeypatch):
    """Where replay changes no prompt, nothing is drawn again and no number changes. Where it does, only drawing and
    editing may change."""
    persona, drawn = Persona(bb, concept), []
    for name in ("generate_many", "edit_many"):
        made = getattr(Persona, name)

        def counted(self, first, *rest, made=made):
            drawn.append(len(first))
            return made(self, first, *rest)

        monkeypatch.setattr(Persona, name, counted)
    monkeypatch.setattr(lessons.Replay, "__call__", lambda self, rs: [Trace(r, prompt=r) for r in rs])
    a, b = lessons.propagated(persona, judge, char, n=1, sampling=QUICK)
    assert a == b and list(a) == lessons.COLUMNS and len(drawn) == 2
    assert all(0 <= v <= 1 for k, v in a.items() if k != "generation: look")

    def rewrites_the_second(self, requests):
        return [Trace(r, prompt="a photo of a red kite" if i == 1 else r) for i, r in enumerate(requests)]

    monkeypatch.setattr(lessons.Replay, "__call__", rewrites_the_second)
    drawn.clear()
    c, d = lessons.propagated(persona, judge, char, n=1, sampling=QUICK)
    assert sorted(drawn)[:2] == [1, 1] and len(drawn) == 4
    assert c == a and all(c[k] == d[k] for k in lessons.COLUMNS[:4])


def test_learnt_characters_are_kept(tmp_path):
    "The same character, seed and recipe are read from the folder; other recipes and data have places of their own."
    recipe = Recipe(steps=1)
    made = scores.learn_character(123, 0, recipe, tmp_path)[3]
    again = scores.learn_character(123, 0, recipe, tmp_path)[3]
    assert again.summary == made.summary and np.array_equal(again.embeddings.detach(), made.embeddings.detach())

    def fewer(data):
        return replace(data, facts={})

    scores.learn_character(123, 0, recipe, tmp_path, change=fewer)
    scores.learn_character(123, 0, Recipe(steps=2), tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 3 and sum(n.endswith("-fewer") for n in names) == 1


# ---- the report ---------------------------------------------------------------------------------------------------
def made_up_row(cs, seed, name, steps, n, draws, backbone="x"):
    "What `score_lesson` would write."
    base = lessons.SINGLE.index(name) * 0.1 + 0.1 if name in lessons.SINGLE else 0.0

    def columns(replay):
        return {k: base + 0.01 * seed + replay * (k == "generation: fact") for k in lessons.COLUMNS}

    conflict = dict(
        tokens=["<a>", "und 1", "gen 1"],
        pairs=["x / y"],
        tasks=["x", "y"],
        steps=[1],
        routing=name,
        cosine=[[[1], [0.5], [-0.5 + seed]]],
        length=[[[1, 3], [2, 2], [0, 4]]],
        reliability=[[[1, 1]] * 3],
    )
    fact = 0.5 + 0.1 * (name == "everything") + 0.01 * cs
    return dict(
        character=cs,
        seed=seed,
        lesson=name,
        **bench.run_key(SimpleNamespace(fingerprint=backbone), steps, n, draws),
        scores={} if name in lessons.SINGLE else {"fact QA": fact, "edits": 0.5},
        propagated=[columns(0), columns(1)],
        conflict=conflict if name in ("everything", "coupled") else None,
        seconds=1.0,
    )


def test_report_of_cells():
    cells = [{k: made_up_row(1, s, k, None, 8, 1) for k in lessons.LESSONS} for s in (0, 1)]
    report = crosstask_report(cells)
    assert json.loads(json.dumps(report)) == report
    assert [m["replay"] for m in report["propagation"]] == [False, True]
    assert report["propagation"][0]["rows"] == list(lessons.LESSONS) and report["propagation"][0]["n"] == 2
    without, with_replay = report["taught"]
    assert np.allclose(without["mean"], [[0.1] * 4, [0.2] * 4, [0.3] * 4, [0.4] * 4])
    assert with_replay == without | dict(replay=True)  # what replay adds, it adds to 'nothing' too
    assert list(report["compared"]) == list(COMPARED)
    fact = report["compared"]["decoupled minus coupled"]["fact QA"]
    assert fact["difference"] == pytest.approx(0.1) and fact["relative"] == pytest.approx(0.1 / 0.51) and fact["n"] == 2
    assert report["conflict"]["coupled"]["gen"]["x / y"] == pytest.approx(dict(mean=0, sd=0.5**0.5, n=2))
    assert report["conflicts"][0]["cosine"] == [[[1], [0.5], [0]]] and report["conflicts"][0]["n"] == 2
    text = report_text(report)
    assert all(x in text for x in ("n = 2", "with replay", "decoupled minus coupled", "Gradients, coupled", "+0.100"))
    with pytest.raises(OmniError, match="no character and seed"):
        crosstask_report([])


# ---- the run ------------------------------------------------------------------------------------------------------
def test_a_run_that_is_cut_off_goes_on(tiny, tmp_path, monkeypatch):
    "What is done is not done again; rows of other sizes and recipes are neither used nor lost."
    did, out, file = [], tmp_path / "c.json", tmp_path / "c.jsonl"

    def score(cs, seed, name, steps, n, draws, file, stop=None):
        if len(did) == stop:
            raise KeyboardInterrupt
        did.append((cs, seed, name))
        bench.keep_row(file, made_up_row(cs, seed, name, steps, n, draws, tiny.fingerprint))

    size = dict(n_characters=2, n_seeds=1, steps=7, n=2, draws=1, lessons=("nothing", "everything", "coupled"), jobs=1)
    other = made_up_row(123, 0, "nothing", 7, 2, 1, tiny.fingerprint) | dict(recipes="of another day")
    bench.keep_row(file, made_up_row(123, 0, "nothing", 99, 2, 1, tiny.fingerprint))
    bench.keep_row(file, other)
    file.open("a").write('\n{"character": 12')
    monkeypatch.setattr(bench, "score_lesson", lambda *a: score(*a, stop=4))
    with pytest.raises(KeyboardInterrupt):
        bench.main(out, **size)
    assert not out.exists() and len(did) == 4
    monkeypatch.setattr(bench, "score_lesson", score)
    report = bench.main(out, **size)
    assert len(did) == len(set(did)) == 6
    assert json.loads(out.read_text()) == report and report["scores"]["coupled"]["edits"]["n"] == 2
    assert len(bench.read_rows(file, steps=99)) == 1
    assert bench.main(out, **size) == report and len(did) == 6
    with pytest.raises(OmniError, match="no lesson"):
        bench.main(out, **size | dict(lessons=("all",)))
