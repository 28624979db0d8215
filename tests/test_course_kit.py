"The instructor's kit: a class hands in its concepts, the good ones become a page, the bad ones a line on it."

import io
import json
import os
import re
import stat
import warnings
import zipfile

import kit
import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import random_backbone
from safetensors.torch import load_file, save_file

from omnipersona.arguments import OmniError
from omnipersona.concept.adapter import KEY
from omnipersona.concept.concept import Concept
from omnipersona.course import atlas, class_figures, class_folders, class_measures, class_page, slide_diagrams, slides
from omnipersona.course.class_folders import HandedIn, class_seeds, true_character
from omnipersona.course.own_concepts import own_character
from omnipersona.inside.svg_figures import contrast
from omnipersona.toyworld.world import ToyWorld
from omnipersona.widgets.forms import concept_zip
from omnipersona.widgets.latency import BROWSER_ARGS, find_browser

EVIL = "<img src=x onerror=alert(1)>"
WEIGHTS = "adapter_model.safetensors"
SHORT_SCENES = class_measures.SCENES[:1]


@pytest.fixture(scope="module")
def quick():
    "One scene and few steps: drawings are not looked at here."
    from dataclasses import replace

    from omnipersona.model.loading import load_backbone

    bb = load_backbone("tiny")
    bb.presets = {k: replace(v, num_timesteps=3) for k, v in bb.presets.items()}
    return bb


def hand_in(folder, bb, who, name="momo", facts=None):
    "A folder with 33 random rows, others for every student."
    g = torch.Generator().manual_seed(sum(map(ord, who)))
    start = Concept(bb, name).embeddings.detach()
    rows = start + 0.1 * start.std() * torch.randn(start.shape, generator=g)
    return Concept(bb, name, rows, facts=facts).save_pretrained(folder / who)


def spoil(folder, change):
    "Other rows in a folder that was handed in."
    rows = load_file(folder / WEIGHTS)[KEY]
    save_file({KEY: change(rows).contiguous()}, folder / WEIGHTS)


# ---- folders that must be refused ---------------------------------------------------------------------------------
def nan(tmp, bb):
    def change(rows):
        rows[3, 3] = float("nan")
        return rows

    spoil(hand_in(tmp, bb, "bad"), change)


def shape(tmp, bb):
    spoil(hand_in(tmp, bb, "bad"), lambda rows: rows[:20])


def narrow(tmp, bb):
    spoil(hand_in(tmp, bb, "bad"), lambda rows: rows[:, :8].clone())


def other_weights(tmp, bb):
    hand_in(tmp, random_backbone(7), "bad")


def huge(tmp, bb):
    with open(hand_in(tmp, bb, "bad") / WEIGHTS, "ab") as f:
        f.truncate(5_000_000_000)


def linked_folder(tmp, bb):
    hand_in(tmp.parent / "elsewhere", bb, "mine")
    (tmp / "bad").symlink_to(tmp.parent / "elsewhere" / "mine")


def linked_file(tmp, bb):
    secret = tmp.parent / "secret.txt"
    secret.write_text("the instructor's password")
    d = hand_in(tmp, bb, "bad")
    (d / "concept.json").unlink()
    (d / "concept.json").symlink_to(secret)


def linked_inside(tmp, bb):
    hand_in(tmp.parent / "elsewhere", bb, "mine")
    (tmp / "bad").mkdir()
    (tmp / "bad" / "mine").symlink_to(tmp.parent / "elsewhere" / "mine")


def pipe(tmp, bb):
    d = hand_in(tmp, bb, "bad")
    (d / WEIGHTS).unlink()
    os.mkfifo(d / WEIGHTS)


def code(tmp, bb):
    (tmp / "bad").mkdir()
    (tmp / "bad" / "model.pt").write_bytes(b"\x80\x04\x95\x1d\x00\x8c\x05posix\x94\x8c\x06system\x94")


