"Loading and saving what is larger than memory: by byte ranges, checked before a download, stored in four bits."

import errno
import json
import logging
import os
import shutil
import struct
import threading
import time
from fnmatch import fnmatch
from types import SimpleNamespace

import bitsandbytes
import huggingface_hub
import pytest
import torch
from huggingface_hub.hf_api import RepoFile
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from omnipersona import model_files, tensor_files
from omnipersona.basics import OmniError
from omnipersona.hub_files import folder_name
from omnipersona.model.bagel import fill, random_checkpoint
from omnipersona.model.bagel_config import BAGEL_7B, empty_mot, mot_config
from omnipersona.model.loading import load_backbone
from omnipersona.model.quant import quantise_layers, stored_parts
from omnipersona.model_files import write_tensors
from omnipersona.tensor_files import TensorFiles

FORMATS = [(None, torch.bfloat16), ("nf4", torch.float16), ("nf4", torch.bfloat16), ("int8", torch.float16)]
COMMIT = "0a1b2c3d4e" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("official") / "bagel-small")


@pytest.fixture(scope="module")
def four(folder):
    return load_backbone(folder, torch.float16, "cpu", quant="nf4")


@pytest.fixture
def saved(four, tmp_path, monkeypatch):
    "An NF4 backbone in a folder with several weight files."
    monkeypatch.setattr(model_files, "FILE_BYTES", 100_000)
    four.save_pretrained(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("model-*.safetensors"))) > 2
    return tmp_path / "saved"


def equal_weights(a, b):
    "Whether two modules have the same tensors, to the last bit and in the same formats."
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(v, y[k]) and v.dtype == y[k].dtype for k, v in x.items())


def read_nothing(monkeypatch):
    "From here on, reading a weight fails the test."

    def refuse(*a, **k):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(TensorFiles, "read", refuse)


# ---- larger than memory -------------------------------------------------------------------------------------------
def sparse_file(path, shapes, dtype="BF16"):
    "A safetensors file of zeros that takes no room on the disk."
    table, at = {}, 0
    for k, shape in shapes.items():
        n = 2 * torch.Size(shape).numel()
        table[k] = dict(dtype=dtype, shape=list(shape), data_offsets=[at, at + n])
        at += n
    header = json.dumps(table).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        f.truncate(8 + len(header) + at)
    return path


