"""The photo kit: a folder, a class word and some facts become data with all three tasks.

A random backbone answers nonsense, so its checks drop nearly everything: what runs, what is kept and what is said is
tested here. How good the data of the tiny backbone are is tested at the end, and measured in nbs/bench/612."""

import copy
import errno
import json
import shutil
import sys
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import QUICK, SHORT, unchanged, weights
from PIL import Image

from omnipersona.arguments import OmniError
from omnipersona.concept import kit_folder
from omnipersona.concept.concept import Concept
from omnipersona.concept.kit_checks import changed_region, pasted, rest_error
from omnipersona.concept.kit_folder import KIT_FILE, KitFolder, KitItem
from omnipersona.concept.kit_source import KitConfig
from omnipersona.concept.kit_wordings import PLAIN, TOY, as_class_word, clean_answer, wording_for
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona
from omnipersona.concept.photo_kit import PhotoKit
from omnipersona.data import ConceptData
from omnipersona.folders import MOST_MEMORY, read_folder, side_for
from omnipersona.model.bagel import SMALL, random_checkpoint
from omnipersona.model.loading import load_backbone
from omnipersona.model.sizes import at_size
from omnipersona.pictures import load_image

TASKS = {"recognise", "vqa", "facts", "draw", "edit"}
FEW = KitConfig(edited=1, hard=1, easy=1, tries=1, shown=1)
FACTS = dict(toy="a red kite")


def quick(bb):
    "The same backbone, with fewer steps of drawing."
    own = copy.copy(bb)
    own.presets = dict(draw=QUICK, edit=QUICK)
    return own


@pytest.fixture(scope="module")
def fast(bb):
    return quick(bb)


def made(i, size=(160, 120)):
    "A generated photograph, each another one."
    noise = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def folder_of(path, *names):
    for i, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        made(i).save(path / name)
    return path


def said_by(run):
    "(result, what its warnings say)."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run()
    return result, [str(w.message) for w in caught]


def all_of(kit):
    "The data with what failed its check; a random model may have said nothing readable, so one question is added."
    data, _ = said_by(lambda: kit.data(unchecked=True))
    data.qa = data.qa or [(0, "what color is <sks> ?", "red")]
    return data


# ---- a folder alone ------------------------------------------------------------------------------------------------
def test_a_folder_alone_says_which_tasks_vanish(bb, tmp_path):
    "Two of three tasks, and real negatives, are missing from a folder of photographs: learning says so."
    folder_of(tmp_path, "a.png", "b.png")
    _, said = said_by(lambda: learn(bb, tmp_path, "rex", recipe=replace(SHORT, steps=1), progress=False))
    assert len(said) == 1
    for word in ("no questions", "no edits", "cartoon", "PhotoKit"):
        assert word in said[0], said


def test_the_kit_of_a_folder_has_every_task(fast, tmp_path):
    folder_of(tmp_path / "photos", "a.png", "b.png", "c.png")
    before = weights(fast.model)
    kit = PhotoKit(fast, tmp_path / "photos", "dog", FACTS, output_dir=tmp_path / "kit", config=FEW).make(False)
    data = all_of(kit)
    assert not data.lacking and len(data.images) >= 3 and data.facts == FACTS
    assert data.origin["config"]["seed"] == 0 and data.origin["backbone"] == fast.fingerprint
    concept = learn(fast, data, "rex", recipe=SHORT, progress=False)
    assert set(concept.history[-1]) == TASKS | {"step"} and torch.isfinite(concept.embeddings).all()
    assert unchanged(fast.model, before)


@pytest.mark.parametrize("n", [1, 3])
def test_few_photographs(fast, tmp_path, n):
    folder_of(tmp_path, *(f"{i}.png" for i in range(n)))
    data = all_of(PhotoKit(fast, tmp_path, "dog", FACTS, config=FEW).make(False))
    assert len(data.edits) == 2 and data.look_alikes and data.others


def test_what_fails_its_check_is_left_out_and_said(fast):
    "A random backbone draws no dogs: without `unchecked`, tasks are missing, and a warning and the report name them."
    kit = PhotoKit(fast, [made(0)], "dog", FACTS, config=FEW).make(False)
    data, said = said_by(kit.data)
    left = [i for i in kit.items.values() if not i.keep]
    assert left and all(i.why for i in left) and all(i.why in kit.report() for i in left)
    assert bool(data.lacking) == bool(said) and (not said or "report()" in said[0])


