"""The site: every notebook as a page, the functions of the package, and the page that runs the tiny backbone.

python tools/website.py env VENV | page VENV _site/try | docs VENV _site | build VENV _site"""

import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import house

ROOT = Path(__file__).resolve().parents[1]
SITE, WORK = ROOT / "site", ROOT / ".site"  # sources; what is made on the way, which git ignores
ADDRESS = "https://omnipersona.github.io/omnipersona/"  # where .github/workflows/site.yml publishes it
SOURCES = "https://github.com/omnipersona/omnipersona/blob/main/"  # for links to files that are no pages
PACKAGES = ["onnx==1.23.2", "onnxscript==0.7.2", "onnxruntime==1.32.0", "mkdocs-material==9.8.2"]
VENDOR = {  # of the page: file -> where npm puts it
    "ort.wasm.min.mjs": "onnxruntime-web/dist/ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs": "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "tokenizers.min.mjs": "@huggingface/tokenizers/dist/tokenizers.min.mjs",
}
WINGS = {  # folder of nbs/ -> its title
    "tutorials": "Tutorials",
    "assignments": "Assignments",
    "model": "The model",
    "concept": "Concepts",
    "inside": "Looking inside",
    "toyworld": "Toy world",
    "pretrain": "Pretraining",
    "bench": "Benchmarks",
    "widgets": "Widgets",
    "course": "Course checks",
    "": "Basics",
}


# ---- what it stands on ----------------------------------------------------------------------------------------------
def env(venv):
    """An environment with the tools of the site, which sees the project and the packages of the one that runs this.

    In the project's own environment they would change tested versions and add what no reader needs."""
    venv = Path(venv)
    if not (venv / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "-q", *PACKAGES], check=True)
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    out = subprocess.run([venv / "bin" / "python", "-c", ask], check=True, capture_output=True, text=True)
    paths = f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n"
    (Path(out.stdout.strip()) / "omnipersona.pth").write_text(paths, encoding="utf-8")


def packages():
    "The folder with the packages of npm. Exits with a sentence where npm is missing."
    modules = SITE / "node_modules"
    lock = (SITE / "package-lock.json").read_bytes()
    done = modules / ".done"
    if done.exists() and done.read_bytes() == lock:
        return modules
    if not shutil.which("npm"):
        sys.exit(
            "npm is missing: install Node.js 20 or newer (Debian: apt-get install nodejs npm), then make site again"
        )
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=SITE, check=True)
    done.write_bytes(lock)
    return modules


# ---- the page that needs no install ---------------------------------------------------------------------------------
GRAPHS = """
import sys
from omnipersona.course.graph_files import export_graphs
from omnipersona.model.loading import load_backbone
export_graphs(load_backbone("tiny"), sys.argv[1])
"""


def graphs(venv):
    "The folder with the graphs, made again where weights or the code that makes them have changed."
    sources = [ROOT / "omnipersona" / "course" / f"{n}.py" for n in ("browser_graphs", "graph_files")]
    sources += sorted((ROOT / "omnipersona" / "weights" / "tiny").rglob("*.safetensors"))
    key = hashlib.sha256(b"".join(p.read_bytes() for p in sources) + " ".join(PACKAGES).encode()).hexdigest()[:16]
    folder = WORK / f"graphs-{key}"
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        python = Path(venv).absolute() / "bin" / "python"
        subprocess.run([python, "-W", "ignore", "-c", GRAPHS, part], check=True, cwd=ROOT)
        part.rename(folder)
    return folder


def version(folder):
    "A short hash of everything in a folder."
    h = hashlib.sha256()
    for p in sorted(p for p in folder.rglob("*") if p.is_file()):
        h.update(p.relative_to(folder).as_posix().encode() + p.read_bytes())
    return h.hexdigest()[:16]


