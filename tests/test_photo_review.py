"The review of a photo kit: keep, drop, rewrite; everything is saved at once, and no text is ever HTML."

import errno
import warnings

import numpy as np
import pytest
from PIL import Image

from omnipersona.concept import kit_folder
from omnipersona.concept.kit_folder import KitItem
from omnipersona.concept.kit_source import KitConfig
from omnipersona.concept.photo_kit import PhotoKit
from omnipersona.widgets.photo_review import DROP, KEEP, ON_A_PAGE, REVIEWED, PhotoReview, thumbnail

HOSTILE = "<img src=x onerror=alert(1)> & \"quoted\" </small><script>alert('2')</script>"


def photo(i, size=(96, 64)):
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (*size[::-1], 3), np.uint8))


def kit_of(bb, n, output_dir=None, text="a photo of <sks>", why=""):
    "A kit whose items were made by hand: no model runs."
    kit = PhotoKit(bb, [photo(i) for i in range(n)], "dog", output_dir=output_dir, config=KitConfig())
    for i in range(n):
        kit.folder.add(
            KitItem("caption", f"caption-{i:03}", text, photo=i),
            KitItem("question", f"question-{i:03}-place", "where is <sks> ?", "the beach", photo=i, why=why),
            KitItem("remove", f"remove-{i:03}", "remove <sks>", photo=i, picture=photo(50 + i, (64, 40)), why=why),
            KitItem("hard", f"hard-{i:03}", text, picture=photo(90 + i), checks=dict(same=0.1), why=why),
            KitItem("easy", f"easy-{i:03}", text, picture=photo(99 + i)),
        )
    return kit


def data_of(kit):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kit.data()


def test_keep_drop_and_rewrite_reach_the_data_and_the_disk(bb, tmp_path):
    kit = kit_of(bb, 3, tmp_path)
    review = PhotoReview(kit)
    review.rows[0].keep.value = DROP
    review.rows[1].boxes["text"].value = "a photo of <sks> at the castle"
    review.tab.value = "questions"
    review.rows[2].boxes["answer"].value = "the moon"
    review.tab.value = "others of the class"
    review.rows[1].keep.value = DROP
    for one in (kit, PhotoKit(bb, kit.photos, "dog", output_dir=tmp_path)):
        data = data_of(one)
        assert data.captions == ["a photo of <sks> at the castle", "a photo of <sks>"]
        assert data.qa == [(0, "where is <sks> ?", "the beach"), (1, "where is <sks> ?", "the moon")]
        assert len(data.edits) == 2 and len(data.look_alikes) == 2, "what belongs to a dropped photograph goes with it"
        assert one.items["hard-001"].by == "student" and one.items["hard-000"].by == "backbone"
    assert len(one.data(unchecked=True).look_alikes) == 2, "what the student dropped stays out"
    review.rows[1].keep.value = KEEP
    assert len(data_of(kit).look_alikes) == 3


@pytest.mark.parametrize(
    "text, why",
    [("a photo of a dog", "<sks>"), ("a zebra, <sks>", "zebra"), ("  ", "empty"), ("a\x00 <sks>", "control")],
)
def test_a_text_that_cannot_be_learnt_is_refused_beside_it(bb, text, why):
    kit = kit_of(bb, 1)
    review = PhotoReview(kit)
    review.rows[0].boxes["text"].value = text
    assert why in review.rows[0].said.text and review.rows[0].said.bad
    assert kit.items["caption-000"].text == "a photo of <sks>"


def test_no_text_is_ever_html(bb):
    review = PhotoReview(kit_of(bb, 1, text=HOSTILE, why=HOSTILE))
    import ipywidgets as w

    def shown(widget):
        yield from [widget.value] if isinstance(widget, (w.HTML, w.Label)) else []
        for child in getattr(widget, "children", ()):
            yield from shown(child)

    for tab in REVIEWED:
        review.tab.value = tab
        pages = [*(v for v in shown(review.widget)), *review.parts()]
        review.rows[0].boxes and setattr(review.rows[0].boxes["text"], "value", HOSTILE + " <sks>")
        for text in [*pages, *(v for v in shown(review.widget))]:
            assert "<script" not in text and "<img src=x" not in text and "</small><" not in text, text[:300]


def test_pages_and_thumbnails(bb):
    review = PhotoReview(kit_of(bb, ON_A_PAGE + 1))
    assert len(review.rows) == ON_A_PAGE and review.back.disabled and not review.on.disabled
    review.on.click()
    assert len(review.rows) == 1 and review.on.disabled and "page 2 of 2" in review.where.value
    review.turn(5)
    review.back.click()
    assert len(review.rows) == ON_A_PAGE
    small = Image.open(__import__("io").BytesIO(thumbnail(photo(0, (4000, 1000)))))
    assert small.size == (128, 32) and len(thumbnail(photo(0, (4000, 1000)))) < 20_000


def test_an_empty_kit_and_a_full_disk_are_no_errors(bb, tmp_path, monkeypatch):
    empty = PhotoReview(PhotoKit(bb, [photo(0)], "dog"))
    for tab in REVIEWED:
        empty.tab.value = tab
        assert not empty.rows and "0 of 0" in empty.where.value and empty.static()
    review = PhotoReview(kit_of(bb, 1, tmp_path))

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kit_folder, "atomic_write", full)
    with pytest.warns(UserWarning, match="kept in memory"):
        review.rows[0].keep.value = DROP
    assert "No space left" in review.said.text and review.said.bad and not review.kit.items["caption-000"].keep
    assert review.kit.photos


def test_the_kit_leaves_what_the_student_decided(bb, tmp_path):
    "make() after a review makes what is missing, and changes nothing."
    kit = kit_of(bb, 1, tmp_path)
    review = PhotoReview(kit)
    review.rows[0].boxes["text"].value = "a photo of <sks> at the moon"
    again = PhotoKit(
        bb, kit.photos, "dog", output_dir=tmp_path, config=KitConfig(edited=1, backgrounds=0, hard=1, easy=1)
    )
    assert again.make(progress=False).items == kit.items
