"""The Colab notebook, top to bottom, without Colab and without a GPU: on a small random checkpoint in BAGEL's layout.

(`make test` also runs it on the tiny backbone.)"""

import re

import nbformat
from conftest import ROOT

from omnipersona.model.bagel import random_checkpoint

NB = ROOT / "nbs" / "tutorials" / "05_bagel_on_colab.ipynb"


def test_it_runs_on_the_official_layout(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("OMNIPERSONA_BACKBONE", str(random_checkpoint(tmp_path / "bagel-small")))
    monkeypatch.setenv("OMNIPERSONA_STEPS", "8")
    monkeypatch.setenv("OMNIPERSONA_DEMO_DIR", str(tmp_path))
    nb = nbformat.read(NB, 4)
    NotebookClient(nb, timeout=300, kernel_name="python3", resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    said = "".join(o.get("text", "") for c in nb.cells for o in c.get("outputs", []))
    assert "bagel-small" in said and "cut off after 4 steps" in said and "finished with 8 steps" in said
    assert (tmp_path / "colab" / "rex_concept" / "adapter_model.safetensors").exists()


def test_the_install_keeps_what_colab_brings():
    "Everything whose upgrade needs a restart is held; torch is never named in an install."
    code = [c["source"] for c in nbformat.read(NB, 4).cells if c["cell_type"] == "code"]
    source = next(s for s in code if "pip install" in s)
    held = set(re.findall(r'"([\w.]+)"', source.split("keep = ")[1].split("}")[0]))
    assert held >= {"torch", "numpy", "ipywidgets", "ipython", "ipykernel"}
    install = re.search(r"pip install[^\n]*", source)[0]
    assert "-c keep.txt" in install and not re.search(r"-U\b|--upgrade|\btorch\b", install)