# ---- what lies in the folder ---------------------------------------------------------------------------------------
SIDECARS = {
    "a.txt": "my dog on the beach",
    "a.caption": "my dog on the beach",
    "metadata.jsonl": json.dumps(dict(file_name="a.png", text="my dog on the beach")),
    "captions.json": json.dumps({"a.png": "my dog on the beach"}),
}


@pytest.mark.parametrize("name", SIDECARS)
def test_captions_beside_photographs_are_used(fast, tmp_path, name):
    folder_of(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_text(SIDECARS[name])
    kit, _ = said_by(lambda: PhotoKit(fast, tmp_path, "dog", config=replace(FEW, edited=0, hard=0, easy=0)).make(False))
    caption = kit.items["caption-000"]
    assert caption.text == "<sks> on the beach" and caption.by == "file" and kit.items["caption-001"].by == "backbone"


def test_others_in_the_folder_are_used_and_what_is_not_read_is_named(fast, tmp_path):
    folder_of(tmp_path, "a.png", "negatives/cat.png", "look_alikes/dog.png", "day2/b.png")
    config = replace(FEW, edited=0, hard=0, easy=0)
    kit, said = said_by(lambda: PhotoKit(fast, tmp_path, "dog", config=config).make(False))
    data, _ = said_by(kit.data)
    assert len(data.others) == len(data.look_alikes) == 1 and len(data.images) == 1
    assert "day2/" in said[0] and "day2/" in kit.report()
    both, _ = said_by(lambda: PhotoKit(fast, tmp_path, "dog", config=config, subfolders=True))
    assert len(both.photos) == 2


# ---- many and large ------------------------------------------------------------------------------------------------
def test_memory_of_a_large_folder_is_bounded(tmp_path, monkeypatch):
    "Pictures of a folder together keep within a limit, however many there are."
    assert 400 * 4 * side_for(400) ** 2 <= MOST_MEMORY and side_for(400) >= 1024 and side_for(10) == 2048
    folder_of(tmp_path, *(f"{i}.png" for i in range(20)))
    monkeypatch.setattr("omnipersona.folders.MOST_MEMORY", 20 * 4 * 64**2)
    assert sum(3 * im.width * im.height for im in read_folder(tmp_path).images) <= 20 * 3 * 64**2


def test_more_photographs_than_are_used(fast, tmp_path):
    folder_of(tmp_path, *(f"{i}.png" for i in range(9)))
    (tmp_path / "captions.json").write_text(json.dumps({"1.png": "a photo of <sks>, asleep"}))
    kit, said = said_by(lambda: PhotoKit(fast, tmp_path, "dog", config=replace(FEW, photos=3)))
    assert (
        len(kit.photos) == 3
        and "more pictures than the 3" in said[0]
        and kit.source.report.left_out.keys() >= {"1.png"}
    )
    few = PhotoKit(fast, [made(i) for i in range(5)], "dog", config=replace(FEW, photos=2))
    assert len(few.photos) == 2 and "2 of 5 photographs are used" in few.report()


# ---- class words and answers ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "thing", ["My dog Rex loves the beach.", "a dog that sleeps on the sofa", "<rex>", "", None, 3]
)
def test_a_class_word_is_no_sentence(fast, thing):
    with pytest.raises(OmniError, match="class word"):
        PhotoKit(fast, [made(0)], thing)


def test_class_words_and_wordings(fast):
    assert [as_class_word(t) for t in ("a Dog", "toy car", "my teapot", "LEGO")] == ["dog", "toy car", "teapot", "LEGO"]
    assert wording_for(fast, "dog") == TOY
    with pytest.raises(OmniError, match="zebra"):
        wording_for(fast, "zebra")


@pytest.mark.parametrize(
    "said, answer",
    [
        ("Brown and white.", "Brown and white"),
        ("\n\nOn a sofa. It sleeps.", "On a sofa"),
        ("I'm sorry, I cannot tell.", ""),
        ("", ""),
        (". . .", ""),
        ("a <b>dog</b>", ""),
        ("word " * 40, ""),
        ("a\x00b\x1b[31m cat", "a b [31m cat"),
    ],
)
def test_answers_are_cleaned(said, answer):
    assert clean_answer(said) == answer


