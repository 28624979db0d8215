"""The tutorials as a student meets them: their form, and every exercise with its stub and with its folded solution.

An exercise runs with the cells that it needs and no others; `make test` also runs every tutorial from top to bottom."""

import ast
import builtins
import inspect
import io
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache

import nbformat
import pytest
from conftest import ROOT

TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))
NUMBERED = [p for p in TUTORIALS if p.stem[:2].isdigit()]
FEWER = ("09_bagel_on_colab", "studio")  # may have fewer exercises
LINES = 10  # of a code cell, without imports
each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)


@dataclass
class Exercise:
    "A cell to complete, with what stands around it."

    number: str  # '3.1'
    title: str
    minutes: int
    difficulty: int
    at: int  # its code cell, among all cells
    stub: str
    hints: int
    solution: str


@cache
def cells_of(path):
    return nbformat.read(path, 4).cells


def prose_of(path):
    return "\n\n".join(c["source"] for c in cells_of(path) if c["cell_type"] == "markdown")


HEAD = r"^### Exercise ([\dS]+\.\d+) · (.+)\n+\*(\d+) minutes · difficulty ([123]) of 3\*"
FOLDED = r"<details>\s*<summary>\s*{}\s*</summary>(.*?)</details>"


def exercises_of(path):
    "Every exercise of a tutorial, in order. A part that is missing is empty."
    cells, found = cells_of(path), []
    heads = [
        (i, m)
        for i, c in enumerate(cells)
        if c["cell_type"] == "markdown"
        for m in re.finditer(HEAD, c["source"], re.M)
    ]
    for i, m in heads:
        marked = (j for j in range(i, len(cells)) if cells[j]["source"].startswith(f"# exercise {m[1]}"))
        at = next(marked, -1)
        folded = cells[at + 1]["source"] if 0 <= at < len(cells) - 1 else ""
        solution = re.search(FOLDED.format("Solution"), folded, re.S)
        block = re.search(r"\n\n```python\n(.*?)\n```\s*\n", solution[1] if solution else "", re.S)
        hints = len(re.findall(FOLDED.format(r"Hint \d"), folded, re.S))
        stub = cells[at]["source"] if at >= 0 else ""
        found.append(Exercise(m[1], m[2], int(m[3]), int(m[4]), at, stub, hints, block[1] if block else ""))
    return found


EXERCISES = [(p, e) for p in TUTORIALS for e in exercises_of(p)]


# ---- form -----------------------------------------------------------------------------------------------------------
def section(prose, title):
    "The text under a heading, or after a bold line, of this title."
    m = re.search(rf"^(?:#+ |\*\*){title}[^\n]*\n(.*?)(?=^#|\Z)", prose, re.M | re.S)
    return m[1] if m else ""


@each
def test_a_reader_learns_at_once_what_a_tutorial_is_for(path):
    "Title and badge, three to five things to be able to do, what to know before, how long it takes."
    head = "\n\n".join(c["source"] for c in cells_of(path)[:4] if c["cell_type"] == "markdown")
    assert head.startswith("# ") and f"blob/main/nbs/tutorials/{path.name}" in head and "colab-badge" in head
    aims = re.search(
        r"(?:^|\n)\W*(?:What you will be able to do|When you have finished you can)\W*\n+(.*?)(?:\n\n|$)", head, re.S
    )
    assert aims and 3 <= len(re.findall(r"^(?:[-*]|\d\.) ", aims[1], re.M)) <= 5, "no list of three to five things"
    assert re.search(r"\*\*(You need|Prerequisites)", head), "no prerequisites"
    minutes = re.search(r"\*\*Time\b\W*(?:about )?(\d+)", head)
    assert minutes and 15 <= int(minutes[1]) <= 60, "no line that begins with **Time:** and says how many minutes"


@each
def test_a_tutorial_ends_with_a_summary_and_what_to_read(path):
    prose = prose_of(path)
    assert len(section(prose, "Summary").split()) >= 30
    assert re.search(r"arXiv|\]\(", section(prose, "Further reading")), "papers by name and number, or pages"


@each
def test_exercises_are_complete(path):
    "Three to six, numbered in order, each with a stub, a check as its last line, hints and a folded solution."
    found = exercises_of(path)
    assert (0 if path.stem in FEWER else 3) <= len(found) <= 6
    first = str(int(path.stem[:2])) if path in NUMBERED else "S"
    assert [e.number for e in found] == [f"{first}.{i + 1}" for i in range(len(found))]
    for e in found:
        assert e.stub, f"{e.number}: no code cell whose first line is `# exercise {e.number}`"
        assert 1 <= e.hints <= 2, f"{e.number}: {e.hints} hints"
        assert e.solution, f"{e.number}: no folded solution with a block of Python"
        for code in (e.stub, e.solution):
            assert re.match(r"check_\w+\(", code.strip().split("\n")[-1]), f"{e.number}: its last line calls no check"
        assert 1 <= e.minutes <= 20


