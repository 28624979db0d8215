"""The BAGEL tutorial without Colab and without a GPU: on a small random checkpoint in BAGEL's layout, cut off at every
cell, and without a folder of photographs.

(`make test` also runs it on the tiny backbone, in a kernel.)"""

import re
import shutil
import warnings

import nbformat
import pytest
import torch
from conftest import ROOT
from helpers import same
from PIL import Image

from omnipersona.arguments import OmniError
from omnipersona.concept import learn as learn_module
from omnipersona.concept.concept import Concept
from omnipersona.concept.kit_folder import KitFolder
from omnipersona.concept.photo_kit import PhotoKit
from omnipersona.concept.session import card_settings, choose, load_kept, read_photographs, work_folder
from omnipersona.model import loading
from omnipersona.model.bagel import random_checkpoint

NB = ROOT / "nbs" / "tutorials" / "09_bagel_on_colab.ipynb"
CODE = [c for c in nbformat.read(NB, 4).cells if c["cell_type"] == "code"]
PROSE = "\n".join(c["source"] for c in nbformat.read(NB, 4).cells if c["cell_type"] == "markdown")
STEPS = 6


def run(cells, names=None, said=None):
    "What a fresh kernel knows after these cells. The list `said` gets their warnings."
    names = {"__name__": "__main__"} if names is None else names
    for cell in cells:
        source = re.sub(r"^(\s*)!.*$", r"\1pass", cell["source"], flags=re.M)  # the setup cell's shell commands
        with warnings.catch_warnings(record=True) as warned:  # of drawings by random weights, none passes its check
            warnings.simplefilter("always")
            try:
                exec(compile(source, cell["id"], "exec"), names)
            finally:
                (said if said is not None else []).extend(str(w.message) for w in warned)
    return names


def cell_with(text):
    "The number of the cell that holds a text."
    return next(i for i, c in enumerate(CODE) if text in c["source"])


@pytest.fixture
def colab(tmp_path, monkeypatch):
    "A small random BAGEL, five photographs, and few steps."
    monkeypatch.setenv("OMNIPERSONA_BACKBONE", str(random_checkpoint(tmp_path / "bagel-small")))
    monkeypatch.setenv("OMNIPERSONA_QUANT", "nf4")
    monkeypatch.setenv("OMNIPERSONA_SIZES", "32,64")
    monkeypatch.setenv("OMNIPERSONA_STEPS", str(STEPS))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(5):
        Image.radial_gradient("L").resize((96, 64)).rotate(40 * i).convert("RGB").save(photos / f"{i}.png")
    monkeypatch.setenv("OMNIPERSONA_PHOTOS", str(photos))
    monkeypatch.setenv("OMNIPERSONA_DEMO_DIR", str(tmp_path / "drive"))
    checked = PhotoKit.data
    monkeypatch.setattr(PhotoKit, "data", lambda kit: checked(kit, unchecked=True))
    return tmp_path


def test_a_disconnect_at_any_cell_loses_nothing(colab, monkeypatch, capsys):
    """Fault 12. The notebook is cut off after each cell and begun again in a fresh kernel, once also inside the
    learning. It ends with the same concept as a run in one go, and can be run again after its end."""
    monkeypatch.setenv("OMNIPERSONA_DEMO_DIR", str(colab / "one go"))
    whole = run(CODE)
    monkeypatch.setenv("OMNIPERSONA_DEMO_DIR", str(colab / "drive"))
    learning = cell_with("learn(small")
    for n in range(2, learning + 1):
        run(CODE[:n])
    step = learn_module.ProgressBar.__call__

    def gone(bar, learner):
        step(bar, learner)
        if learner.global_step == STEPS // 2:
            raise ConnectionError("the runtime is gone")

    with monkeypatch.context() as m, pytest.raises(ConnectionError):
        m.setattr(learn_module.ProgressBar, "__call__", gone)
        run(CODE[: learning + 1])
    for n in (learning + 1, len(CODE), len(CODE)):
        again = run(CODE[:n])
    assert torch.equal(again["concept"].embeddings, whole["concept"].embeddings)
    assert again["concept"].history == whole["concept"].history and len(again["concept"].history) == STEPS
    for key in ("drawn", "edited"):
        assert again[key].image.tobytes() == whole[key].image.tobytes()
    said = capsys.readouterr().out
    assert said.count("the quantised weights are kept in") == 2  # once for each folder: later sessions read them
    assert f"{STEPS} of {STEPS} steps are done" in said and "as asked for" in said
    rows = {k for losses in again["concept"].history for k in losses}
    assert {"recognise", "vqa", "facts", "draw", "edit"} <= rows  # all three tasks of the paper
    assert_held_out(again)
    assert_facts_agree(again, said)
    kept = Concept.from_pretrained(colab / "drive" / "omnipersona_work" / "rex" / "concept", again["bb"])
    assert torch.equal(kept.embeddings, whole["concept"].embeddings)