# ---- edits ---------------------------------------------------------------------------------------------------------
def test_the_rest_of_an_edit_stays(world, char):
    edit = world.edit(world.photo(char, seed=3), "remove", seed=0)
    region = changed_region(edit.source, edit.target, 8)
    assert region[edit.mask].all() and rest_error(edit.source, edit.target, region) < 1e-3
    spoilt = edit.target.point(lambda v: v // 2)
    mended = pasted(edit.source, spoilt, region)
    assert rest_error(edit.source, spoilt, region) > 0.1 and rest_error(edit.source, mended, region) == 0
    assert not changed_region(edit.source, edit.source, 8).any()
    with pytest.raises(OmniError, match="one size"):
        changed_region(edit.source, edit.target.resize((32, 32)), 8)


# ---- kept, resumed, seeded -----------------------------------------------------------------------------------------
def pixels(kit):
    return {k: None if i.picture is None else np.asarray(i.picture).tobytes() for k, i in kit.items.items()}


def test_a_stopped_kit_goes_on_and_comes_to_the_same(fast, tmp_path):
    photos, config = [made(0), made(1)], replace(FEW, hard=2)
    whole = PhotoKit(fast, photos, "dog", config=config).make(False)
    stopping, draw = quick(fast), fast.generate_images
    calls = []

    def stop_at_the_second(*given, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*given, **named)

    stopping.generate_images = stop_at_the_second
    kit, said = said_by(lambda: PhotoKit(stopping, photos, "dog", output_dir=tmp_path, config=config).make(False))
    assert kit.stopped and "make() again" in said[0] and 0 < len(kit.items) < len(whole.items)
    again = PhotoKit(fast, photos, "dog", output_dir=tmp_path, config=config)
    assert again.items == kit.items
    again.make(False)
    assert again.items == whole.items and pixels(again) == pixels(whole)
    calls.clear()
    assert PhotoKit(stopping, photos, "dog", output_dir=tmp_path, config=config).make(False).items == whole.items
    assert not calls, "nothing is made twice"
    other = PhotoKit(fast, photos, "dog", config=replace(config, seed=1)).make(False)
    assert pixels(other) != pixels(whole)


@pytest.mark.parametrize(
    "change, word", [(dict(thing="cat"), "thing"), (dict(photos=[made(5)]), "photos"), (dict(seed=3), "seed")]
)
def test_a_folder_of_another_kit_is_refused(fast, tmp_path, change, word):
    own = dict(photos=[made(0)], thing="dog", seed=0)

    def kit(photos, thing, seed):
        return PhotoKit(
            fast, photos, thing, output_dir=tmp_path, config=replace(FEW, edited=0, hard=0, easy=0, seed=seed)
        )

    kit(**own).make(False)
    with pytest.raises(OmniError, match=f"another {word}"):
        kit(**own | change)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"identity": {}}',
        '{"identity": {}, "items": [3]}',
        '{"identity": {}, "items": [{"kind": 1}]}',
    ]
    + ['{"identity": {}, "items": [{"kind": "hard", "key": "../../x", "text": "a"}]}'],
)
def test_a_damaged_kit_is_refused_by_name(tmp_path, text):
    (tmp_path / KIT_FILE).write_text(text)
    with pytest.raises(OmniError, match=KIT_FILE):
        KitFolder(tmp_path, {})


def test_a_damaged_picture_is_made_again(tmp_path):
    folder = KitFolder(tmp_path, {})
    folder.add(*(KitItem("hard", f"hard-{i}", "a dog", picture=made(i)) for i in range(3)))
    (tmp_path / "pictures" / "hard-0.png").write_bytes(b"half")
    (tmp_path / "pictures" / "hard-1.png").unlink()
    assert set(KitFolder(tmp_path, {}).items) == {"hard-2"}


