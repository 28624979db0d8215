"A benchmark folder: what is written is read back, and everything that is missing or broken is named."

import json
import shutil

import pytest

from omnipersona.basics import OmniError
from omnipersona.bench import unifybench_writer
from omnipersona.bench.exact import two_drawn
from omnipersona.bench.items import BENCH_TASKS, read_items, write_items
from omnipersona.bench.toy_omnipbench import FIRST_CHARACTER, bench_characters, write_toy_omnipbench
from omnipersona.bench.unifybench import read_unifybench, unify_items
from omnipersona.bench.unifybench_writer import photo_source, write_unifybench
from omnipersona.toyworld.scenes import hidden_things, reveals


@pytest.fixture(scope="module")
def toy_bench(tmp_path_factory):
    return write_toy_omnipbench(tmp_path_factory.mktemp("bench") / "toy", 2, easy=3)


@pytest.fixture
def folder(toy_bench, tmp_path):
    "A copy that a test may damage."
    return shutil.copytree(toy_bench, tmp_path / "bench")


def test_the_folder_is_whole_and_makes_items_of_every_task(toy_bench, tmp_path):
    bench = read_unifybench(toy_bench)
    items = unify_items(bench)
    assert bench.missing == () and {i.task for i in items} == set(BENCH_TASKS)
    assert read_items(write_items(tmp_path / "items.jsonl", items)) == items
    files = [f for i in items for f in (*i.images, *i.meta.get("references", ()))]
    assert files and all((toy_bench / f).is_file() for f in files)
    drawings = [i for i in items if i.task == "parg"]
    assert len(drawings) == 2 * 5 * 4 and len({i.condition for i in drawings}) == 10
    for i in items:
        if i.choices:
            assert i.answer in "ABCD" and len(set(i.choices)) == len(i.choices) >= 3


def test_the_same_folder_each_time(toy_bench, tmp_path):
    again = write_toy_omnipbench(tmp_path / "again", 2, easy=3)
    files = sorted(p.relative_to(toy_bench) for p in toy_bench.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((toy_bench / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_what_is_learnt_from_gives_no_fact_away(world):
    for i, char in enumerate(bench_characters(20).values()):
        assert char.seed >= FIRST_CHARACTER
        assert not any(reveals(p.truth, hidden_things(char)) for p in world.album(char, 10, i))


MISSING = [
    "template.json",
    "black_512x512.png",
    "concept/train/anna/0.png",
    "concept/train/anna/info.json",
    "concept/train/anna/conversations.json",
    "concept/train/anna/positive_recognitions.json",
    "concept/train/anna/random_recognitions.json",
    "concept/train/anna/negative_example/score.json",
    "concept/test/anna/text_only.json",
    "concept/test/anna/vqa.json",
    "concept/test/anna/t2i_conditions.json",
    "test_data/anna.json",
]


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(OmniError, match=f"{name}: missing"):
        read_unifybench(folder)
    assert any(f"{name}: missing" in m for m in read_unifybench(folder, strict=False).missing)


@pytest.mark.parametrize("name", ["random_images", "concept/train/anna/cropped", "concept/test/anna"])
def test_a_missing_folder_is_named(folder, name):
    shutil.rmtree(folder / name)
    with pytest.raises(OmniError, match=f"{name}/: no pictures"):
        read_unifybench(folder)


def test_broken_files_are_named_all_at_once(folder):
    (folder / "concept/train/anna/1.png").write_bytes(b"\x89PNG no picture")
    (folder / "test_data/anna.json").write_text("[{")
    (folder / "concept/test/ben/vqa.json").write_text('"text"')
    with pytest.raises(OmniError) as e:
        read_unifybench(folder)
    assert all(part in str(e.value) for part in ("anna/1.png: broken", "test_data/anna.json: ", "ben/vqa.json: "))
    bench = read_unifybench(folder, strict=False)
    assert len(bench.missing) == 3 and len(bench.concepts["anna"].train) == 9 and unify_items(bench)


def test_a_concept_that_cannot_be_used_is_left_out_and_the_rest_goes_on(folder):
    shutil.rmtree(folder / "concept/train/anna")
    bench = read_unifybench(folder, strict=False)
    assert list(bench.concepts) == ["ben"] and any("anna: left out" in m for m in bench.missing)
    (folder / "concepts_list.json").unlink()
    with pytest.raises(OmniError, match="concepts_list.json: missing"):
        read_unifybench(folder, strict=False)


def test_names_that_climb_out_are_not_opened(folder):
    files = json.loads((folder / "concept/train/train_images.json").read_text())
    files["anna"].append("../../../../secret.png")
    (folder / "concept/train/train_images.json").write_text(json.dumps(files))
    with pytest.raises(OmniError, match="climbs out of the folder"):
        read_unifybench(folder)


def test_entries_keyed_by_picture_are_read(folder):
    "The other form of multiple choice: an object whose keys are pictures."
    (folder / "concept/test/anna/vqa.json").write_text(
        json.dumps({"test/2.png": dict(question="which colour ?", options=["red", "blue"], answer="red")})
    )
    found = [i for i in unify_items(read_unifybench(folder)) if i.id == "anna-vqa-0"]
    assert found[0].images == ("concept/test/anna/2.png",) and found[0].choices == ("red", "blue")


def test_a_bad_question_is_named(folder):
    (folder / "test_data/anna.json").write_text('[{"conversations": []}]')
    with pytest.raises(OmniError, match="test_data/anna.json, entry 0"):
        unify_items(read_unifybench(folder))


def test_photographs_make_a_benchmark(shared, tmp_path):
    albums = {p.name: sorted(p.glob("*.jpg")) for p in (shared / "photos").iterdir() if p.is_dir()}
    facts = [("where does it sleep ?", "It sleeps in the kitchen.")]
    sources = [
        photo_source(name, files, name.rstrip("0123456789"), facts, albums["cat2" if name != "cat2" else "dog6"][:2])
        for name, files in sorted(albums.items())
    ]
    bench = read_unifybench(write_unifybench(tmp_path / "mine", sources, albums["teapot"][:2]))
    assert list(bench.concepts) == sorted(albums) and bench.missing == ()
    items = unify_items(bench, copies=1)
    assert sum(i.task == "rec" and i.answer == "yes" for i in items) == sum(
        max(1, len(f) // 3) for f in albums.values()
    )


def test_all_or_nothing(tmp_path, world, monkeypatch):
    photos = [world.photo(seed=i).image for i in range(4)]
    source = photo_source("maeve", photos, "dog", [], photos[:1])

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(unifybench_writer, "_write_test", full)
        with pytest.raises(OmniError, match="No space"):
            write_unifybench(tmp_path / "mine", [source], photos)
    assert not list(tmp_path.iterdir())
    for sources, easy, why in (([source, source], photos, "each name once"), ([source], [], "easy negative")):
        with pytest.raises(OmniError, match=why):
            write_unifybench(tmp_path / "mine", sources, easy)
    write_unifybench(tmp_path / "mine", [source], photos)
    with pytest.raises(OmniError, match="something in this folder"):
        write_unifybench(tmp_path / "mine", [source], photos)
    with pytest.raises(OmniError, match="three are needed"):
        photo_source("maeve", photos[:2], "dog", [])


def test_two_of_one_kind_are_never_exchanged():
    seen = dict(species="dog", color="blue", thing="dog", thing_color="red")
    assert two_drawn(seen, [("dog", "red"), ("dog", "blue")]) == dict(
        first=True, second=True, both=True, exchanged=False
    )