class Drive:
    "A Drive that disappears. Either nothing can be written there any more, or it comes back empty at once."

    def __init__(self, path, empty=False):
        self.path, self.away, self.empty = path, path.with_name("away"), empty

    def disappears(self):
        if self.empty:
            shutil.rmtree(self.path)
        else:
            self.path.rename(self.away)
            self.path.write_text("no folder can be made here")

    def comes_back(self):
        if not self.empty:
            self.path.unlink()
            self.away.rename(self.path)


@pytest.mark.parametrize("empty", [False, True])
def test_a_drive_that_disappears_inside_the_learning(colab, monkeypatch, empty):
    "The run goes on and says what is not saved. When the Drive is back, the cells that warned are run once more."
    learning, drawing, keeping = map(cell_with, ("learn(small", "keep_pictures(WORK", "save_pretrained(WORK"))
    drive, said, step = Drive(colab / "drive", empty), [], learn_module.ProgressBar.__call__

    def gone(bar, learner):
        step(bar, learner)
        if learner.global_step == STEPS // 2:
            drive.disappears()

    names = run(CODE[:learning])
    with monkeypatch.context() as m:
        m.setattr(learn_module.ProgressBar, "__call__", gone)
        run(CODE[learning : learning + 1], names, said)
    learnt = names["concept"].embeddings.clone()
    assert len(names["concept"].history) == STEPS and ("not_saved" in names["concept"].summary) != empty
    assert any(("made again" if empty else f"step {STEPS} could not be written") in text for text in said)
    said.clear()
    run(CODE[learning + 1 : keeping], names, said)
    assert any("drawn.png is not saved" in text for text in said) != empty and names["drawn"].image.size
    if not empty:
        with pytest.raises(OmniError, match="concept: cannot be written"):
            run(CODE[keeping : keeping + 1], names)
    drive.comes_back()
    for n in (drawing, keeping):
        run(CODE[n : n + 1], names)
    work = colab / "drive" / "omnipersona_work" / "rex"
    assert torch.equal(Concept.from_pretrained(work / "concept", names["bb"]).embeddings, learnt)
    assert {"drawn.png", "edited.png"} <= {p.name for p in work.iterdir()}


def test_a_drive_that_disappears_inside_the_kit(colab, monkeypatch):
    "What the kit has made stays in memory. A cell that begins without the Drive says so; with it, all is saved."
    making, learning = map(cell_with, ("PhotoKit(middle", "learn(small"))
    drive, said, add = Drive(colab / "drive"), [], KitFolder.add
    names = run(CODE[:making])

    def gone(folder, *items):
        if len(folder.items) > 4 and not drive.away.exists():
            drive.disappears()
        add(folder, *items)

    with monkeypatch.context() as m:
        m.setattr(KitFolder, "add", gone)
        run(CODE[making : making + 1], names, said)
    made = dict(names["kit"].items)
    assert any("kept in memory and saved with the next item" in text for text in said) and len(made) > 10
    with pytest.raises(OmniError, match="cannot be written"):
        run(CODE[making + 1 : learning + 1], names)
    drive.comes_back()
    run(CODE[learning : learning + 1], names)
    assert len(names["concept"].history) == STEPS
    again = run(CODE[: making + 1])["kit"]  # a fresh kernel
    assert again.items.keys() == made.keys()
    assert all(item.picture is None or same(item.picture, made[key].picture) for key, item in again.items.items())


def assert_held_out(names):
    "What is asked about was not learnt from."
    learnt = {im.tobytes() for im in [*names["data"].images, *names["data"].look_alikes, *names["data"].others]}
    assert names["held_out"] and names["strangers"]
    assert not learnt & {im.tobytes() for im in [*names["held_out"], *names["strangers"]]}
    assert names["looked_at"] is names["held_out"][0]


def assert_facts_agree(names, said):
    "Fault 13: what is printed as a fact is what was learnt and what is asked about."
    assert names["FACTS"] == names["data"].facts == names["concept"].facts
    for key, fact in names["FACTS"].items():
        assert f"learnt as a fact: {key} is {fact}" in said and re.search(rf"{key} +learnt: {fact}", said)