def test_a_file_larger_than_memory_is_read(tmp_path):
    "Linux refuses to map it; its tensors can be read all the same, and so can BAGEL's 29 GB where there are 12.7."
    if not hasattr(os, "sysconf"):
        pytest.skip("the memory of this machine is not known")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    path = sparse_file(tmp_path / "sparse", dict(large=(memory // 2 + 2**31,), weight=(8, 16)))
    try:
        with safe_open(str(path), "pt"):
            print("this machine maps more than it has")
    except Exception as e:
        assert "allocate" in str(e) or "mmap" in str(e)
    with torch.device("meta"):
        module = nn.Linear(16, 8, bias=False)
    with TensorFiles(path) as files:
        fill(module, files, torch.float32, "cpu")
    assert torch.equal(module.weight, torch.zeros(8, 16)) and path.stat().st_size > memory


def own_memory():
    "Anonymous bytes of this process, as Linux counts them."
    try:
        status = open("/proc/self/status").read()
        return 1024 * int(status.split("RssAnon:")[1].split()[0])
    except (OSError, IndexError):
        pytest.skip("needs /proc/self/status")


class Watch:
    "The most anonymous memory that the process takes within the block, beside what it had."

    def __enter__(self):
        self.before, self.most, self.over = own_memory(), 0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.over.is_set():
            self.most = max(self.most, own_memory() - self.before)
            time.sleep(0.002)

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()


def test_reading_takes_no_memory_beside_the_model(tmp_path):
    "1.2 GB go to another device, one matrix of them 0.6 GB; beside the pieces, nothing is taken on the CPU."
    with torch.device("meta"):
        module = nn.ModuleList([nn.Linear(2**14, n, bias=False) for n in (18_000, *[800] * 23)])
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    with TensorFiles(sparse_file(tmp_path / "sparse", shapes)) as files, Watch() as watch:
        signatures = fill(module, files, torch.float16, "meta")
    assert len(signatures) == 24 and watch.most < 3 * tensor_files.PIECE_BYTES


def test_a_bar_says_how_long_it_takes(folder, tmp_path, monkeypatch, capsys):
    "For large files only; a student sees bytes, seconds and what is left, while reading and while writing."
    b = load_backbone(folder, torch.float32, "cpu")
    assert "bagel-small" not in capsys.readouterr().err
    monkeypatch.setattr(tensor_files, "SHOWN_BYTES", 0)
    load_backbone(folder, torch.float32, "cpu")
    b.save_pretrained(tmp_path / "b")
    said = capsys.readouterr().err
    for doing in ("reading bagel-small", "writing"):
        assert doing in said
    assert "100%" in said and "B/s" in said and "<" in said


# ---- before a download --------------------------------------------------------------------------------------------
class FakeHub:
    "A repository on the hub whose files lie in a folder. `downloaded`: the patterns that were asked for."

    def __init__(self, source, cache, tables=None):
        self.source, self.cache, self.tables, self.downloaded = source, cache, tables or {}, []

    def __call__(self, token=None):
        return self

    def model_info(self, repo, revision=None, files_metadata=False, timeout=None):
        files = [SimpleNamespace(rfilename=p.name, size=p.stat().st_size) for p in self.source.iterdir()]
        return SimpleNamespace(sha=COMMIT, siblings=files)

    def list_repo_tree(self, repo, recursive=False, revision=None):
        return [RepoFile(path=p.name, size=p.stat().st_size, oid="1" * 40) for p in self.source.iterdir()]

    def parse_safetensors_file_metadata(self, repo, file, revision=None):
        tensors = {}
        for k, t in (load_file(self.source / file) | self.tables.get(file, {})).items():
            tensors[k] = SimpleNamespace(shape=list(t.shape), data_offsets=(0, 4))
        return SimpleNamespace(tensors=tensors)

    def snapshot_download(self, repo, allow_patterns, revision=None, local_files_only=False):
        if local_files_only:
            raise OSError("not in the cache")
        self.downloaded.append(allow_patterns)
        folder = self.cache / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT
        folder.mkdir(parents=True, exist_ok=True)
        for p in self.source.iterdir():
            if any(fnmatch(p.name, pattern) for pattern in allow_patterns):
                shutil.copy(p, folder)
        return str(folder)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    "hub(source, tables): a hub with this repository and no other."

    def make(source, tables=None):
        fake = FakeHub(source, tmp_path / "cache", tables)
        monkeypatch.setattr(huggingface_hub, "HfApi", fake)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
        return fake

    return make


@pytest.mark.parametrize("name", ["bagel-7b-mot", "somebody/their-bagel"])
def test_a_snapshot_is_called_what_the_hub_calls_it(folder, hub, name):
    "The name in messages and in a concept is the repository and its commit; the fingerprint is that of the weights."
    hub(folder)
    b = load_backbone(name, torch.float32, "cpu")
    repo = dict([("bagel-7b-mot", "ByteDance-Seed/BAGEL-7B-MoT")]).get(name, name)
    assert b.name == f"{repo}@{COMMIT[:12]}" and COMMIT not in b.name
    assert b.fingerprint == load_backbone(folder, torch.float32, "cpu").fingerprint


@pytest.mark.parametrize("path,name", [("a/tiny", "tiny"), ("snapshots/" + COMMIT, COMMIT), ("models--a--b/x/y", "y")])
def test_other_folders_keep_their_names(path, name):
    assert folder_name(path) == name


def test_headers_are_compared_before_the_download(folder, hub):
    "Weights of another model, and an autoencoder of another: only the small files were fetched."
    for file, wrong in (("ema.safetensors", "llm2vae.bias"), ("ae.safetensors", "decoder.conv_in.bias")):
        fake = hub(folder, {file: {wrong: torch.zeros(3)}})
        with pytest.raises(OmniError, match=rf"bagel-7B.*{file}.*{wrong} \[3\]|BAGEL-7B.*{file}.*{wrong} \[3\]"):
            load_backbone("bagel-7b-mot", torch.float32, "cpu")
        assert not any(fnmatch(file, p) for patterns in fake.downloaded for p in patterns)


def test_a_repository_without_a_file_is_refused_before_the_download(folder, hub, tmp_path):
    half = shutil.copytree(folder, tmp_path / "half")
    (half / "ae.safetensors").unlink()
    fake = hub(half)
    with pytest.raises(OmniError, match="BAGEL-7B-MoT: ae.safetensors missing.*nothing was downloaded"):
        load_backbone("bagel-7b-mot", torch.float32, "cpu")
    assert not fake.downloaded


def test_an_upload_that_stopped_is_noticed_before_the_download(folder, hub, monkeypatch):
    fake = hub(folder)
    table = SimpleNamespace(tensors=dict(a=SimpleNamespace(shape=[1], data_offsets=(0, 10**11))))
    monkeypatch.setattr(fake, "parse_safetensors_file_metadata", lambda *a, **k: table, raising=False)
    with pytest.raises(OmniError, match="ema.safetensors on the hub has .* bytes, and its table says 100,000,000,000"):
        load_backbone("bagel-7b-mot", torch.float32, "cpu")
    assert not fake.downloaded


def test_a_full_disk_is_said_before_the_download(folder, hub, monkeypatch):
    true = shutil.disk_usage
    fake = hub(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda p: true(p)._replace(free=50_000))
    with pytest.raises(OmniError, match="BAGEL-7B-MoT.*free.*nothing was downloaded"):
        load_backbone("bagel-7b-mot", torch.float32, "cpu")
    assert not any("ema.safetensors" in patterns for patterns in fake.downloaded)


# ---- saved and loaded ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("quant,dtype", FORMATS)
def test_a_saved_bagel_is_the_same_to_the_last_bit(folder, tmp_path, monkeypatch, quant, dtype):
    "Weights, formats, fingerprint, tokenizer, resizes, presets, answers; and nothing is quantised a second time."
    b = load_backbone(folder, dtype, "cpu", quant=quant)
    b.save_pretrained(tmp_path / "saved")

    def refuse(*a, **k):
        raise AssertionError("quantised again")

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", refuse)
    monkeypatch.setattr(bitsandbytes.functional, "int8_vectorwise_quant", refuse)
    again = load_backbone(tmp_path / "saved", dtype, "cpu")
    monkeypatch.undo()
    assert equal_weights(b.model, again.model) and equal_weights(b.ae, again.ae)
    assert again.fingerprint == b.fingerprint and again.settings() == b.settings() and again.dtype == b.dtype
    ask = [[b.text("What is this?")]]
    assert (
        again.generate_text(ask, max_new_tokens=3)[0][1].logprobs
        == b.generate_text(ask, max_new_tokens=3)[0][1].logprobs
    )
    again.save_pretrained(tmp_path / "twice")
    one, two = ((tmp_path / f / "model.safetensors").read_bytes() for f in ("saved", "twice"))
    assert one == two


def test_a_float32_copy_of_a_half_precision_file_is_stored_as_it_was(folder, tmp_path):
    "No bit is lost, and none is added: float32 in memory, bfloat16 in the file, as the original."
    half = shutil.copytree(folder, tmp_path / "half")
    save_file({k: v.bfloat16() for k, v in load_file(half / "ema.safetensors").items()}, half / "ema.safetensors")
    b = load_backbone(half, torch.float32, "cpu")
    b.save_pretrained(tmp_path / "saved")
    assert {t.dtype for t in load_file(tmp_path / "saved" / "model.safetensors").values()} == {torch.bfloat16}
    assert equal_weights(load_backbone(tmp_path / "saved", torch.float32, "cpu").model, b.model)


def test_a_saved_folder_takes_the_options_of_bagel(folder, tmp_path):
    "Another size of pictures, and quantised while it is read; but not quantised twice."
    load_backbone(folder, torch.float32, "cpu").save_pretrained(tmp_path / "full")
    b = load_backbone(tmp_path / "full", torch.float32, "cpu", quant="nf4", image_size=64)
    assert equal_weights(b.model, load_backbone(folder, torch.float32, "cpu", quant="nf4").model) and b.size == 64
    b.save_pretrained(tmp_path / "four")
    assert load_backbone(tmp_path / "four", quant="nf4", image_size=128).size == 128
    with pytest.raises(OmniError, match="quant='int8'.*nf4 already"):
        load_backbone(tmp_path / "four", quant="int8")
    with pytest.raises(OmniError, match="image_size=100"):
        load_backbone(tmp_path / "four", image_size=100)


def test_several_files_are_one_model(saved, four):
    "The files are what other tools read, with an index; together they are the backbone."
    again = load_backbone(saved, torch.float16, "cpu")
    assert equal_weights(four.model, again.model) and again.fingerprint == four.fingerprint
    index = json.loads((saved / "model.safetensors.index.json").read_text())["weight_map"]
    assert all(k in load_file(saved / file) for k, file in index.items()) and len(set(index.values())) > 2


def test_the_real_size_fits_a_drive():
    "Counted on the meta device: the NF4 weights of BAGEL-7B-MoT, with their scales."
    model = empty_mot(mot_config(**BAGEL_7B))
    quantise_layers(model.language_model.model.layers, "nf4", torch.bfloat16)
    n = 0
    for name, p in model.named_parameters():
        for kind, shape in stored_parts(name, p).values():
            n += 300 if shape is None else torch.Size(shape).numel() * (kind or torch.bfloat16).itemsize
    print(f"{n / 1e9:.2f} GB")
    assert 9e9 < n < 10.5e9


# ---- what can be wrong with a saved folder ------------------------------------------------------------------------
def first(folder):
    return sorted(folder.glob("model-*.safetensors"))[0]


def in_header(change):
    "The table of the first file, changed; the length of the file stays."

    def damage(folder):
        path = first(folder)
        data = path.read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        table = json.loads(data[8 : 8 + n])
        change(table, [k for k in table if k != "__metadata__"])
        header = json.dumps(table).encode()
        path.write_bytes(struct.pack("<Q", n) + header + b" " * (n - len(header)) + data[8 + n :])

    return damage


def overlap(table, names):
    a, b = (table[k]["data_offsets"] for k in names[-2:])
    b[:] = [a[0], a[0] + b[1] - b[0]]


def flat(table, names):
    name = next(k for k in names if len(table[k]["shape"]) > 1)
    table[name]["shape"] = [torch.Size(table[name]["shape"]).numel()]


def floats(table, names):
    name = next(k for k in names if table[k]["dtype"] == "U8" and k.endswith(".absmax"))
    table[name].update(dtype="I8")


def two_shards(folder):
    "A second name for what another file has."
    a, b = sorted(folder.glob("model-*.safetensors"))[:2]
    shutil.copy(a, b)
    about = json.loads((folder / "backbone.json").read_text())
    about["weights"][b.name] = b.stat().st_size
    (folder / "backbone.json").write_text(json.dumps(about))


def other_names(folder):
    about = json.loads((folder / "backbone.json").read_text())
    about["weights"] = {"../../elsewhere.safetensors": 5}
    (folder / "backbone.json").write_text(json.dumps(about))


def without(name):
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "a file is missing": (lambda f: first(f).unlink(), "model-00001-of-.* is missing"),
    "a file is cut off": (lambda f: os.truncate(first(f), first(f).stat().st_size - 1), "model-00001.*is not complete"),
    "a file is too long": (lambda f: first(f).open("ab").write(b"!"), "model-00001.*is not complete"),
    "a file is empty": (lambda f: os.truncate(first(f), 0), "model-00001.*has 0 bytes"),
    "a header is none": (lambda f: first(f).open("r+b").write(b"\xff" * 8), "model-00001.*no whole safetensors table"),
    "tensors overlap": (in_header(overlap), "model-00001.*begins at byte"),
    "a shape lies": (in_header(flat), "of other shape than the configs say"),
    "a format lies": (in_header(floats), "absmax holds torch.int8, and torch.uint8 is needed"),
    "one tensor in two files": (two_shards, "is in .*too"),
    "files of elsewhere": (other_names, "no file of weights"),
    "no signatures of another": (lambda f: (f / "signatures.json").write_text('{"a": "00"}'), "signatures.json is of"),
    "no tokenizer": (without("tokenizer.json"), "tokenizer.json is missing"),
    "no backbone.json": (without("backbone.json"), "backbone.json is missing"),
    "no autoencoder": (without("ae/diffusion_pytorch_model.safetensors"), "ae/diffusion_pytorch_model.*is missing"),
}
LATE = "no signatures of another"  # is found when the weights are known


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_before_a_weight_is_read(saved, monkeypatch, kind):
    damage, said = DAMAGES[kind]
    damage(saved)
    if kind != LATE:
        read_nothing(monkeypatch)
    with pytest.raises(OmniError, match=said):
        load_backbone(saved, torch.float16, "cpu")


def test_false_numbers_of_a_matrix_are_refused(saved):
    "The JSON beside the codes says another shape: bitsandbytes would read beyond them."
    for file in sorted(saved.glob("model-*.safetensors")):
        tensors = load_file(file)
        with safe_open(file, "pt") as f:
            about = f.metadata()
        for k, t in tensors.items():
            if k.endswith("bitsandbytes__nf4"):
                state = bytes(t.tolist()).replace(b'"shape": [64, 64]', b'"shape": [99, 64]')
                tensors[k] = torch.tensor(list(state), dtype=torch.uint8)
        size = file.stat().st_size
        save_file(tensors, file, about)
        if file.stat().st_size != size:  # another writer pads its header in another way
            about = json.loads((saved / "backbone.json").read_text())
            about["weights"][file.name] = file.stat().st_size
            (saved / "backbone.json").write_text(json.dumps(about))
    with pytest.raises(OmniError, match="quant_state does not fit"):
        load_backbone(saved, torch.float16, "cpu")


def test_files_of_two_backbones_are_not_mixed(four, tmp_path):
    "A copy that stopped between two files: as many bytes, the same names and shapes, other weights."
    other = load_backbone(random_checkpoint(tmp_path / "other", seed=1), torch.float16, "cpu", quant="nf4")
    other.name = four.name
    for b, name in ((four, "a"), (other, "b")):
        b.save_pretrained(tmp_path / name)
    mine, theirs = (tmp_path / name / "model.safetensors" for name in "ab")
    assert mine.stat().st_size == theirs.stat().st_size
    shutil.copy(theirs, mine)
    with pytest.raises(OmniError, match="two backbones"):
        load_backbone(tmp_path / "a", torch.float16, "cpu")


# ---- saving that does not come to its end -------------------------------------------------------------------------
def test_an_interrupted_save_leaves_nothing_half(saved, four, tmp_path, monkeypatch):
    "The stop button during the second file: no new folder, and the old one is what it was."
    written = model_files._write_file
    before = {p.name: p.read_bytes() for p in saved.glob("*.*")}
    for target in (tmp_path / "new", saved):
        n = []

        def stop(*args, n=n):
            n.append(1)
            if len(n) == 2:
                raise KeyboardInterrupt
            written(*args)

        monkeypatch.setattr(model_files, "_write_file", stop)
        with pytest.raises(KeyboardInterrupt):
            four.save_pretrained(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]
    assert {p.name: p.read_bytes() for p in saved.glob("*.*")} == before


def test_a_full_disk_is_said_before_anything_is_written(saved, four, tmp_path, monkeypatch):
    true = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda p: true(p)._replace(free=1000))
    with pytest.raises(OmniError, match="new: .*needs .* are free there; nothing was written"):
        four.save_pretrained(tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]


def test_a_disk_that_fills_on_the_way_loses_nothing(saved, four, tmp_path, monkeypatch):
    "A Drive that counts its space wrongly, or disappears: said, and what was saved before still loads."

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_files, "_write_file", full)
    for target in (tmp_path / "new", saved):
        with pytest.raises(OmniError, match=f"{target.name}: cannot be written .No space left.*still there"):
            four.save_pretrained(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]
    assert equal_weights(load_backbone(saved, torch.float16, "cpu").model, four.model)