def lines_of(source):
    "How many lines a reader has to read: no blank ones, no imports, not the mark of an exercise."
    tree = ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.M))
    imports = {
        k
        for n in ast.walk(tree)
        if isinstance(n, (ast.Import, ast.ImportFrom))
        for k in range(n.lineno, n.end_lineno + 1)
    }
    lines = enumerate(source.split("\n"), 1)
    return sum(bool(line.strip()) and i not in imports and not line.startswith("# exercise ") for i, line in lines)


@each
def test_code_cells_are_short(path):
    _, *code = [c for c in cells_of(path) if c["cell_type"] == "code"]
    long = [(c["id"], n) for c in code if (n := lines_of(c["source"])) > LINES]
    assert not long, f"cells of more than {LINES} lines: {long}"


@each
def test_prose_comes_before_each_figure(path):
    "At most one cell of code without a figure stands between a figure and the prose that says where to look."
    cells = cells_of(path)
    figures = [i for i, c in enumerate(cells) if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))]
    said = {i for i in figures if cells[i - 1]["cell_type"] == "markdown"}
    said |= {i for i in figures if i - 1 not in figures and cells[i - 2]["cell_type"] == "markdown"}
    bare = [cells[i]["id"] for i in figures if i not in said]
    assert not bare, f"figures that no prose announces: {bare}"


@each
def test_stored_outputs_hold_no_error(path):
    for c in cells_of(path):
        for o in c.get("outputs", []):
            text = str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", ""))
            assert o["output_type"] != "error" and "Traceback (most recent" not in text, c["id"]


def main_character(path):
    "The seed of the character that a tutorial works with: the first one that its code names."
    from omnipersona.course.course_concepts import COURSE_CONCEPTS

    seeds = {c.name: c.character for c in COURSE_CONCEPTS}
    code = "\n".join(c["source"] for c in cells_of(path) if c["cell_type"] == "code")
    found = re.search(r"""course_(?:concept|character|data)\([^)]*?["'](\w+)["']|\.character\((?:seed=)?(\d+)""", code)
    assert found, "no character"
    return seeds[found[1]] if found[1] else int(found[2])


def test_neighbours_have_different_characters():
    who = [(p.stem, main_character(p)) for p in NUMBERED]
    assert not [(a, b) for (a, x), (b, y) in zip(who, who[1:]) if x == y]
    assert len({seed for _, seed in who}) >= min(6, len(who))


# ---- together they use every public function ------------------------------------------------------------------------
MADE = {  # classes that a student meets and does not call: {class: what gives one}
    "Backbone": "load_backbone",
    "ConceptMaps": "concept_maps",
    "Result": ".generate",
    "Trace": ".trace",
    "Traits": ".traits",
}
NOT_CALLED = {  # methods that a student does not call, and why
    "by the package itself": "Backbone.latent_grid Backbone.on_device Backbone.preprocess Backbone.probability "
    "Backbone.settings Backbone.to Backbone.vit_grid Concept.in_slot Concept.place Learner.set_state Learner.state "
    "PhotoKit.origin Recipe.weight TextPrompt.in_slot TextPrompt.place ToyJudge.outputs ToyJudge.shows ToyWorld.album "
    "ToyWorld.shoot",
    "by a click": "AttentionExplorer.visit ConceptStudio.is_busy ConceptStudio.stop PhotoReview.turn",
    "by `static` and `export_html`": "AttentionExplorer.parts ConceptStudio.parts CrossTaskBoard.parts "
    "PhotoReview.parts ReplayExplorer.parts TokenMap.parts",
    "needs an account": "Concept.push_to_hub",
    "the opposite of `without`": "SamplesPerStep.only",
}


def student_code(path):
    "The code of a tutorial: its cells, and the solutions that a student may run."
    code = [c["source"] for c in cells_of(path) if c["cell_type"] == "code"]
    return code + [e.solution for e in exercises_of(path)]


