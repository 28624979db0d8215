"""What the site's page is made of: graphs, settings and sources. Browser: tests/test_browser_site.py.

Tests marked `site` need what `make site` builds; `make test-site` runs them."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import website
from conftest import ROOT
from helpers import random_backbone

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept, Concepts
from omnipersona.concept.replay import Replay
from omnipersona.concept.requests import SOMEONE
from omnipersona.course.browser_files import concept_rules, page_config, replay_templates, write_page_files
from omnipersona.course.browser_graphs import GRAPHS, LayersGraph, example_inputs
from omnipersona.course.course_concepts import COURSE_CONCEPTS
from omnipersona.course.graph_files import export_graph, is_exact
from omnipersona.model.generate import pack_for, prefill
from omnipersona.model.segments import LatentImage

TRY = ROOT / "site" / "try"
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")


# ---- settings -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_und,n_gen", [(16, 16), (1, 1), (4, 0)])
def test_the_prompt_of_any_concept(bb, n_und, n_gen):
    "What the page makes of the template is the prompt of the package."
    c, rules = Concept(bb, "maeve", None, n_und, n_gen), concept_rules(bb)
    ids = [rules["name_id"], *range(rules["first_id"], rules["first_id"] + n_und + n_gen)]
    filled = [i for p in rules["prompt"] for i in {"name": ids[:1], "tokens": ids[1:]}.get(p, [p])]
    assert ids == c.ids and filled == c.prompt_ids and rules["token"] == c.token
    assert rules["fingerprint"] == c.fingerprint and rules["width"] == c.embeddings.shape[1]


def test_the_wording_of_replay(bb):
    "Filled in, the templates are the texts that the package's own replay reads in its three passes."
    concepts, read, t = Concepts(bb, [Concept(bb, "maeve")]), [], replay_templates(bb)

    class Listening(Replay):
        def _pass(self, name, samples, texts, personal=False):
            read.append((samples[0], texts[0]))
            return []

    replay = Listening(bb, concepts)
    request, question, answer = "a photo of the toy of <maeve>", replay.config.examples[0][1], "a red kite"
    question = question.replace("{name}", "<maeve>")
    replay.intents([request])
    replay.rewrite([(request, [(question, answer)])])

    def named(text):
        return text.replace("<maeve>", "<name_0>")

    (segments, intent), (_, rewrite) = read
    assert t["intent"].format(request=named(request)) == intent
    told = t["told"].format(question=named(question), answer=answer)
    assert t["rewrite"].format(request=named(request), told=told) == rewrite
    assert [bb.tok(x) for x in t["examples"]] == [s.ids for s in segments[:-1]]


def test_settings_hold_the_backbone(bb):
    config = page_config(bb)
    assert json.loads(json.dumps(config)) is not None and config["someone"] == SOMEONE
    own = dict(config["own_tokens"])
    assert own[bb.tok.special["bos"]] in config["control"] and set(bb.tok.names) <= set(own.values())
    assert config["presets"]["draw"]["num_timesteps"] == bb.presets["draw"].num_timesteps


def test_files_of_the_page(bb, tmp_path):
    "Concepts of these weights are copied with pictures; those of others are left out; none at all is refused."
    entry = COURSE_CONCEPTS[0]
    folders = tmp_path / "concepts"
    Concept(bb, entry.name, facts={"toy": "a red kite"}).save_pretrained(folders / entry.folder)
    other = random_backbone(seed=5)
    Concept(other, COURSE_CONCEPTS[1].name).save_pretrained(folders / COURSE_CONCEPTS[1].folder)
    config = write_page_files(bb, tmp_path / "page", folders)
    assert [c["folder"] for c in config["concepts"]] == [entry.folder] and config["concepts"][0]["requests"]["ask"]
    assert json.loads(json.dumps(config)) == json.loads((tmp_path / "page" / "config.json").read_text())
    inside = sorted(p.name for p in (tmp_path / "page" / "concepts" / entry.folder).iterdir())
    assert inside == ["0.png", "1.png", "2.png", "3.png", "adapter_model.safetensors", "concept.json"]
    with pytest.raises(OmniError, match="make course-concepts"):
        write_page_files(random_backbone(seed=6), tmp_path / "none", folders)


# ---- graphs ---------------------------------------------------------------------------------------------------------
def test_a_step_of_drawing_through_the_graph(bb, concept):
    "After a cached request, the layers' module gives the velocities of the model, and weights that add up to 1."
    cache = prefill(bb.model, [[concept.prompt()]], concept=concept)
    canvas = LatentImage(bb.initial_noise([3])[0], bb.grid, 0.7)
    b = pack_for(bb.model, [[canvas]], None, cache.position.tolist())
    und, gen = bb.model.embed(b)
    mask = torch.cat([torch.ones(1, b.mask.shape[1], len(cache), dtype=torch.bool), b.mask], 2)
    with torch.no_grad():
        want = bb.model.velocity(bb.model(b, cache).gen)
        _, v, keys, _, weights = LayersGraph(bb)(
            und, gen, b.position, mask, torch.stack(cache.keys), torch.stack(cache.values)
        )
    assert torch.allclose(v, want, atol=1e-5) and keys.shape[3] == b.position.shape[1]
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-4)
    assert all(layer.self_attn.observer is None for layer in bb.model.language_model.model.layers)


def test_only_exact_weights_become_shorter():
    assert is_exact(torch.randn(50).bfloat16().float().numpy()) and not is_exact(np.float32([1 / 3]))
    assert not is_exact(np.float32([70_000.0])) and not is_exact(np.float32([np.nan]))


def test_without_onnx_there_is_a_sentence(bb, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OmniError, match="make site"):
        export_graph(bb, "words", tmp_path / "words.onnx")


PARITY = """
import sys, json, numpy as np, onnxruntime, torch
from omnipersona.course.browser_graphs import GRAPHS, INPUTS, OUTPUTS, example_inputs
from omnipersona.model.loading import load_backbone
bb, far = load_backbone("tiny"), {}
lengths = [dict(und=2, gen=bb.grid[0] * bb.grid[1], past=33), dict(und=1, gen=0, past=0), dict(und=40, gen=16, past=1)]
for name in GRAPHS:
    s = onnxruntime.InferenceSession(f"{sys.argv[1]}/{name}.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in s.get_inputs()] == list(INPUTS[name])
    for n in lengths if name == "layers" else [{}]:
        x = example_inputs(bb, name, 1, **n)
        with torch.no_grad():
            want = GRAPHS[name](bb)(*x)
        got = s.run(list(OUTPUTS[name]), {k: v.numpy() for k, v in zip(INPUTS[name], x)})
        for out, w, g in zip(OUTPUTS[name], want if isinstance(want, tuple) else (want,), got):
            assert tuple(w.shape) == g.shape, (name, out)
            far[f"{name} {out} {n.get('past', '')}"] = float(np.abs(w.numpy() - g).max()) if g.size else 0.0
print(json.dumps(far))
"""


@pytest.mark.site
def test_every_graph_equals_its_module():
    "Each file, run by onnxruntime with lengths that the tracing did not see, gives what PyTorch gives."
    python = ROOT / ".venv-site" / "bin" / "python"
    if not python.exists():
        pytest.skip("needs .venv-site: make site")
    folder = website.graphs(ROOT / ".venv-site")
    run = subprocess.run([python, "-W", "ignore", "-c", PARITY, folder], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    far = json.loads(run.stdout.strip().split("\n")[-1])
    assert {k.split()[0] for k in far} == set(GRAPHS) and max(far.values()) < 1e-4, far
    assert sum(p.stat().st_size for p in folder.glob("*.onnx")) < 40e6


def test_inputs_differ_from_seed_to_seed(bb):
    a, b = (example_inputs(bb, "see", seed)[0] for seed in (0, 1))
    assert not torch.equal(a, b) and torch.equal(a, example_inputs(bb, "see", 0)[0])


# ---- the page's JavaScript, as far as Node.js can run it ------------------------------------------------------------
def node(code, **given):
    "What a module prints as JSON; it finds `given` as a constant."
    text = f"const given = {json.dumps(given)};\n{code}"
    run = subprocess.run(["node", "--input-type=module", "-e", text], cwd=TRY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@needs_node
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_noise_is_torchs(bb, seed):
    code = 'import { normal } from "./noise.js"; console.log(JSON.stringify([...normal(given.n, given.seed)]))'
    want = bb.initial_noise([seed])[0].flatten()
    got = torch.tensor(node(code, n=len(want), seed=seed))
    assert (got - want).abs().max() < 1e-5
    odd = torch.randn(37, generator=torch.Generator().manual_seed(seed))
    assert (torch.tensor(node(code, n=37, seed=seed)) - odd).abs().max() < 1e-5


@needs_node
def test_masks_and_positions_are_pythons(bb, concept):
    "A prompt, a picture to see, a text and a canvas: who sees whom, and where each token stands."
    code = """import { pack, visible } from "./model.js";
    const p = pack(given.segments, given.special, new Set(given.gen), 5), all = [...p.und, ...p.gen];
    console.log(JSON.stringify({ mask: [...visible(all, 3)], position: all.map((t) => t.position), next: p.next }))"""
    from omnipersona.model.segments import Text, ViTImage

    n = bb.grid[0] * bb.grid[1]
    seen = ViTImage(torch.zeros(9, bb.model.config.vit_config["hidden_size"]), (3, 3))
    ids, canvas = bb.tok("a photo of a red ball"), LatentImage(bb.initial_noise([0])[0], bb.grid, 0.5)
    b = pack_for(bb.model, [[concept.prompt(), seen, Text(ids), canvas]], concept, 5)
    segments = [dict(ids=concept.prompt_ids), dict(seen=True, count=9), dict(ids=ids), dict(count=n, noised=True)]
    got = node(code, segments=segments, special=bb.model.config.special, gen=sorted(concept.gen_ids))
    length = b.mask.shape[1]
    mask = torch.tensor(got["mask"], dtype=torch.bool).view(length, 3 + length)
    assert mask[:, :3].all() and torch.equal(mask[:, 3:], b.mask[0])
    assert got["position"] == b.position[0].tolist() and got["next"] == int(b.next_position[0])


@needs_node
@pytest.mark.parametrize("renorm", ["global", "text_channel", "channel", "none"])
def test_guidance_and_times_are_pythons(renorm):
    from omnipersona.model.flow import SamplingConfig, guide, time_grid

    s = SamplingConfig(9, 3.0, 4.0, 1.0, (0.0, 1.0), renorm, 0.2)
    v, u = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    code = """import { guide, timeGrid } from "./model.js";
    const f = (x) => Float32Array.from(x);
    console.log(JSON.stringify([[...guide(f(given.v), f(given.u), given.s, 4)], timeGrid(given.s)]))"""
    given = dict(v=v.flatten().tolist(), u=u.flatten().tolist())
    guided, times = node(code, s=dict(vars(s)), **given)
    want = guide(v[None], u[None], None, s).flatten()
    assert torch.allclose(torch.tensor(guided), want, atol=1e-5)
    assert torch.allclose(torch.tensor(times), time_grid(9, 3.0), atol=1e-6)


def test_nothing_from_elsewhere():
    "No page of the site names another host, except links that a person may follow."
    for p in [*TRY.iterdir(), *(ROOT / "site" / "assets").iterdir(), ROOT / "site" / "mkdocs.yml"]:
        hosts = re.findall(r"https?://[\w.-]+", p.read_text(encoding="utf-8"))
        assert set(hosts) <= {"http://www.w3.org"}, (p.name, hosts)


def test_the_readme_names_the_address_of_the_site():
    "The one to which the workflow publishes; on the site itself these links are relative."
    import configparser

    settings = configparser.ConfigParser(interpolation=configparser.BasicInterpolation())
    settings.read(ROOT / "settings.ini")
    own = settings["DEFAULT"]
    assert website.ADDRESS == f"{own['doc_host']}{own['doc_baseurl']}/"
    assert f"]({website.ADDRESS}try/index.html)" in (ROOT / "README.md").read_text(encoding="utf-8")
    there = website._prose(f"[page]({website.ADDRESS}try/index.html)", "../")
    assert there == "[page](../try/index.html)"


def test_links_to_files_that_are_no_pages_lead_to_the_repository():
    nb = ROOT / "nbs" / "tutorials" / "01_quickstart.ipynb"
    text = "[a](../../CHANGELOG.md) [b](../glossary.ipynb) [c](../../tests/zoo.py#L3) [d](02_unified_model.ipynb)"
    at = website.SOURCES
    want = f"[a]({at}CHANGELOG.md) [b](../glossary.ipynb) [c]({at}tests/zoo.py#L3) [d](02_unified_model.ipynb)"
    assert website._to_sources(text, nb) == want


def test_no_size_of_one_edition_in_the_page(bb):
    "Sizes come from config.json: the sources hold neither the number of tokens nor sizes of pictures and layers."
    for p in TRY.glob("*.js"):
        code = re.sub(r"//.*", "", p.read_text(encoding="utf-8"))
        assert not re.findall(r"(?<![\w.#])(?:33|64|60|96|372|116|256|2048)(?![\w.%])", code), p.name


def test_without_npm_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(website, "SITE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "package-lock.json").write_text("{}")
    with pytest.raises(SystemExit, match="npm is missing"):
        website.packages()