# ---- a disk that fills, a Drive that goes away ---------------------------------------------------------------------
def test_a_disk_that_fills_loses_nothing(tmp_path, monkeypatch):
    full, write = [True], kit_folder.atomic_write

    def written(path, data):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(kit_folder, "atomic_write", written)
    folder = KitFolder(tmp_path, {})
    _, said = said_by(lambda: [folder.add(KitItem("hard", f"hard-{i}", "a dog", picture=made(i))) for i in range(3)])
    assert len(said) == 1 and "No space left" in said[0] and "kept in memory" in said[0] and len(folder.items) == 3
    full[0] = False
    folder.add(KitItem("caption", "caption-0", "a photo of <sks>"))
    assert not folder.failed and len(KitFolder(tmp_path, {}).items) == 4


def test_a_full_disk_is_said_before_anything_is_made(fast, tmp_path, monkeypatch):
    def no_room(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    kit = PhotoKit(fast, [made(0)], "dog", output_dir=tmp_path / "kit", config=FEW)
    monkeypatch.setattr("pathlib.Path.write_bytes", no_room)
    with pytest.raises(OmniError, match="free some space"):
        kit.make(False)
    assert not kit.items


def test_a_drive_that_disappears_in_the_middle(tmp_path):
    "The folder is gone, then nothing can be written in its place, then it is there again: all is saved, and said."
    drive, away = tmp_path / "drive", tmp_path / "away"
    folder = KitFolder(drive / "kit", {})
    with folder.open():
        folder.add(KitItem("hard", "hard-0", "a dog", picture=made(0)))
        drive.rename(away)
        drive.write_text("not mounted")
        _, said = said_by(lambda: folder.add(KitItem("hard", "hard-1", "a dog", picture=made(1))))
        assert "kept in memory" in said[0] and folder.failed
        drive.unlink()
        _, said = said_by(lambda: folder.add(KitItem("hard", "hard-2", "a dog", picture=made(2))))
        assert not folder.failed and "made again" in said[0]
    assert set(KitFolder(drive / "kit", {}).items) == {"hard-0", "hard-1", "hard-2"}
    assert set(KitFolder(away / "kit", {}).items) == {"hard-0"}


# ---- HEIC ----------------------------------------------------------------------------------------------------------
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(64)


def test_heic_without_the_extra_asks_for_it_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    with pytest.raises(OmniError, match=r"IMG_1.HEIC: a HEIC photo, which needs pillow-heif: .*omnipersona\[photos\]"):
        load_image(tmp_path / "IMG_1.HEIC")
    with pytest.raises(OmniError, match=r"omnipersona\[photos\]"):
        read_folder(tmp_path)


def test_heic_is_opened_once_the_extra_is_there(tmp_path, monkeypatch):
    "With a stand-in for the library: it is registered when a HEIC photo comes, and what it cannot read is named."
    registered = []
    stand_in = types.SimpleNamespace(register_heif_opener=lambda: registered.append(1))
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    with pytest.raises(OmniError, match="IMG_1.HEIC: a damaged HEIC photo"):
        load_image(tmp_path / "IMG_1.HEIC")
    made(0).save(tmp_path / "a.png")
    load_image(tmp_path / "a.png")
    assert registered == [1]


def test_real_heic_photographs(tmp_path):
    "With pillow-heif itself: a folder of them is read, and a half one is named."
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    for i in range(2):
        made(i, (320, 240)).save(tmp_path / f"IMG_{i}.HEIC", format="HEIF", quality=90)
    read = read_folder(tmp_path).images
    for i, picture in enumerate(read):
        assert picture.size == (320, 240) and picture.mode == "RGB"
        assert np.abs(np.asarray(picture, float) - np.asarray(made(i, (320, 240)), float)).mean() < 8
    assert len(read) == 2
    whole = (tmp_path / "IMG_1.HEIC").read_bytes()
    (tmp_path / "IMG_1.HEIC").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OmniError, match=r"IMG_1.HEIC .*damaged or cut short"):
        read_folder(tmp_path)


# ---- sizes and shapes ----------------------------------------------------------------------------------------------
WIDE = SMALL | dict(
    vit=SMALL["vit"] | dict(image_size=504),
    outer=SMALL["outer"] | dict(max_latent_size=32, vit_max_num_patch_per_side=36),
)  # a random checkpoint in BAGEL's layout that reaches 512 pixels


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = random_checkpoint(tmp_path_factory.mktemp("wide") / "bagel", sizes=WIDE)
    return quick(load_backbone(folder, torch.float32, "cpu"))


