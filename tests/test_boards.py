"Boards, driven from the kernel: menus and sliders are set, pictures and numbers read back. Results are made by hand."

import json
import re

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
from helpers import SHORT

from omnipersona.basics import OmniError
from omnipersona.inside.crosstask import conflict_summary, gradient_conflict, score_matrix
from omnipersona.inside.geometry import token_geometry
from omnipersona.inside.svg_figures import contrast
from omnipersona.widgets.board_pictures import (
    conflict_html,
    conflict_limits,
    conflict_numbers,
    map_html,
    map_words,
    matrix_html,
    matrix_words,
)
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
    return w.value


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
    [
        (conflict_html, conflict()),
        (conflict_numbers, conflict()),
        (conflict_limits, conflict()),
        (map_html, geometry()),
    ],
)
def test_a_record_that_is_not_there(f, x):
    for i in (3, -1):
        with pytest.raises(OmniError, match=f"{i}: there are 3"):
            f(x, i)


def test_figures_differ():
    c, g, m = conflict(), geometry(), matrix(True)
    for f, x, k in ((conflict_html, c, 3), (map_html, g, 3)):
        p = [f(x, i) for i in range(k)]
        assert len(set(p)) == k and all(q.startswith("<svg ") and len(q) < 60_000 for q in p) and f(x, 0) == p[0]
    assert matrix_html(m) != matrix_html(m, "nothing")
    with pytest.raises(OmniError, match="'all': no row"):
        matrix_html(m, "all")
    assert map_html(g, 1) != map_html(g | dict(shared=False), 1)  # shared axes: the frame is that of all steps


def test_text_on_cells_can_be_read():
    "Every number of a table has a contrast of 4.5 at least; all other text has the colour of the page."
    m = matrix(True) | dict(mean=[[i / 10, -i / 10] for i in range(11)], rows=list(range(11)), sd=[[0, 0]] * 11)
    for table in (matrix_html(m), matrix_html(m | dict(minus="x", rows=list("abcdefghijk")), "a")):
        pairs = re.findall(r"background:(#\w{6});color:(#\w{6})", table)
        assert len(pairs) >= 20 and min(contrast(*p) for p in pairs) >= 4.5
    for figure in (conflict_html(conflict()), map_html(geometry())):
        texts = re.findall(r"<text [^>]*>", figure)
        assert texts and all('fill="currentColor"' in t for t in texts)


def test_the_words_are_true_of_the_numbers():
    m = matrix(True)
    said = matrix_words(m)
    assert "A row is what the tokens were taught. A column is what was measured" in said
    assert "Chance: tokens that have learnt nothing, in the row nothing, reach A 0.10, $B$ 0.50." in said
    assert "The highest number is 0.50: taught" in said
    assert "Chance: A 0.25, $B$ 0.50." in matrix_words(m | dict(chance={"A": 0.25, "$B$": 0.5}))
    assert "do not say what chance gives" in matrix_words(m, "no such row")
    assert matrix_html(m | dict(chance={"A": 0.25, "$B$": 0.5})).count("chance") == 1
    assert "the separation of und and gen tokens is +0.20" in map_words(geometry(), 2)


# ---- CrossTaskBoard -----------------------------------------------------------------------------------------------
def test_board_shows_what_is_chosen():
    ms, cs = [matrix(False), matrix(True, rows=("nothing", "A only", "B only"))], [conflict(3), conflict(2, "coupled")]
    b = CrossTaskBoard(json.loads(json.dumps(ms)), json.loads(json.dumps(cs)))
    assert image(b.images[0]) == matrix_html(ms[0]) and image(b.images[1]) == conflict_html(cs[0])
    assert [o[0] for o in b.matrix.options] == ["1. without replay", "2. with replay"]
    b.matrix.value = 1
    assert image(b.images[0]) == matrix_html(ms[1])
    b.less.value = True
    assert image(b.images[0]) == matrix_html(ms[1], "nothing") and "nothing" in b.notes[0].value
    b.record.value = 2
    assert image(b.images[1]) == conflict_html(cs[0], 2) and "step 21" in b.notes[1].value
    b.conflict.value = 1
    assert b.record.value == 1  # the shorter run has no third record
    assert image(b.images[1]) == conflict_html(cs[1], 1) and "step 11" in b.notes[1].value
    b.less.value = False
    assert image(b.images[0]) == matrix_html(ms[1]) and b.notes[0].value == ""


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
    assert image(b.images[0]) == matrix_html(m) and len(b.parts()) == 1
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
        assert h.count("omni-matrix") == 2 * 2 and "http" not in h
        assert h.count("<svg ") + h.count("data:image/svg+xml;base64") == 2 * len(KINDS)


# ---- TokenMap -----------------------------------------------------------------------------------------------------
def test_map_shows_what_is_chosen():
    gs = [geometry(5), geometry(2, False, "tsne")]
    t = TokenMap(json.loads(json.dumps(gs)))
    assert image(t.image) == map_html(gs[0])
    t.at.value = 4
    assert (
        image(t.image) == map_html(gs[0], 4) and "step 4: the separation of und and gen tokens is +0.40" in t.note.value
    )
    t.which.value = 1
    assert t.at.value == 1 and image(t.image) == map_html(gs[1], 1)
    assert "2. decoupled, step 0 to step 1, tsne" in [o[0] for o in t.which.options]


def test_static_map_is_thinned_and_says_so(tmp_path):
    t = TokenMap(geometry(9))
    assert t.static().data.count("data:image/svg+xml") == 2 * 4 and "shown: 4 of 9" in t.static().data
    assert t.export(tmp_path / "t.html", most=9).read_text().count("<svg ") == 2 * 9
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
    assert image(b.images[1]) == conflict_html(c, 2) and image(t.image) == map_html(t.geometries[1], 2)
