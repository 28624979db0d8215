"Nothing that a person types becomes markup: parsed, and in a browser."

import pytest

from omnipersona.widgets.html import page
from omnipersona.widgets.latency import BROWSER_ARGS, find_browser
from omnipersona.widgets.run_pictures import studio_parts
from trust.cases_html import CASES, PAYLOADS, attention, board, learnt, studio_page, token_map, trace, whole_page
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)


def pages(tmp):
    "Every exported page, and the same HTML bare, as a notebook shows it, with every payload."
    bare = tmp / "bare.html"
    parts = [trace(x)._repr_html_() + "".join(studio_parts(learnt(x))) for x in PAYLOADS.values()]
    bare.write_text("<!doctype html><meta charset=utf-8>" + "".join(parts), encoding="utf-8")
    out = [bare]
    for make in (whole_page, attention, board, token_map, studio_page):
        for i, x in enumerate(PAYLOADS.values()):
            folder = tmp / f"{make.__name__}{i}"
            folder.mkdir()
            make(x, folder)
            out += sorted(folder.glob("*.html"))
    return out


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[dev]")
    chromium = find_browser()
    if not chromium:
        pytest.skip("needs a browser. On Debian: apt-get install chromium")
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        yield b
        b.close()


def opened(browser, path):
    "What a browser does with a page: dialogs, requests, complaints of the script."
    tab, heard = browser.new_page(), []
    tab.on("dialog", lambda d: (heard.append(f"dialog {d.message}"), d.dismiss()))
    tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else heard.append(f"request {r.url}"))
    tab.on("pageerror", lambda e: heard.append(f"error {e}"))
    tab.goto(path.as_uri())
    strange = "script:not([id]):not(:last-of-type), svg:not([role=img]), iframe, form, img[src=x], "
    strange += "[onload], [onerror], [onmouseover]"
    heard += [
        f"element {x}" for x in tab.evaluate(f"[...document.querySelectorAll({strange!r})].map(e => e.outerHTML)")
    ]
    tab.close()
    return heard


@pytest.mark.trust
def test_every_page_in_a_browser(browser, tmp_path):
    heard = {p.name: h for p in pages(tmp_path) if (h := opened(browser, p))}
    assert not heard, heard


def test_a_few_pages_in_a_browser(browser, tmp_path):
    for i, kind in enumerate(("image", "end of a script", "out of an attribute")):
        (tmp_path / str(i)).mkdir()
        attention(PAYLOADS[kind], tmp_path / str(i))
        assert not opened(browser, tmp_path / str(i) / "x.html")


def test_a_page_runs_no_script_even_if_a_text_were_not_escaped(browser, tmp_path):
    "The second wall: what the browser was told. Without it, the same page does open a dialog."
    path, evil = tmp_path / "x.html", "".join(PAYLOADS.values())
    path.write_text(page("x", [evil]), encoding="utf-8")
    assert not [h for h in opened(browser, path) if "dialog" in h or "request" in h]
    path.write_text(evil, encoding="utf-8")
    assert [h for h in opened(browser, path) if "dialog" in h]
