"Boards, driven from the kernel: menus and sliders are set, pictures and numbers read back. Results are made by hand."

import json

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
from helpers import SHORT

from omnipersona.basics import OmniError
from omnipersona.inside.crosstask import conflict_summary, gradient_conflict, score_matrix
from omnipersona.inside.geometry import token_geometry
from omnipersona.widgets.board_pictures import conflict_limits, conflict_numbers, conflict_png, map_png, matrix_png
from omnipersona.widgets.boards import CrossTaskBoard, TokenMap

EVIL = "<img src=x onerror=alert(1)>"
r = np.random.default_rng(0)
TOKENS = ["<maeve>", *[f"und {i + 1}" for i in range(4)], *[f"gen {i + 1}" for i in range(4)]]
KINDS = ["understanding", "generation", "editing"]


def matrix(replay, title=None, rows=("nothing", "A only")):
    cell = {k: {"A": 0.1 + 0.2 * i, "$B$": 0.5} for i, k in enumerate(rows)}
    m = score_matrix([cell, cell], dict(replay=replay))
    return m | (dict(title=title) if title else {})


def conflict(steps=3, routing="decoupled"):
    cos = r.uniform(-1, 1, (steps, 9, 3)).round(3)
    return dict(
        tokens=TOKENS,
        tasks=KINDS,
        pairs=["understanding / generation", "understanding / editing", "generation / editing"],
        routing=routing,
        steps=[1 + 10 * i for i in range(steps)],
        cosine=cos.tolist(),
        length=r.uniform(0, 1, (steps, 9, 3)).tolist(),
        reliability=r.uniform(-0.2, 1, (steps, 9, 3)).tolist(),
    )


def geometry(n=3, shared=True, how="pca"):
    return dict(
        points=r.normal(size=(n, 9, 2)).tolist(),
        at=[f"step {i}" for i in range(n)],
        labels=TOKENS,
        groups=[None] + ["und"] * 4 + ["gen"] * 4,
        separation=[0.1 * i for i in range(n)],
        routing="decoupled",
        how=how,
        shared=shared,
    )


def image(w):
    return bytes(w.value)


# ---- the parts ----------------------------------------------------------------------------------------------------
def test_limits_are_what_full_agreement_would_reach():
    "Two noisy copies of one direction: their cosine is about the limit, and nothing like 1."
    r = np.random.default_rng(5)
    direction = r.normal(size=20_000)

    def noisy():
        return direction + r.normal(size=20_000) * 1.5

    def cosine(x, y):
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    a, b = [noisy(), noisy()], [noisy(), noisy()]
    made = dict(tasks=["x", "y"], pairs=["x / y"], reliability=[[[cosine(*a), cosine(*b)]]])
    limit = conflict_limits(made)[0, 0]
    assert limit == pytest.approx(cosine(sum(a), sum(b)), abs=0.02) and 0.4 < limit < 0.55
    assert conflict_limits(made | dict(reliability=[[[1, 1], [0, 1], [-0.5, 1]]]))[:, 0].tolist() == [1, 0, 0]


def test_numbers_of_one_record_are_those_of_a_run_of_one():
    c = conflict()
    alone = c | {k: [c[k][1]] for k in ("cosine", "length", "reliability")} | dict(steps=c["steps"][1:2])
    assert conflict_numbers(c, 1) == conflict_summary(alone) == conflict_numbers(alone, 0)
    each = [conflict_numbers(c, i)["und"]["generation / editing"] for i in range(3)]
    assert conflict_summary(c)["und"]["generation / editing"] == pytest.approx(np.mean(each))


@pytest.mark.parametrize(
    "f,x",
    [(conflict_png, conflict()), (conflict_numbers, conflict()), (conflict_limits, conflict()), (map_png, geometry())],
)
def test_a_record_that_is_not_there(f, x):
    for i in (3, -1):
        with pytest.raises(OmniError, match=f"{i}: there are 3"):
            f(x, i)


def test_pictures_are_png_and_differ():
    c, g, m = conflict(), geometry(), matrix(True)
    for f, x, k in ((conflict_png, c, 3), (map_png, g, 3)):
        p = [f(x, i) for i in range(k)]
        assert len(set(p)) == k and all(q.startswith(b"\x89PNG") and len(q) < 60_000 for q in p) and f(x, 0) == p[0]
    assert matrix_png(m) != matrix_png(m, "nothing")
    with pytest.raises(OmniError, match="'all': no row"):
        matrix_png(m, "all")
    assert map_png(g, 1) != map_png(g | dict(shared=False), 1)  # shared axes: the frame is that of all steps