def page(venv, to, concepts=None):
    "The page in the browser, whole: its sources, packages of npm, graphs, settings and concepts."
    from omnipersona.course.browser_files import FOLDERS, write_page_files
    from omnipersona.model.loading import load_backbone

    to, modules = Path(to), packages()
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(SITE / "try", to)
    (to / "vendor").mkdir()
    for name, source in VENDOR.items():
        shutil.copy(modules / source, to / "vendor" / name)
    write_page_files(load_backbone("tiny"), to / "data", concepts or FOLDERS)
    for graph in graphs(venv).glob("*.onnx"):
        shutil.copy(graph, to / "data" / graph.name)
    script = (to / "offline.js").read_text(encoding="utf-8")
    (to / "offline.js").write_text(script.replace("development", version(to)), encoding="utf-8")


# ---- notebooks as pages ---------------------------------------------------------------------------------------------
FLAG = re.compile(r"^#\s*\|\s*(\S+).*\n?", re.M)


def _output(o):
    "An output of a cell as HTML."
    import html

    data = o.get("data", {})
    if "image/png" in data:
        return f'<img alt="figure" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "image/svg+xml" in data:
        return "".join(data["image/svg+xml"])
    if "text/html" in data:
        return "".join(data["text/html"])
    text = o.get("text") or data.get("text/plain") or ""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(text))
    return f"<pre>{html.escape(text.rstrip())}</pre>" if text.strip() else ""


def _with_files(html, page):
    "The HTML with pictures as files beside the page, which is smaller and easier to search than pictures inside it."
    import base64

    def as_file(m):
        raw = base64.b64decode(m[1])
        name = f"{page.stem}-{hashlib.sha256(raw).hexdigest()[:10]}.png"
        (page.parent / "figures").mkdir(parents=True, exist_ok=True)
        (page.parent / "figures" / name).write_bytes(raw)
        return f'src="figures/{name}" loading="lazy"'

    return re.sub(r'src="data:image/png;base64,([^"]+)"', as_file, html)


def _code(cell, page):
    "A code cell and its outputs as Markdown."
    flags = FLAG.findall(cell.source)
    if "hide" in flags or "default_exp" in flags:
        return ""
    source = FLAG.sub("", cell.source).strip("\n")
    exported = any(f.startswith("export") for f in flags)
    parts = []
    if source and not re.search(r"^#\s*\|\s*echo:\s*false", cell.source, re.M):
        block = f"```python\n{source}\n```"
        kind = "code exported" if exported else "code"
        parts.append(f'<div class="{kind}" markdown="1" data-search-exclude>\n\n{block}\n\n</div>')
    for o in cell.outputs:
        markdown = o.get("data", {}).get("text/markdown")
        if markdown and "text/html" not in o.get("data", {}):
            parts.append(_prose("".join(markdown)))
        elif shown := _with_files(_output(o), page):
            parts.append('<div class="output" data-search-exclude>' + re.sub(r"\n\s*\n", "\n", shown) + "</div>")
    return "\n\n".join(parts)


BADGE = re.compile(
    r"\[!\[([^\]]*)\]\(https?:[^)]*\)\]\(([^)]*)\)|<a[^>]*href=\"([^\"]*)\"[^>]*>\s*<img[^>]*src=\"https?:[^>]*>\s*</a>"
)


def _prose(source, up=""):
    "Markdown as it stands on the site, in a folder `up` from its top: links to pages, and in place of foreign badges."
    source = source.replace(f"]({ADDRESS}", f"]({up}")
    source = BADGE.sub(lambda m: f"[{m[1] or 'Open in Colab'}]({m[2] or m[3]}){{ .md-button }}", source)
    return re.sub(r"(\]\([^)\s:]+)\.ipynb", r"\1.md", source)


def _to_sources(source, nb):
    "Markdown in which links of a notebook to files outside of nbs/ lead to the repository: they are no pages."

    def link(m):
        to = (nb.parent / m[1]).resolve()
        inside = to.is_relative_to(house.NBS.resolve()) or not to.is_relative_to(ROOT)
        return m[0] if inside else f"]({SOURCES}{to.relative_to(ROOT).as_posix()}{m[2]})"

    return re.sub(r"\]\((\.\./[^)\s#]+)(#[^)\s]*|)\)", link, source)