@cache
def used():
    "Names that the tutorials read, attributes as '.name'."
    found = set()
    for source in (s for p in TUTORIALS for s in student_code(p)):
        tree = ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.M))
        found |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        found |= {f".{n.attr}" for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    return found


def public_methods():
    "'Class.method' of every class that `omnipersona.all` gives."
    import omnipersona.all as everything

    for name in everything.__all__:
        thing = getattr(everything, name)
        for k, v in vars(thing).items() if inspect.isclass(thing) else ():
            if not k.startswith("_") and (inspect.isfunction(v) or isinstance(v, (classmethod, staticmethod))):
                yield f"{name}.{k}"


def test_together_they_use_every_public_function():
    import omnipersona.all as everything

    assert not [n for n in everything.__all__ if MADE.get(n, n) not in used()]


def test_together_they_call_every_method_that_a_student_needs():
    spared, methods = set(" ".join(NOT_CALLED.values()).split()), set(public_methods())
    assert spared <= methods, f"not there any more: {spared - methods}"
    unused = sorted(m for m in methods - spared if f".{m.split('.')[1]}" not in used())
    assert not unused, f"use them where they belong, or say in NOT_CALLED why a student does not: {unused}"


# ---- exercises ------------------------------------------------------------------------------------------------------
def star_names():
    tree = ast.parse((ROOT / "omnipersona" / "all.py").read_text(encoding="utf-8"))
    return {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}


def names_of(source):
    "(names that a cell makes or changes, names that it reads)."
    tree, made, read = ast.parse(source), set(), set()
    for n in ast.walk(tree):
        if isinstance(n, ast.Name):
            (read if isinstance(n.ctx, ast.Load) else made).add(n.id)
        elif isinstance(n, (ast.FunctionDef, ast.ClassDef)):
            made.add(n.name)
        elif isinstance(n, (ast.Import, ast.ImportFrom)):
            names = {a.asname or a.name.split(".")[0] for a in n.names}
            made |= star_names() if "*" in names else names
        if isinstance(n, (ast.Attribute, ast.Subscript)) and not isinstance(n.ctx, ast.Load):
            made |= {m.id for m in ast.walk(n.value) if isinstance(m, ast.Name)}  # bb.presets |= ... changes bb
    return made, read


def needed(cells, at, code):
    "The cells before number `at` that some code needs, in order."
    wanted, kept = names_of(code)[1] - set(dir(builtins)), []
    for c in reversed([c for c in cells[:at] if c["cell_type"] == "code"][1:]):  # the first one installs the package
        if re.match(r"# exercise ", c["source"]):
            continue  # later cells never depend on a student's answer
        made, read = names_of(c["source"])
        if made & wanted:
            kept.append(c["source"])
            wanted |= read - set(dir(builtins))
    return kept[::-1]


def run(code, names):
    "What a cell prints, and shows as its last value."
    *body, last = ast.parse(code).body
    with redirect_stdout(io.StringIO()) as said:
        exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
            print("" if value is None else value)
        else:
            exec(compile(ast.Module([last], []), "<cell>", "exec"), names)
    return said.getvalue()


def told_right(said):
    return ": passed." in said and ": not yet" not in said


KERNELS: dict = {}  # one namespace for each tutorial: {path: (names, cells that ran)}


@pytest.mark.parametrize("path, exercise", EXERCISES, ids=[f"{p.stem}-{e.number}" for p, e in EXERCISES])
def test_the_stub_is_not_right_and_the_solution_is(path, exercise, tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIPERSONA_DEMO_DIR", str(tmp_path))  # at a reduced size
    monkeypatch.setenv("OMNIPERSONA_STEPS", "2")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    names, ran = KERNELS.setdefault(path, ({"__name__": "__main__", "display": print}, []))
    for source in needed(cells_of(path), exercise.at, exercise.stub + "\n" + exercise.solution):
        if source not in ran:
            run(source, names)
            ran.append(source)
    for code, right in ((exercise.stub, False), (exercise.solution, True)):
        said = run(code, dict(names))
        assert told_right(said) == right, f"{'solution' if right else 'stub'} of {exercise.number}:\n{said}"
        assert len(said.split()) >= 4, f"{exercise.number}: the check says too little: {said!r}"


def test_the_reader_of_exercises_reads(tmp_path):
    "That an exercise without a solution, or with a wrong one, would be noticed."
    md = "### Exercise 1.1 · Add\n*5 minutes · difficulty 1 of 3*\n\nAdd."
    stub = "# exercise 1.1\ndef add(a, b):\n    return ...\n\n\ncheck_add(add)"
    folded = (
        "<details><summary>Hint 1</summary>\n\nPlus.\n\n</details>\n<details><summary>Solution</summary>\n\n```python\n"
        "def add(a, b):\n    return a + b\n\n\ncheck_add(add)\n```\n\n</details>"
    )
    new = nbformat.v4
    nb = new.new_notebook(cells=[new.new_markdown_cell(md), new.new_code_cell(stub), new.new_markdown_cell(folded)])
    nbformat.write(nb, tmp_path / "x.ipynb")
    (e,) = exercises_of(tmp_path / "x.ipynb")
    assert (e.number, e.title, e.minutes, e.difficulty, e.hints) == ("1.1", "Add", 5, 1, 1) and "a + b" in e.solution
    nb.cells[2]["source"] = folded.replace("```python", "```")
    nbformat.write(nb, tmp_path / "y.ipynb")
    assert exercises_of(tmp_path / "y.ipynb")[0].solution == ""
    check = {"check_add": lambda f: print("add: passed." if f(1, 2) == 3 else "add: not yet.")}
    assert told_right(run(e.solution, dict(check))) and not told_right(run(e.stub, dict(check)))
    assert names_of("bb.presets |= {}")[0] == {"bb"} and lines_of("import os\n\nx = 1\n") == 1
