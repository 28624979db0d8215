"""The site's pages, opened as files, without a server and without a network: they read, search and fit a phone."""

import re

import pytest
from conftest import ROOT

from omnipersona.widgets.latency import BROWSER_ARGS, find_browser

pytestmark = pytest.mark.site
SITE = ROOT / "_site"
SHOTS = ROOT / "runs" / "browser-site"  # git ignores it
MINUTES = 60_000 * 3


@pytest.fixture(scope="module")
def browser():
    if not (SITE / "index.html").exists():
        pytest.skip("needs the site: make site")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[dev]")
    if not (path := find_browser()):
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=[*BROWSER_ARGS, "--allow-file-access-from-files"])
        yield b
        b.close()


def opened(browser, path, scheme="light", width=1280):
    context = browser.new_context(viewport=dict(width=width, height=850), color_scheme=scheme)
    page = context.new_page()
    page.said = []
    page.on("console", lambda m: page.said.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.said.append(str(e)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or page.said.append(r.url))
    page.goto((SITE / path).as_uri(), timeout=MINUTES)
    page.wait_for_load_state("networkidle", timeout=MINUTES)
    return page


def files(pattern="*.html"):
    if not (SITE / "index.html").exists():
        pytest.skip("needs the site: make site")
    return [p for p in SITE.rglob(pattern)]


def test_every_notebook_has_a_page():
    files()
    for nb in (ROOT / "nbs").rglob("*.ipynb"):
        at = nb.relative_to(ROOT / "nbs")
        if not any(part[0] in "._" for part in at.parts) and "colab" not in at.parts:
            assert (SITE / at.with_suffix(".html")).exists(), at


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere():
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=.?(https?:[^\"'\s>]+)"
        r"|<link[^>]*\shref=.?(https?:[^\"'\s>]+)"
    )
    for p in files():
        text = p.read_text(encoding="utf-8")
        outside = [a or b for m in loads.finditer(text) for a, b in [m.groups()] if 'rel="canonical"' not in m[0]]
        assert not outside, (p, outside[:3])
        for link in re.findall(r'<a[^>]*\shref="([^"#?:]+)[#"?]', text):
            to = (p.parent / link).resolve()
            assert to.exists() and to.is_relative_to(SITE), (p.relative_to(SITE), link)


def test_search_finds_a_function(browser):
    page = opened(browser, "index.html")
    page.keyboard.press("f")
    page.locator(".md-search__input").press_sequentially("attention_mask", delay=30)  # it listens to keys
    page.wait_for_selector(".md-search-result__link", timeout=MINUTES)
    found = page.locator(".md-search-result__link").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert any("202_attention" in f or "api/model/attention" in f for f in found), found[:5]
    assert not page.said, page.said
    page.context.close()


def test_formulas_and_signatures(browser):
    page = opened(browser, "api/model/flow.html")
    text = page.inner_text("article")
    assert "shift_time" in text and "times in [0, 1], any shape" in text
    page.context.close()
    with_formula = next(p for p in files() if 'class="arithmatex"' in p.read_text(encoding="utf-8"))
    page = opened(browser, with_formula.relative_to(SITE))
    assert page.locator(".arithmatex .katex").count() == page.locator(".arithmatex").count() > 0
    assert page.locator(".katex-error").count() == 0 and not page.said, page.said
    page.context.close()


@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
@pytest.mark.parametrize("path", ["index.html", "tutorials/01_quickstart.html", "api/concept/persona.html"])
def test_looks(browser, path, scheme, width):
    page = opened(browser, path, scheme, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("document.body.getAttribute('data-md-color-scheme')") == "default"
    assert light == (scheme == "light")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{path.replace('/', '-')[:-5]}-{scheme}-{width}.png")
    assert not page.said, page.said
    page.context.close()


CONTRAST = r"""(chosen) => {
  const numbers = (c) => c.match(/[\d.]+/g).map(Number);
  const opaque = (x) => (([, , , alpha = 1]) => alpha > 0)(numbers(getComputedStyle(x).backgroundColor));
  const linear = (v) => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  return [...document.querySelectorAll(chosen)].map((e) => {
    let x = e;
    while (x.parentElement && !opaque(x)) x = x.parentElement;
    const back = opaque(x) ? numbers(getComputedStyle(x).backgroundColor) : [255, 255, 255];
    const [r, g, b, alpha = 1] = numbers(getComputedStyle(e).color);
    const seen = [r, g, b].map((v, i) => alpha * v + (1 - alpha) * back[i]);
    const pair = [light(seen), light(back)];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_titles_and_buttons_can_be_read(browser, scheme):
    "A contrast of 4.5 or more, as WCAG asks of text."
    page = opened(browser, "tutorials/01_quickstart.html", scheme)
    for chosen in ("article h1", "article .md-button", "article p", "article p a"):
        found = page.evaluate(CONTRAST, chosen)
        assert found and min(found) >= 4.5, (chosen, found[:3])
    page.context.close()


def test_the_start_leads_to_what_needs_no_install_and_to_the_table():
    "As pages of this site, not of its address: it is read offline too."
    text = next(p for p in files("index.html") if p.parent == SITE).read_text(encoding="utf-8")
    for link in ("try/index.html", "tutorials/index.html", "instructor.html"):
        assert f'href="{link}"' in text, link
    table = (SITE / "tutorials" / "index.html").read_text(encoding="utf-8")
    tutorials = [p.stem for p in (ROOT / "nbs" / "tutorials").glob("*.ipynb")]
    assert not [t for t in tutorials if f'href="{t}.html"' not in table]


def test_the_index_of_the_search_is_there():
    found = files("search_index.js*")
    text = found[0].read_text(encoding="utf-8") if found else ""
    assert 100_000 < len(text) < 2_500_000, "a browser builds the index from this text each time: prose and names only"