def notebook_page(nb, page):
    "Write a notebook as a page of Markdown."
    import nbformat

    page.parent.mkdir(parents=True, exist_ok=True)
    text, up = [], "../" * (len(page.relative_to(WORK / "docs").parts) - 1)
    for cell in nbformat.read(nb, as_version=4).cells:
        if cell.cell_type == "markdown":
            text.append(_prose(_to_sources(cell.source, nb), up))
        elif cell.cell_type == "code":
            text.append(_code(cell, page))
    page.write_text("\n\n".join(t for t in text if t) + "\n", encoding="utf-8")


def title_of(page):
    "The first heading of a page of Markdown."
    return re.search(r"^# +(.+)$", page.read_text(encoding="utf-8"), re.M)[1]


def title(nb):
    "The first heading of a notebook."
    cells = json.loads(nb.read_text(encoding="utf-8"))["cells"]
    heads = re.findall(
        r"^# +(.+)$", "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown"), re.M
    )
    return heads[0].replace("`", "") if heads else nb.stem


# ---- the functions of the package -----------------------------------------------------------------------------------
def _cell(x):
    "Text for a cell of a Markdown table."
    return str(x).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _mono(x):
    "The same as code: a table leaves signs inside of code alone."
    text = str(x).replace("\n", " ").replace("`", "'")
    return f"`{text}`" if text else ""


def _annotation(a):
    if a is inspect.Parameter.empty:
        return ""
    return a if isinstance(a, str) else getattr(a, "__name__", str(a))


def _parameters(f):
    "Markdown table of a function's parameters, from its docments."
    from fastcore.docments import docments

    known, rows = docments(f, full=True), []
    for name, p in inspect.signature(f).parameters.items():
        if name == "self":
            continue
        about = known.get(name) or {}
        default = "" if p.default is inspect.Parameter.empty else _mono(repr(p.default)[:60])
        kind = _mono(_annotation(p.annotation))
        rows.append(f"| `{name}` | {kind} | {default} | {_cell(about.get('docment') or '')} |")
    back = (known.get("return") or {}).get("docment")
    returns = _annotation(inspect.signature(f).return_annotation)
    if returns and returns != "None":
        rows.append(f"| *returns* | {_mono(returns)} | | {_cell(back or '')} |")
    table = "\n".join(["| | type | default | |", "|---|---|---|---|", *rows])
    return f'<div markdown="1" data-search-exclude>\n\n{table}\n\n</div>' if rows else ""


def _function(name, f, level):
    names = ", ".join(p for p in inspect.signature(f).parameters if p != "self")
    doc = inspect.cleandoc(f.__doc__ or "").replace("<", "&lt;")
    return f'{"#" * level} {name}\n\n<code class="signature">{name}({names})</code>\n\n{doc}\n\n{_parameters(f)}\n'


def _class(name, c):
    own = [(k, v) for k, v in vars(c).items() if not k.startswith("_") and inspect.isfunction(v)]
    doc = inspect.cleandoc(c.__doc__ or "").replace("<", "&lt;")
    try:
        table = _parameters(c)
    except (ValueError, TypeError):
        table = ""
    methods = [_function(f"{name}.{k}", v, 4) for k, v in own]
    return f"### {name}\n\n*class*\n\n{doc}\n\n{table}\n\n" + "\n".join(methods)


def module_page(name, nb, page):
    "Write the public names of a module as a page of Markdown."
    import importlib

    module = importlib.import_module(f"omnipersona.{name}")
    parts = [f"# omnipersona.{name}\n\n{inspect.cleandoc(module.__doc__ or '')}\n"]
    up = "../" * (len(page.relative_to(WORK / "docs").parts) - 1)
    parts.append(
        f"Made from the notebook [{nb.stem}]({up}{nb.relative_to(house.NBS).with_suffix('.md').as_posix()}).\n"
    )
    for public in getattr(module, "__all__", []):
        thing = getattr(module, public)
        if inspect.isclass(thing):
            parts.append(_class(public, thing))
        elif inspect.isfunction(thing):
            parts.append(_function(public, thing, 3))
        else:
            parts.append(f"### {public}\n\n{_mono(repr(thing)[:200])}\n")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts), encoding="utf-8")