def code_instead(tmp, bb):
    (hand_in(tmp, bb, "bad") / WEIGHTS).write_bytes(b"\x80\x04\x95\x1d\x00\x8c\x05posix\x94\x8c\x06system\x94")


def empty(tmp, bb):
    (tmp / "bad").mkdir()


def two_concepts(tmp, bb):
    hand_in(tmp / "bad", bb, "one")
    hand_in(tmp / "bad", bb, "two")


def bomb(tmp, bb):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("momo/concept.json", b"{" + b" " * 300_000_000)
        z.writestr(f"momo/{WEIGHTS}", b"\0" * 300_000_000)
    (tmp / "bad.zip").write_bytes(out.getvalue())


def climbing(tmp, bb):
    with zipfile.ZipFile(tmp / "bad.zip", "w") as z:
        z.writestr("../../climbed/concept.json", "{}")


def no_archive(tmp, bb):
    (tmp / "bad.zip").write_bytes(b"PK\x03\x04 and then nothing")


def markup(tmp, bb):
    d = hand_in(tmp, bb, "bad")
    about = json.loads((d / "concept.json").read_text())
    (d / "concept.json").write_text(json.dumps(about | {"name": EVIL}))


def facts(tmp, bb):
    d = hand_in(tmp, bb, "bad")
    about = json.loads((d / "concept.json").read_text())
    (d / "concept.json").write_text(json.dumps(about | {"facts": {"toy": [EVIL]}}))


def deep(tmp, bb):
    (hand_in(tmp, bb, "bad") / "concept.json").write_text("[" * 100_000)


def many_tokens(tmp, bb):
    Concept(bb, "momo", n_und=20, n_gen=20).save_pretrained(tmp / "bad")


BAD = {  # {what makes the folder: words of the reason}
    nan: "not finite",
    shape: "33 rows are needed",
    narrow: "wide",
    other_weights: "was made for",
    huge: "bytes",
    linked_folder: "symbolic link",
    linked_file: "symbolic link",
    linked_inside: "symbolic link",
    pipe: "neither a file nor a folder",
    code: "can run code",
    code_instead: "not a readable safetensors file",
    empty: "concept.json is missing",
    two_concepts: "2 concepts",
    bomb: "bytes",
    climbing: "climbs out",
    no_archive: "not a readable zip file",
    markup: "not a name for a concept",
    facts: "not a pair of texts",
    deep: "nested too deeply",
    many_tokens: "at most 32",
}


@pytest.mark.parametrize("make", BAD, ids=lambda f: f.__name__)
def test_a_bad_folder_is_refused_by_name_and_the_others_go_on(make, bb, tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    hand_in(folder, bb, "ada7"), hand_in(folder, bb, "zoe1")
    make(folder, bb)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handed, refused = class_folders.class_folders(folder, bb)
    assert [h.entry for h in handed] == ["ada7", "zoe1"]
    ((name, why),) = refused
    assert name in ("bad", "bad.zip") and BAD[make] in why, why
    assert str(tmp_path) not in why and "password" not in why and not (tmp_path / "climbed").exists()


def test_two_entries_of_one_name_are_both_refused(bb, tmp_path):
    for who in ("ada7", "Ada7", "bob3"):
        hand_in(tmp_path, bb, who)
    (tmp_path / "BOB3.zip").write_bytes(concept_zip(Concept(bb, "kiki")))
    hand_in(tmp_path, bb, "cyn9")
    handed, refused = class_folders.class_folders(tmp_path, bb)
    assert [h.entry for h in handed] == ["cyn9"]
    assert sorted(n for n, _ in refused) == ["Ada7", "BOB3.zip", "ada7", "bob3"]
    assert all("have this name" in why for _, why in refused)


def test_two_students_may_call_their_characters_the_same(bb, tmp_path):
    for who in ("ada7", "bob3"):
        hand_in(tmp_path, bb, who, "momo")
    handed, refused = class_folders.class_folders(tmp_path, bb)
    assert len(handed) == 2 and not refused and len({h.digest for h in handed}) == 2


def test_as_learning_platforms_hand_it_out(bb, tmp_path):
    "A folder a submission with the concept's folder or its zip file inside, names with spaces, hidden files, macOS."
    (tmp_path / "Ada L_123_file").mkdir()
    (tmp_path / "Ada L_123_file" / "momo.zip").write_bytes(concept_zip(Concept(bb, "momo")))
    hand_in(tmp_path / "Bob B_124_file", bb, "kiki", "kiki")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "cyn9.zip").write_bytes(concept_zip(Concept(bb, "pip")))
    handed, refused = class_folders.class_folders(tmp_path, bb)
    assert [(h.entry, h.concept.name) for h in handed] == [
        ("Ada L_123_file", "momo"), ("Bob B_124_file", "kiki"), ("cyn9", "pip")
    ] and not refused  # fmt: skip


