"""The chores of the house, which the tests use too:

python tools/house.py clean | readme | measured | scores <folder>"""

import base64
import io
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
WIDGET = "application/vnd.jupyter.widget-view+json"  # points into widget state, which is not kept


def notebooks(root=ROOT):
    "Every notebook, in reading order."
    return sorted(
        p for p in (root / "nbs").rglob("*.ipynb") if not any(s[0] in "._" for s in p.relative_to(root / "nbs").parts)
    )


def cleaned(text):
    """A notebook's text as it is stored: what nbdev_clean leaves (no counts, no metadata, stable ids), outputs kept,
    but neither widget state nor anything written to stderr (progress bars, warnings with one machine's paths)."""
    from execnb.nbio import dict2nb, nb2str
    from nbdev.clean import clean_nb

    nb = json.loads(text)
    nb.get("metadata", {}).pop("widgets", None)
    nb.setdefault("metadata", {})["kernelspec"] = dict(display_name="python3", language="python", name="python3")
    for cell in nb["cells"]:
        if cell["cell_type"] != "code":
            continue
        outs = [o for o in cell["outputs"] if o.get("name") != "stderr"]
        for o in outs:
            o.get("data", {}).pop(WIDGET, None)
        cell["outputs"] = [o for o in outs if o.get("data", True)]
    clean_nb(nb)
    return nb2str(dict2nb(nb))


def lighter(text):
    "A notebook's text with its pictures in 64 colours, which charts need no more of: a third of the bytes."
    from PIL import Image

    nb = json.loads(text)
    outputs = [o for c in nb["cells"] for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    for o in outputs:
        picture = Image.open(io.BytesIO(base64.b64decode(o["data"]["image/png"])))
        if picture.mode == "P":  # was made lighter before
            continue
        small = io.BytesIO()
        picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        o["data"]["image/png"] = base64.b64encode(small.getvalue()).decode() + "\n"
    return cleaned(json.dumps(nb))


def clean():
    "Clean every notebook in place, the page of results also lighter; those that are clean are not touched."
    for p in notebooks():
        old = p.read_text(encoding="utf-8")
        new = cleaned(old)
        if p.name == "900_results.ipynb":
            new = lighter(new)
        if new != old:
            p.write_text(new, encoding="utf-8")
            print("cleaned", p.relative_to(ROOT))


def _from_root(md):
    "Relative links of a notebook in nbs/ as seen from the project's root."

    def link(m):
        to = m[2]
        if re.match(r"[a-z]+:|#|/|<", to):
            return m[0]
        return m[1] + os.path.normpath(f"nbs/{to}") + m[3]

    return re.sub(r"(\]\()([^)\s]+)(\))", link, re.sub(r'(src=")([^"]+)(")', link, md))


def readme_text(index=NBS / "index.ipynb"):
    """README.md, from the index notebook: prose, code and text outputs (pictures come in by links to tracked files).

    Of cells that say `#| echo: false`, the Markdown they show."""
    import nbformat
    from nbconvert import MarkdownExporter

    nb = nbformat.read(index, as_version=4)
    nb.metadata["language_info"] = {"name": "python"}
    nb.cells = [c for c in nb.cells if c.cell_type != "raw" and not re.search(r"^#\s*\|\s*hide\b", c.source, re.M)]
    for i, c in enumerate(nb.cells):
        if c.cell_type != "code":
            continue
        if re.search(r"^#\s*\|\s*echo:\s*false", c.source, re.M):
            nb.cells[i] = nbformat.v4.new_markdown_cell("\n\n".join(o["data"]["text/markdown"] for o in c.outputs))
            continue
        c.source = re.sub(r"^#\s*\|.*\n?", "", c.source, flags=re.M).strip()
        c.outputs = [o for o in c.outputs if not any(k.startswith("image/") or k == WIDGET for k in o.get("data", {}))]
    md = _from_root(MarkdownExporter().from_notebook_node(nb)[0])
    head = "<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook. -->\n\n"
    return head + re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", md, flags=re.M)).strip() + "\n"


def _rows(d, at=""):
    "(name, value) of every leaf of nested dicts."
    for k, v in d.items():
        if isinstance(v, dict):
            yield from _rows(v, f"{at}{k} / ")
        else:
            yield f"{at}{k}", f"{v:.3f}" if isinstance(v, float) else str(v)


def scores(folder):
    "Print the JSON files of scores in a folder as small tables."
    for p in sorted(Path(folder).glob("*.json")):
        data = json.loads(p.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            continue
        rows = list(_rows(data))
        wide = max((len(k) for k, _ in rows), default=0)
        print(f"\n{p.stem.replace('_', ' ')}")
        for k, v in rows:
            print(f"  {k:<{wide}}  {v}")


MEASURED = (
    "main",
    "speed",
    "growth",
    "steps",
    "replay",
    "attention",
    "crosstask",
    "conditions",
    "token_roles",
)  # the benchmarks whose reports are shipped


def _rounded(x):
    "Floats to five digits, all the way down."
    if isinstance(x, float):
        return float(f"{x:.5g}")
    if isinstance(x, dict):
        return {k: _rounded(v) for k, v in x.items()}
    return [_rounded(v) for v in x] if isinstance(x, list) else x


def measured(root=ROOT):
    """Take the reports of benchmarks, as `make bench-*` writes them, into the package.

    Prints with which weights each was made."""
    found = {
        k: json.loads(p.read_text(encoding="utf-8")) for k in MEASURED if (p := root / "bench" / f"{k}.json").exists()
    }
    for k, report in found.items():
        (root / "omnipersona" / "measured" / f"{k}.json").write_text(
            json.dumps(_rounded(report), separators=(",", ":")) + "\n", encoding="utf-8"
        )
        print(k, report["backbone"])


if __name__ == "__main__":
    job, args = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if job == "clean":
        clean()
    elif job == "readme":
        (ROOT / "README.md").write_text(readme_text(), encoding="utf-8")
    elif job == "measured":
        measured()
    elif job == "scores":
        scores(*args)
    else:
        sys.exit(__doc__)