def test_smaller_files_over_larger_ones(saved, folder):
    "Another save into the same folder: the files that are left over belong to nothing and are not read."
    b = load_backbone(folder, torch.bfloat16, "cpu")
    b.save_pretrained(saved)
    assert equal_weights(load_backbone(saved, torch.bfloat16, "cpu").model, b.model)


def test_a_shared_tensor_is_written_twice(tmp_path):
    "Quantised layers share their tables; the library's writer refuses this."
    t = torch.arange(6.0)
    tensors = dict(a=t, b=t, c=t[2:4])
    write_tensors(tmp_path, tensors, {k: torch.float32 for k in tensors}, {})
    assert all(torch.equal(v, tensors[k]) for k, v in load_file(tmp_path / "model.safetensors").items())


# ---- quantisation -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("third", ["current_key_name", "quantization_config"])  # of transformers 4.57 and of 5
def test_both_versions_of_transformers_get_the_settings(monkeypatch, third):
    "4.57 has another argument in third place; what is passed by name arrives in both."
    from transformers.integrations import bitsandbytes as integration

    given = {}

    def old(model, modules_to_not_convert=None, current_key_name=None, quantization_config=None):
        given.update(config=quantization_config, skipped=modules_to_not_convert, key=current_key_name)
        return model

    def new(model, modules_to_not_convert=None, quantization_config=None, pre_quantized=False):
        given.update(config=quantization_config, skipped=modules_to_not_convert, key=None)
        return model

    monkeypatch.setattr(integration, "replace_with_bnb_linear", old if third == "current_key_name" else new)
    quantise_layers(nn.ModuleList(), "nf4", torch.float16)
    assert given["config"].load_in_4bit and given["config"].bnb_4bit_compute_dtype == torch.float16
    assert given["skipped"] == [] and given["key"] is None


def test_int8_says_nothing_at_every_layer(folder, caplog, recwarn):
    "bitsandbytes would warn 2,700 times a step that it computes in float16."
    b = load_backbone(folder, torch.float32, "cpu", quant="int8")
    with caplog.at_level(logging.DEBUG):
        b.generate_text([[b.text("What is this?")]], max_new_tokens=2)
    said = [r.getMessage() for r in caplog.records] + [str(w.message) for w in recwarn]
    assert not [s for s in said if "MatMul8bitLt" in s]


def test_no_format_is_chosen_by_itself(folder):
    "Without `quant`, no weight is quantised; int8 is never a default."
    kinds = {type(p) for p in load_backbone(folder, torch.float32, "cpu").model.parameters()}
    assert kinds == {nn.Parameter}