@pytest.mark.parametrize("text", ["[]", '{"ada7": -1}', '{"ada7": 1.5}', '{"ada7": true}', '{"ada7": ""}', "{", "no"])
def test_a_mistake_in_the_instructors_own_file_is_an_error(text, tmp_path):
    (tmp_path / class_folders.SEEDS).write_text(text)
    with pytest.raises(OmniError, match="characters.json"):
        class_seeds(tmp_path)


def test_the_true_character_is_never_the_students_word(bb, tmp_path):
    mine = own_character("ada7")
    lie = HandedIn("bob3", Concept(bb, "momo", facts=mine.facts))
    assert true_character(lie, {}) is None and true_character(HandedIn("ada7", lie.concept), {}) == mine
    assert true_character(lie, {"bob3": "ada7"}) == mine and true_character(lie, {"bob3": 5}) == ToyWorld().character(5)
    assert true_character(HandedIn("  ", lie.concept), {}) is None


# ---- the page -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def a_class(quick, tmp_path_factory):
    "(folder, page) of a class of six with five bad entries, drawn in few steps."
    folder = tmp_path_factory.mktemp("class")
    character = own_character("ada7")
    hand_in(folder, quick, "ada7", "momo", character.facts)
    for who, name in (
        ("bob3", "kiki"),
        ("cyn9", "pip"),
        (EVIL.replace("/", ""), "tavi"),
        ("eli5", "juno"),
        ("a" * 200, "bibo"),
    ):
        hand_in(folder, quick, who, name, {"toy": EVIL})
    twin = hand_in(folder, quick, "fay4", "momo")
    (twin / WEIGHTS).write_bytes((folder / "bob3" / WEIGHTS).read_bytes())
    spoil(hand_in(folder, quick, "nan1"), lambda rows: rows * float("nan"))
    other_weights(folder, quick)
    (folder / "link").symlink_to(folder / "ada7")
    hand_in(folder, quick, "Dee1"), hand_in(folder, quick, "dee1")
    (folder / "characters.json").write_text('{"cyn9": 123}')
    said = []
    out = atlas.class_atlas(folder, folder / "class.html", quick, say=said.append)
    return folder, out, said


def test_the_page_shows_the_good_and_names_the_bad(a_class):
    folder, out, said = a_class
    text = out.read_text()
    assert text.count('class="card"') == 7 and "Not shown: 5" in text
    for name in ("nan1", "bad", "link", "Dee1", "dee1"):
        assert f"<code>{name}</code>" in text, name
    assert "handed in by bob3 and fay4" in text, "the same rows are named"
    board = text[text.index("Held-out questions</h2>") :]
    assert board.count("<tr data-k=") == 2 and "always <i>yes</i>" in board and "Not ranked" in board
    assert out.stat().st_size < 1_000_000 and str(folder) not in text
    assert "<img src=x" not in text and "http" not in text.replace("HTTP-EQUIV", "")
    assert any("7 concepts, 5 refused" in s for s in said) and any("s left" in s for s in said)