def test_learnt_small_and_drawn_large(wide):
    "Photographs keep their shape, at a size that the backbone is asked for; one concept serves all sizes."
    small, photo = at_size(wide, 64), made(0, (300, 200))
    assert wide.size == 512 and small.size == 64 and small.model is wide.model
    assert small.latent_grid(photo)[1] > small.latent_grid(photo)[0] and wide.latent_grid(photo) == (16, 24)
    data = ConceptData([photo], edits=[(photo, "remove <sks>", photo)])
    concept = learn(small, data, "rex", recipe=replace(SHORT, steps=2), progress=False)
    drawn = Persona(wide, concept).generate("a photo of <rex>", sampling=QUICK).image
    assert drawn.size == (512, 512) and isinstance(concept, Concept)
    edited = Persona(small, concept).edit("remove <rex>", photo, sampling=QUICK).image
    assert edited.size == small.vae_resize.size(photo.size) and edited.width > edited.height


@pytest.mark.parametrize("longest", [0, 40, 528, "256", 256.0, True])
def test_sizes_that_cannot_be(wide, longest):
    with pytest.raises(OmniError, match="multiple of 16 pixels up to 512"):
        at_size(wide, longest)


# ---- the layout of BAGEL, whole path -------------------------------------------------------------------------------
def whole_path(bb, photos, tmp_path, thing, size):
    "Photographs to a concept that answers, draws and edits; all three tasks are learnt."
    assert wording_for(bb, thing) == PLAIN
    config = replace(FEW, photos=2)
    kit, _ = said_by(lambda: PhotoKit(bb, photos, thing, FACTS, output_dir=tmp_path / "kit", config=config).make(False))
    data = all_of(kit)
    concept = learn(bb, data, "rex", recipe=replace(SHORT, steps=2), progress=False)
    assert set(concept.history[-1]) == TASKS | {"step"} and torch.isfinite(concept.embeddings).all()
    ratio = data.images[0].width / data.images[0].height
    source, _, target = data.edits[0]
    assert max(target.size) <= size and abs(target.width / target.height - ratio) < 0.15, "its shape is kept"
    persona = Persona(bb, concept)
    assert isinstance(persona.ask("Is <rex> in the photo?", kit.photos[0], max_new_tokens=2).text, str)
    assert persona.generate("a photo of <rex>", sampling=QUICK).image.size == (size, size)


@pytest.mark.parametrize("size", [256, 512])
def test_whole_path_with_generated_pictures(wide, tmp_path, size):
    whole_path(at_size(wide, size), [made(i, (600, 400)) for i in range(2)], tmp_path, "dog", size)


@pytest.mark.parametrize("kind, thing, size", [("dog6", "dog", 256), ("teapot", "teapot", 512)])
def test_whole_path_with_photographs(wide, shared, tmp_path, kind, thing, size):
    "Real photographs, with the random reference checkpoint where it reaches the size."
    if not (shared / "photos" / kind).is_dir():
        pytest.skip("the photographs are not beside this checkout")
    reference = shared / "bagel_reference" / "A" / "ckpt"
    bb = at_size(wide, size)
    if size == 256 and reference.is_dir():
        bb = quick(load_backbone(reference, torch.float32, "cpu"))
    shutil.copytree(shared / "photos" / kind, tmp_path / kind)
    whole_path(bb, tmp_path / kind, tmp_path, thing, size)


# ---- what the tiny backbone makes ----------------------------------------------------------------------------------
def test_data_of_the_tiny_backbone_are_true(tiny, world, char):
    album = world.album(char, 3, seed=0)
    config = KitConfig(edited=1, hard=2, easy=1, tries=2)
    kit = PhotoKit(tiny, [p.image for p in album], char.traits.species, char.facts, config=config).make(False)
    places = {q.photo: q.answer for q in kit.folder.of("question") if q.key.endswith("place")}
    assert all(places[i] == f"the {p.truth['place']}" for i, p in enumerate(album))
    data = kit.data()
    assert not data.lacking and data.description == char.description
    assert all(i.keep and i.checks["present"] < 0.5 for i in kit.folder.of("remove"))
    assert all(i.checks["same"] < 0.5 for i in kit.folder.of("hard") if i.keep)
    hidden = {v.split()[-1] for v in char.facts.values()}
    assert not [i for i in kit.folder.of("background") if i.text.split()[-1] in hidden], "facts stay unseen"