def test_nothing_large_is_fetched_for_a_cartoon(tmp_path, monkeypatch, capsys):
    "Fault 13: where no folder is named, it says so, and a GPU changes nothing."
    for key in ("OMNIPERSONA_PHOTOS", "OMNIPERSONA_BACKBONE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("OMNIPERSONA_DEMO_DIR", str(tmp_path))
    monkeypatch.setenv("OMNIPERSONA_STEPS", "2")
    monkeypatch.setattr(loading, "hub_folder", lambda *a, **k: pytest.fail("something is downloaded"))
    with monkeypatch.context() as m:
        m.setattr(torch.cuda, "is_available", lambda: True)
        m.setattr(torch.cuda, "get_device_name", lambda *a: "Tesla T4")
        assert choose(None).name == "tiny" and choose(str(tmp_path)).name == "bagel-7b-mot"
    names = run(CODE)
    said = capsys.readouterr().out
    assert "no folder of photographs is named" in said and "nothing is downloaded" in said
    assert names["bb"].name == "tiny" and names["data"].facts == names["character"].facts == names["concept"].facts
    for key, fact in names["character"].facts.items():
        assert f"learnt as a fact: {key} is {fact}" in said
    assert_held_out(names)


def test_a_card_sets_the_sizes():
    "Each card's weights and sizes fit with 1 GB to spare, and the table on top of the notebook says the same."
    rows = {
        key: re.search(rf"\| {key} \|(.*)\|(.*)\|(.*)\|", PROSE).groups()
        for key in ("weights", "pictures: learn, draw")
    }
    for i, name in enumerate(("Tesla T4", "NVIDIA L4", "A100")):
        found, bits, sizes = card_settings(name), rows["weights"][i], rows["pictures: learn, draw"][i]
        assert found.learning.needs["learning"] <= found.learning.memory - 1
        assert all(gb <= found.drawing.memory - 1 for k, gb in found.drawing.needs.items() if k != "learning")
        assert ("4 bits" in bits) == (found.quant == "nf4"), (name, bits, found.quant)
        assert f"{found.learn:,}, {found.draw:,} pixels" in sizes, (name, sizes, found)
        if "T4" in name:
            assert (found.quant, found.dtype) == ("nf4", "float16") and found.learn >= 256 and found.draw >= 512


def test_what_cannot_be_kept_is_said(tmp_path, monkeypatch):
    "A full Drive, a damaged folder: the session goes on."
    official, drive = random_checkpoint(tmp_path / "bagel-small"), tmp_path / "drive"
    drive.mkdir()
    usage = shutil.disk_usage(drive)
    with monkeypatch.context() as m:
        m.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.warns(UserWarning, match="not kept"):
            first = load_kept(official, drive, "nf4", 64)
    assert not (drive / "bagel-small-nf4" / "backbone.json").exists()
    assert load_kept(official, drive, "nf4", 64).fingerprint == first.fingerprint
    (drive / "bagel-small-nf4" / "model.safetensors").write_bytes(b"cut off")
    with pytest.warns(UserWarning, match="quantised again"):
        assert load_kept(official, drive, "nf4", 64).fingerprint == first.fingerprint


def test_the_drive_is_connected_and_a_refusal_is_said(tmp_path, monkeypatch):
    import sys
    from types import SimpleNamespace

    from omnipersona.concept import session

    monkeypatch.delenv("OMNIPERSONA_DEMO_DIR", raising=False)
    calls = []
    drive = SimpleNamespace(mount=calls.append)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    monkeypatch.setattr(session, "Path", lambda *a: tmp_path.joinpath(*(str(x).lstrip("/") for x in a)))
    assert work_folder("mine") == tmp_path / "content" / "drive" / "MyDrive" / "mine" and calls == ["/content/drive"]
    drive.mount = lambda path: (_ for _ in ()).throw(ValueError("refused"))
    with pytest.warns(UserWarning, match="deletes the work"):
        assert work_folder("mine") == tmp_path / "content" / "mine"


@pytest.mark.parametrize("n, n_held", [(1, 0), (3, 1), (9, 2)])
def test_photographs_are_held_out(tmp_path, n, n_held):
    for i in range(n):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    kept, held = read_photographs(tmp_path)
    assert len(kept.images) == n - n_held and len(held) == n_held