def test_numbers_of_the_page_are_those_of_the_model(a_class, quick):
    "The matrix: row asked, column shown. The held-out questions are not those that were learnt from."
    folder, out, _ = a_class
    handed, _ = class_folders.class_folders(folder, quick)
    seeds = class_seeds(folder)
    measured, failed = class_measures.measure_class(
        quick, handed, [true_character(h, seeds) for h in handed], out.with_suffix(".parts"), say=lambda t: None
    )
    assert not failed
    rows = [class_page.class_row(h, m) for h, m in measured]
    i, j = 2, 1
    asked = class_measures.chance_of_yes(quick, handed[i].concept, quick.encode_vit(measured[j][1].images))
    assert abs(np.mean(asked) - class_page.yes_matrix(rows)[i, j]) < 0.02
    cyn = next(m for h, m in measured if h.entry == "cyn9")
    again = class_measures.held_out_answers(
        quick, next(h for h in handed if h.entry == "cyn9").concept, ToyWorld().character(123)
    )
    assert cyn.held_out == again and [n for _, n in again.values()] == [6, 6, 18] and 0 <= cyn.score <= 1


def test_everybody_is_drawn_from_the_same_noise(a_class, quick):
    from omnipersona.concept.persona import Persona

    folder, out, _ = a_class
    handed, _ = class_folders.class_folders(folder, quick)
    h = next(h for h in handed if h.entry == "eli5")
    stored = class_measures.Measures(
        **{
            k: v
            for k, v in json.loads((out.with_suffix(".parts") / f"{h.digest}.json").read_text()).items()
            if k != "about"
        }
    )
    drawn = Persona(quick, h.concept).generate("a photo of <juno> at the beach", seed=0)
    gap = np.abs(np.asarray(drawn.image, int) - np.asarray(stored.images[0], int))
    assert gap.max() <= 2


def test_a_second_run_draws_nothing_and_a_late_folder_costs_one(a_class, quick, monkeypatch):
    folder, out, _ = a_class
    first, drawn = out.read_text(), []
    real = class_measures.draw_scenes
    monkeypatch.setattr(class_measures, "draw_scenes", lambda bb, c, *a: drawn.append(c.name) or real(bb, c, *a))
    atlas.class_atlas(folder, out, quick, say=lambda t: None)
    assert drawn == [] and out.read_text() == first
    hand_in(folder, quick, "late2", "suri")
    atlas.class_atlas(folder, out, quick, say=lambda t: None)
    assert drawn == ["suri"] and out.read_text().count('class="card"') == 8


def test_a_run_that_is_interrupted_keeps_what_is_done(quick, tmp_path, monkeypatch):
    for who in ("ada7", "bob3", "cyn9"):
        hand_in(tmp_path / "class", quick, who)
    real, drawn = class_measures.draw_scenes, []

    def tired(bb, concept, *a):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(1)
        return real(bb, concept, *a)

    monkeypatch.setattr(class_measures, "draw_scenes", tired)
    monkeypatch.setattr(atlas, "load_backbone", lambda name: quick)
    where = [str(tmp_path / "class"), str(tmp_path / "class.html")]
    assert atlas.main(where) == 130 and not (tmp_path / "class.html").exists()
    assert len(list((tmp_path / "class.parts").glob("*.json"))) == 2
    drawn.clear()
    assert atlas.main(where) == 0 and len(drawn) == 1
    for part in (tmp_path / "class.parts").glob("*.json"):
        part.write_text('{"pictures": ["x"]')  # a damaged memory is no memory
    drawn.clear()
    monkeypatch.setattr(class_measures, "draw_scenes", lambda *a: drawn.append(1) or real(*a))
    assert atlas.main(where) == 0 and len(drawn) == 3