def _module(nb):
    found = re.search(r"#\s*\|\s*default_exp\s+([\w.]+)", nb.read_text(encoding="utf-8"))
    return found[1] if found else None


# ---- the site -------------------------------------------------------------------------------------------------------
def pages():
    "Write all pages as Markdown; returns the navigation."
    docs = WORK / "docs"
    shutil.rmtree(docs, ignore_errors=True)
    wings = {wing: [] for wing in WINGS}
    functions = {wing: [] for wing in WINGS}
    first = []
    if (table := house.NBS / "tutorials" / "README.md").exists():  # minutes and memory of each tutorial
        (docs / "tutorials").mkdir(parents=True)
        (docs / "tutorials" / "README.md").write_text(_prose(table.read_text(encoding="utf-8")), encoding="utf-8")
        wings["tutorials"].append({title_of(table): "tutorials/README.md"})
    for nb in house.notebooks():
        at = nb.relative_to(house.NBS)
        wing, page = at.parts[0] if len(at.parts) > 1 else "", docs / at.with_suffix(".md")
        notebook_page(nb, page)
        entry = {title(nb): at.with_suffix(".md").as_posix()}
        if nb.stem in ("index", "glossary", "900_results"):
            first.append(entry)
        else:
            wings.setdefault(wing, []).append(entry)
        if module := _module(nb):
            name = f"api/{module.replace('.', '/')}.md"
            module_page(module, nb, docs / name)
            functions.setdefault(wing, []).append({module: name})
    nav = [{"Start": first}, {"Try it": "try/index.html"}]
    for wing in ("tutorials", "assignments"):
        nav.append({WINGS[wing]: wings.pop(wing)})
    nav.append({"How it works": [{WINGS.get(w, w): entries} for w, entries in wings.items() if entries]})
    nav.append({"Functions": [{WINGS.get(w, w): entries} for w, entries in functions.items() if entries]})
    return nav


def docs(venv, to):
    "All pages with navigation and search, in one folder that can be read without a network."
    modules, nav = packages(), pages()
    assets = WORK / "docs" / "assets"
    shutil.copytree(SITE / "assets", assets)
    shutil.copytree(modules / "katex" / "dist" / "fonts", assets / "katex" / "fonts")
    for name in ("katex.min.css", "katex.min.js"):
        shutil.copy(modules / "katex" / "dist" / name, assets / "katex" / name)
    shutil.copy(modules / "iframe-worker" / "shim" / "index.js", assets / "iframe-worker.js")
    shutil.copytree(house.NBS / "images", WORK / "docs" / "images", dirs_exist_ok=True)
    settings = dict(
        INHERIT=str(SITE / "mkdocs.yml"), docs_dir=str(WORK / "docs"), site_dir=str(Path(to).absolute()), nav=nav
    )
    (WORK / "mkdocs.yml").write_text(json.dumps(settings, indent=1), encoding="utf-8")  # JSON is YAML
    mkdocs = Path(venv).absolute() / "bin" / "mkdocs"
    subprocess.run(
        [mkdocs, "build", "-q", "-f", WORK / "mkdocs.yml"], check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )


def build(venv, to):
    "The whole site."
    docs(venv, to)
    (Path(to) / "404.html").unlink()  # its links begin at the host's root, where a project's site does not lie
    page(venv, Path(to) / "try")


if __name__ == "__main__":
    jobs = dict(env=env, page=page, docs=docs, build=build)
    if len(sys.argv) < 3 or sys.argv[1] not in jobs:
        sys.exit(__doc__)
    jobs[sys.argv[1]](*sys.argv[2:])
