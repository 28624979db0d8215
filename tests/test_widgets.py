"The small pieces under the widgets: uploads of both ipywidgets, escaping, pages that need no network."

import pytest
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.pictures import png_bytes
from omnipersona.widgets.html import View, data_url, enlarged, export_page, page, picture_html, plain, thinned
from omnipersona.widgets.upload_button import uploads

EVIL = "<img src=x onerror=alert(1)>"


def test_uploads_of_both_versions():
    "ipywidgets 7 gives a dict by name, 8 a tuple of dicts: the same files come out."
    seven = {"a.png": {"metadata": {"name": "a.png"}, "content": b"12"}}
    eight = ({"name": "a.png", "content": memoryview(b"12")},)
    assert uploads(seven) == uploads(eight) == [("a.png", b"12")]
    assert uploads({}) == uploads(()) == []


def test_text_stays_text():
    png = png_bytes(Image.new("RGB", (4, 4), "red"))
    whole = page(EVIL, [picture_html(png, EVIL), plain(EVIL)])
    assert "<img src=x" not in whole and whole.count("&lt;img src=x") >= 3


def test_page_is_self_contained_and_bounded(tmp_path):
    png = png_bytes(Image.new("RGB", (4, 4), "red"))
    f = export_page(tmp_path / "x.html", "toy", [picture_html(png, "red")])
    assert data_url(png) in f.read_text() and "http" not in f.read_text()
    with pytest.raises(OmniError, match="1.5 MB"):
        export_page(tmp_path / "y.html", "toy", ["x" * 1_600_000])
    assert not (tmp_path / "y.html").exists()


def test_thinned_keeps_ends_and_says_so():
    idx, said = thinned(4000, 500)
    assert len(idx) == len(set(idx)) == 500 and idx[0] == 0 and idx[-1] == 3999 and "500 of 4000" in said
    assert thinned(7, 500) == (list(range(7)), "")


def test_small_pictures_are_enlarged_by_whole_pixels_and_keep_their_shape():
    small = Image.new("RGB", (40, 20), "red")
    small.putpixel((0, 0), (0, 0, 255))
    big = enlarged(small, 192)
    assert big.size == (160, 80) and big.crop((0, 0, 4, 4)).getcolors() == [(16, (0, 0, 255))]
    assert enlarged(Image.new("RGB", (1000, 500)), 192).size == (192, 96)
    assert enlarged(Image.new("RGB", (1000, 2)), 192).size == (192, 1)


def test_a_view_is_html_and_a_page(tmp_path):
    class Greeting(View):
        title = EVIL

        def parts(self):
            return [plain("hello <world>")]

    view = Greeting()
    assert view.static().data == "hello &lt;world&gt;"
    text = view.export(tmp_path / "x.html").read_text()
    assert "hello &lt;world&gt;" in text and "<img src=x" not in text