def test_a_concept_that_fails_while_it_draws_is_named(quick, tmp_path, monkeypatch):
    for who, name in (("ada7", "momo"), ("bob3", "kiki")):
        hand_in(tmp_path / "class", quick, who, name)
    real = class_measures.draw_scenes

    def fails(bb, concept, *a):
        if concept.name == "kiki":
            raise OmniError("its drawing is not finite")
        return real(bb, concept, *a)

    monkeypatch.setattr(class_measures, "draw_scenes", fails)
    text = atlas.class_atlas(tmp_path / "class", tmp_path / "c.html", quick, say=lambda t: None).read_text()
    assert text.count('class="card"') == 1 and "<code>bob3</code>: its drawing is not finite" in text


@pytest.mark.parametrize(
    "wrong", [["nowhere"], ["."], ["class", "out.txt"], ["class", "c.html", "--scene", "at the dentist"]]
)
def test_mistakes_of_the_instructor_are_sentences(wrong, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(atlas, "load_backbone", lambda name: quick)
    if wrong[0] == "class":
        hand_in(tmp_path / "class", quick, "ada7")
    assert atlas.main(wrong) == 2
    assert "Traceback" not in (told := capsys.readouterr().err) and len(told.strip()) > 20


def test_a_class_where_everything_is_bad_still_gets_its_page(quick, tmp_path):
    (tmp_path / "class" / "ada7").mkdir(parents=True)
    text = atlas.class_atlas(tmp_path / "class", tmp_path / "c.html", quick, say=lambda t: None).read_text()
    assert "Not shown: 1" in text and 'class="card"' not in text


def test_the_page_in_a_browser(a_class):
    "Offline, light and dark, desk and phone: nothing asked of a network, no script of others, no sideways scrolling."
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright").sync_playwright
    if not find_browser():
        pytest.skip("needs a Chromium")
    _, out, _ = a_class
    shots = ROOT / "runs" / "browser"
    shots.mkdir(parents=True, exist_ok=True)
    with sync() as p:
        browser = p.chromium.launch(executable_path=find_browser(), args=BROWSER_ARGS)
        for scheme, width in (("light", 1440), ("dark", 1440), ("light", 390), ("dark", 390)):
            tab = browser.new_context(
                offline=True, color_scheme=scheme, viewport=dict(width=width, height=844)
            ).new_page()
            said = []
            tab.on("console", lambda m: said.append(m.text))
            tab.on("pageerror", lambda e: said.append(str(e)))
            tab.on("dialog", lambda d: (said.append("dialog"), d.dismiss()))
            tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else said.append(r.url))
            tab.goto(out.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page does not scroll sideways"
            colors = tab.evaluate(
                "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
            )
            ink, ground = ("#" + "".join(f"{int(x):02x}" for x in re.findall(r"\d+", c)[:3]) for c in colors)
            assert contrast(ink, ground) > 7
            card = tab.locator(".card").nth(1)
            card.focus()
            tab.keyboard.press("Enter")
            assert card.get_attribute("aria-pressed") == "true" and "own drawings" in tab.inner_text(".told")
            assert tab.locator(".map g.on").count() == 1 and tab.locator(".who tr.on").count() == 1
            tab.screenshot(path=shots / f"class-{scheme}-{width}.png", full_page=True)
            tab.keyboard.press("Enter")
            assert tab.inner_text(".told") == "" and tab.locator(".on").count() == 0
            assert tab.evaluate("[...document.images].every(i => i.naturalWidth > 0 && i.alt)")
            assert said == []
        browser.close()


def test_sixty_four_concepts_fit_on_one_page(quick):
    "Without a model: rows of made-up measures."
    r = np.random.default_rng(0)
    from PIL import Image

    rows = []
    for k in range(class_folders.MOST_STUDENTS):
        picture = Image.fromarray(r.integers(0, 256, (96, 96, 3), np.uint8))
        measures = class_measures.Measures([], [5, 5], False)
        kinds = ["name", *["und"] * 16, *["gen"] * 16]
        rows.append(class_page.Row("<momo>", f"student{k}", picture, r.normal(size=(33, 32)), kinds, measures, f"d{k}"))
    for row in rows:
        row.measures.yes = {other.digest: [0.5] for other in rows}
    text = class_page.class_page(rows, [(EVIL, EVIL)] * 300)
    assert len(text) < 3_000_000 and "And 100 more" in text and "<img src=x" not in text


def test_confusions_and_neighbours():
    yes = np.array([[0.9, 0.8], [0.1, 1.0]])
    assert class_figures.confusions(yes) == [(0, 1, 0.8)]
    own, others = class_figures.matrix_summary(yes)
    assert (round(own, 3), round(others, 3)) == (0.95, 0.45)
    apart = [np.eye(4)[[k, k]] + 1e-3 * np.arange(2)[:, None] for k in range(2)]
    near = class_figures.neighbours(apart, [["und", "gen"]] * 2)
    assert near["concept"][0] == 1 and near["kind"][0] == 0


# ---- slides -------------------------------------------------------------------------------------------------------
def test_slides_are_sharp_and_large(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "course_concept", lambda bb, name: (_ for _ in ()).throw(OmniError("not here")))
    said = []
    files = slides.write_slides(tmp_path, quick, say=said.append)
    assert len(files) == 14 and any("no drawings" in s for s in said)
    from PIL import Image

    for f in files:
        if f.suffix == ".png":
            assert Image.open(f).size == (3840, 2160)
        else:
            text = f.read_text()
            assert "<svg" in text and "<dc:date>" not in text and "http://localhost" not in text


@pytest.mark.parametrize("name", list("1234567"))
def test_letters_are_read_from_the_last_row(quick, name):
    "20 points on a slide of 13.3 inches, apart from the line with the source; nothing leaves the slide."
    made = {k[0]: f for k, f in slides.all_slides(quick).items()}[name]()
    made.canvas.draw()
    edge = made.bbox
    for t in made.findobj(lambda a: hasattr(a, "get_fontsize") and a.get_visible() and a.get_text().strip()):
        small = t.get_text().startswith("tiny backbone")
        assert t.get_fontsize() >= (14 if small else slide_diagrams.SMALL_TEXT), t.get_text()
        at = t.get_window_extent()
        assert at.x0 >= 0 and at.x1 <= edge.x1 and at.y0 >= 0 and at.y1 <= edge.y1, t.get_text()


def test_slides_say_what_the_shipped_reports_say():
    from omnipersona.bench.metrics import measured

    texts = [t.get_text() for t in slides.tokens_slide().findobj(lambda a: hasattr(a, "get_text"))]
    report = measured("main")
    want = f"{report['rows']['identity of drawings']['mean']:.2f}".removeprefix("0")
    assert want in texts and any(report["backbone"] in t for t in texts)


def test_the_mask_on_the_slide_is_the_models_own():
    from matplotlib.patches import Rectangle

    drawn = [p for p in slide_diagrams.mask_slide().axes[0].patches if isinstance(p, Rectangle)]
    cells = [p for p in drawn if p.get_width() == p.get_height()]
    sizes = [n for _, _, n, _ in slide_diagrams.PARTS_OF_MASK] + [3]
    words = sizes[0], sizes[2], sizes[4]
    before = {0: 0, 2: sizes[0] + sizes[1], 4: sum(sizes[:3])}
    expected = sum(n * (n + 1) // 2 for n in words) + sum(n * before[k] for n, k in zip(words, (0, 2, 4)))
    expected += sizes[1] * (sizes[0] + sizes[1]) + sizes[3] * sum(sizes[:4])
    assert len(cells) == expected


# ---- the guide, and grading a class -------------------------------------------------------------------------------
GUIDE = json.loads((ROOT / "nbs" / "instructor.ipynb").read_text(encoding="utf-8"))
PROSE = "\n".join("".join(c["source"]) for c in GUIDE["cells"] if c["cell_type"] == "markdown")


def test_what_the_guide_quotes_is_what_students_read():
    "Mistakes of its tables are words of the package's checks, or of the zoo."
    said = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "omnipersona" / "course").glob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", said) + (ROOT / "tests" / "zoo.py").read_text(encoding="utf-8")
    quoted = [q for q in re.findall(r"^\| `([^`]+)`", PROSE, re.M) if not q.startswith("dist/")]
    assert len(quoted) > 15
    missing = [q for q in quoted if q.replace("'your-id-here'", "{EXAMPLE_ID!r}").split("{")[0] not in said]
    assert not missing


def test_the_guides_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z-]+)", PROSE)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for flag in ("OMNIPERSONA_SALT", "OMNIPERSONA_STUDENT"):
        assert flag in PROSE and any(flag in p.read_text() for p in (ROOT / "omnipersona" / "course").glob("*.py"))
    for word in ("Who can take it", "Grading", "GPU", "without GPUs", "Licence", "Ask people first"):
        assert word in PROSE, word