# ---- CrossTaskBoard -----------------------------------------------------------------------------------------------
def test_board_shows_what_is_chosen():
    ms, cs = [matrix(False), matrix(True, rows=("nothing", "A only", "B only"))], [conflict(3), conflict(2, "coupled")]
    b = CrossTaskBoard(json.loads(json.dumps(ms)), json.loads(json.dumps(cs)))
    assert image(b.images[0]) == matrix_png(ms[0]) and image(b.images[1]) == conflict_png(cs[0])
    assert [o[0] for o in b.matrix.options] == ["1. without replay", "2. with replay"]
    b.matrix.value = 1
    assert image(b.images[0]) == matrix_png(ms[1])
    b.less.value = True
    assert image(b.images[0]) == matrix_png(ms[1], "nothing") and "nothing" in b.notes[0].value
    b.record.value = 2
    assert image(b.images[1]) == conflict_png(cs[0], 2) and "step 21" in b.notes[1].value
    b.conflict.value = 1
    assert b.record.value == 1  # the shorter run has no third record
    assert image(b.images[1]) == conflict_png(cs[1], 1) and "step 11" in b.notes[1].value
    b.less.value = False
    assert image(b.images[0]) == matrix_png(ms[1]) and b.notes[0].value == ""


def test_half_a_board_and_none():
    for half in (CrossTaskBoard(matrix(True)), CrossTaskBoard(conflicts=conflict())):
        assert len(half.widget.children) == 1
    with pytest.raises(OmniError, match="nothing to show"):
        CrossTaskBoard()
    with pytest.raises(OmniError, match="no 'columns'"):
        CrossTaskBoard([dict(rows=[])])
    with pytest.raises(OmniError, match="conflicts: .* has no 'steps'"):
        CrossTaskBoard(matrix(True), [matrix(True)])


def test_a_matrix_without_the_row_to_compare_with():
    m = matrix(True)
    b = CrossTaskBoard(m, baseline=EVIL)
    b.less.value = True
    note = b.notes[0].value
    assert image(b.images[0]) == matrix_png(m) and len(b.parts()) == 1
    assert "no row" in note and "<img" not in note


def test_text_of_results_stays_text(tmp_path):
    sizes = dict(cosine=1, length=2, reliability=2)
    numbers = {k: np.asarray(conflict()[k])[:, :, :n].tolist() for k, n in sizes.items()}
    c = conflict(routing=EVIL) | dict(pairs=[f"{EVIL} / b"], tasks=[EVIL, "b"], steps=[EVIL] * 3) | numbers
    b = CrossTaskBoard(matrix(True, EVIL, ("nothing", EVIL)), c)
    b.record.value = 1
    for h in (b.static().data, b.export(tmp_path / "b.html").read_text(), b.notes[1].value):
        assert "<img src=x" not in h and "&lt;img src=x" in h
    t = TokenMap(geometry() | dict(at=[EVIL] * 3))
    assert all("<img src=x" not in h and "&lt;img src=x" in h for h in (t.static().data, t.note.value))


def test_static_board_needs_no_network(tmp_path):
    b = CrossTaskBoard([matrix(False), matrix(True)], [conflict(), conflict()])
    for h in (b.static().data, b.export(tmp_path / "b.html").read_text()):
        assert h.count("data:image/png;base64") == 2 * 2 + 2 and "http" not in h


# ---- TokenMap -----------------------------------------------------------------------------------------------------
def test_map_shows_what_is_chosen():
    gs = [geometry(5), geometry(2, False, "tsne")]
    t = TokenMap(json.loads(json.dumps(gs)))
    assert image(t.image) == map_png(gs[0])
    t.at.value = 4
    assert image(t.image) == map_png(gs[0], 4) and t.note.value == "step 4: separation +0.40"
    t.which.value = 1
    assert t.at.value == 1 and image(t.image) == map_png(gs[1], 1)
    assert "2. decoupled, step 0 to step 1, tsne" in [o[0] for o in t.which.options]


def test_static_map_is_thinned_and_says_so(tmp_path):
    t = TokenMap(geometry(9))
    assert t.static().data.count("data:image/png") == 4 and "shown: 4 of 9" in t.static().data
    assert t.export(tmp_path / "t.html", most=9).read_text().count("data:image/png") == 9
    with pytest.raises(OmniError, match="nothing to show"):
        TokenMap([])
    with pytest.raises(OmniError, match="no 'points'"):
        TokenMap(matrix(True))


def test_real_results(bb, concept, data):
    "What the measuring functions return is what the boards take."
    c = gradient_conflict(bb, data, recipe=SHORT, every=3, draws=1)
    b = CrossTaskBoard(conflicts=c)
    b.record.value = 2
    t = TokenMap([token_geometry(bb, concept), token_geometry(bb, concept, "tsne")])
    t.which.value = 1
    t.at.value = 2
    assert image(b.images[1]) == conflict_png(c, 2) and image(t.image) == map_png(t.geometries[1], 2)