def test_the_guides_timetable_has_every_tutorial():
    told = "\n".join("".join(c["source"]) for c in GUIDE["cells"])
    for nb in (ROOT / "nbs" / "tutorials").glob("[01]*.ipynb"):
        assert f'"{nb.stem}"' in told, nb.stem


FAKE = """
import json, os, sys, time
student = os.environ["OMNIPERSONA_STUDENT"]
if student == "slow": time.sleep(60)
if student == "broken": sys.exit("the notebook cannot be read")
print(json.dumps({"q1": 1.0, "q2": 0.5}, indent=1)); print("q1: fine")
"""


def test_grading_a_class_goes_on_and_names_what_fails(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "course.py").write_text(FAKE)
    monkeypatch.setattr(kit, "ROOT", tmp_path)
    monkeypatch.setattr(kit, "LIMIT", 3)
    handed_in, out = tmp_path / "handed in", tmp_path / "grades.csv"
    handed_in.mkdir()
    for who in ("ada7.ipynb", "broken.ipynb", "slow.zip"):
        (handed_in / who).write_text("{}")
    kit.grade("venv", "a.zip", handed_in, out, 2)
    lines = out.read_text().splitlines()
    assert lines[1].startswith("ada7,0.750,") and "q2 50%" in lines[1]
    assert "cannot be read" in lines[2] and "not finished after 3 seconds" in lines[3]
    (handed_in / "bob3.ipynb").write_text("{}")
    (handed_in / "cyn9.ipynb").write_text("{}")
    (handed_in / "cyn9").mkdir()
    kit.grade("venv", "a.zip", handed_in, out, 2)
    lines = out.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["student", "ada7", "broken", "slow", "bob3", "cyn9"]
    assert lines[4].startswith("bob3,0.750,")
    assert lines[5].startswith("cyn9,0.000,") and "handed in twice (cyn9, cyn9.ipynb)" in lines[5]


def test_no_solution_in_what_everybody_gets(tmp_path):
    "The guide, the slides' texts and the atlas tell no line of a solution."
    import course

    hidden = {line for nb in course.masters() for line in course.solution_lines(nb)}
    shown = "\n".join("".join(c["source"]) + json.dumps(c.get("outputs", [])) for c in GUIDE["cells"])
    assert hidden and not [line for line in hidden if line in shown]


def test_made_files_are_in_folders_of_their_own():
    "What `make course` made, where it was made: nothing of a solution outside solution/ and autograder/."
    import course

    made = ROOT / "dist" / "course"
    if not (made / "guide").is_dir():
        pytest.skip("make course has not been run")
    assert {p.name for p in made.iterdir()} <= {"student", "autograder", "solution", "guide", "slides", "atlas"}
    hidden = {line for nb in course.masters() for line in course.solution_lines(nb)}
    for p in [p for k in ("student", "guide", "atlas") for p in (made / k).rglob("*") if p.is_file()]:
        if p.suffix in (".ipynb", ".html", ".json", ".txt"):
            text = p.read_text(encoding="utf-8")
            assert not [line for line in hidden if json.dumps(line)[1:-1] in text or line in text], p
        assert not stat.S_ISLNK(p.lstat().st_mode)
