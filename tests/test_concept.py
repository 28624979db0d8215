"Concept tokens from a user's side: 33 embeddings and nothing else, on disk and back, alone and together, for peft too."

import copy
import errno
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import QUICK, apart, defaults, random_backbone, same, unchanged, weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import omnipersona.concept.concept as concept_module
from omnipersona.basics import OmniError
from omnipersona.concept.concept import KEY, Concept, Concepts, TextPrompt
from omnipersona.concept.losses import task_losses
from omnipersona.concept.persona import Persona
from omnipersona.concept.sampling import EncodedData, SamplesPerStep, step_samples
from omnipersona.concept.tokens import concept_capacity, concept_token_ids, initial_embeddings, splice
from omnipersona.model.segments import pack


def lay(bb, segs, gen_ids=frozenset()):
    return pack(segs, bb.model.special, bb.model.config.latent_channels, gen_ids)


def fresh(bb, name="maeve", seed=0, **kw):
    "A concept of random embeddings that are far from what they begin as."
    c = Concept(bb, name, **kw)
    c.embeddings.data.copy_(torch.randn(c.embeddings.shape, generator=torch.Generator().manual_seed(seed)))
    return c


@pytest.fixture(scope="module")
def other():
    return random_backbone(1)


# ---- nothing else changes -----------------------------------------------------------------------------------------
def test_no_concept_leaves_the_backbone_untouched(bb, concept, world):
    "Bit for bit: while a concept is loaded and not named, words, drawings and edits are those of the bare backbone."
    photo = world.photo(seed=4).image
    ask = [[*bb.encode_vit(photo), bb.text("what is in the photo ?")]]
    edit = [bb.encode_source(photo)[0] + [bb.text("make the dog blue")]]
    bare = bb.generate_text(ask, max_new_tokens=6)
    for loaded in (concept, Concepts(bb, [concept])):
        assert bb.generate_text(ask, loaded, max_new_tokens=6) == bare
    for request, negative in (([[bb.text("a photo of a red dog")]], "all"), (edit, "last")):
        (plain,) = bb.generate_images(request, [0], QUICK, negative=negative)
        (loaded,) = bb.generate_images(request, [0], QUICK, concept, negative=negative)
        assert same(plain, loaded)
    with torch.no_grad():
        b = lay(bb, ask + edit)
        plain, loaded = bb.model(b), bb.model(b, splice=concept.splice)
    assert torch.equal(plain.und, loaded.und) and torch.equal(plain.gen, loaded.gen)


def test_only_its_embeddings_get_gradients(bb, data):
    "And all 33 do, from the tasks that concern them."
    c = fresh(bb)
    before = weights(bb.model), weights(bb.ae)
    assert [n for n, p in c.named_parameters() if p.requires_grad] == ["embeddings"]
    assert c.embeddings.shape == (33, bb.model.config.hidden_size)
    batch = step_samples(EncodedData(bb, data), SamplesPerStep(copies=2), torch.Generator().manual_seed(0))
    sum(loss / n for loss, n in task_losses(bb, c, batch).values()).backward()
    assert c.embeddings.grad.abs().sum(1).gt(0).all()
    assert all(p.grad is None and not p.requires_grad for m in (bb.model, bb.ae) for p in m.parameters())
    assert unchanged(bb.model, before[0]) and unchanged(bb.ae, before[1])


def test_learning_leaves_the_backbone_as_it_was(bb, concept):
    "`concept` was learnt with this backbone; one made from the same seed has the same weights."
    assert unchanged(bb.model, weights(random_backbone().model)) and not bb.model.training


def test_splice_replaces_its_ids_only():
    ids, emb, new = torch.tensor([[1, 7, 2, 9, 7]]), torch.randn(1, 5, 4), torch.randn(2, 4)
    out = splice(ids, emb, torch.tensor([9, 7]), new)
    assert torch.equal(out[0, [0, 2]], emb[0, [0, 2]]) and torch.equal(out[0, [1, 3, 4]], new[[1, 0, 1]])
    assert splice(ids, emb.bfloat16(), torch.tensor([9, 7]), new).dtype == torch.bfloat16


# ---- prompt and routing -------------------------------------------------------------------------------------------
def test_system_prompt(bb):
    "`<sks> is <und_1>..<und_16> <gen_1>..<gen_16> .`"
    c = Concept(bb, "maeve")
    words = bb.tok.decode([i for i in c.prompt().ids if i not in c.ids[1:]]).split()
    assert words == [c.token, "is", "."] and c.prompt().ids[2:-1] == c.ids[1:] and len(c.ids) == len(set(c.ids)) == 33


@pytest.mark.parametrize("routing,n", [("decoupled", 16), ("coupled", 0)])
def test_routing(bb, routing, n):
    "Decoupled: the gen tokens stand in the gen expert, and only there; coupled: none does."
    c = fresh(bb, routing=routing)
    b = lay(bb, [[c.prompt()]], c.gen_ids)
    assert b.gen_ids[b.gen_ids >= 0].tolist() == c.ids[17:] * (n > 0)
    assert (b.ids >= 0).sum() == 3 + 2 + 32 - n  # with bos and eos
    assert b.position[0].sort().values.tolist() == list(range(37))  # either way a sentence of 37 words
    u, g = bb.model.embed(b, c.splice)
    assert g.shape[1] == n and all(torch.equal(x, y) for x, y in zip(g[0], c.embeddings[17:]))
    m = copy.deepcopy(bb.model)
    with torch.no_grad():
        for p in m.language_model.model.layers[0].mlp_moe_gen.parameters():
            p.mul_(2)
        plain, changed = bb.model(b, splice=c.splice), m(b, splice=c.splice)
    # what the gen expert makes of them reaches the words, or it is not asked
    assert torch.equal(plain.und, changed.und) == (routing == "coupled")


def test_unknown_choices_are_named(bb, data):
    with pytest.raises(OmniError, match="sideways.*coupled"):
        Concept(bb, "maeve", routing="sideways")
    with pytest.raises(OmniError, match="magic.*words"):
        initial_embeddings(bb, init="magic")
    with pytest.raises(OmniError, match="my dog"):
        Concept(bb, "my dog")
    with pytest.raises(OmniError, match="images"):
        initial_embeddings(bb)  # from pictures, and there are none


@pytest.mark.parametrize("init", ["random", "words", "images"])
@pytest.mark.parametrize("n", [(16, 16), (4, 8), (3, 0), (0, 5)])
def test_every_start_has_its_embeddings(bb, data, init, n):
    "Any numbers of tokens, the same embeddings for the same seed."
    photos = bb.encode_vit(data.images), bb.encode_latents(data.images)
    a, again, other = (initial_embeddings(bb, *n, init, *photos, data.description, seed=s) for s in (0, 0, 1))
    assert a.shape == (1 + sum(n), bb.model.config.hidden_size) and torch.isfinite(a).all()
    assert torch.equal(a, again) and not torch.equal(a, other)


class LargestFloat(TorchDispatchMode):
    "The largest float32 tensor that any operation makes, in numbers."

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.most = max([self.most, *(t.numel() for t in tensors if t.dtype in (torch.float32, torch.float64))])
        return out


@pytest.mark.parametrize("init", ["random", "words"])
def test_first_values_make_no_copy_of_a_large_table(init):
    "At BAGEL's size a float32 copy of the table of words has 2.2 GB, on a card that may have .5 GB to spare."
    tok = random_backbone().tok
    table = torch.randn(40_000, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    wide = SimpleNamespace(spare=39_000, vocab_size=len(table), names=tok.names, hf=tok.hf)
    bb = SimpleNamespace(
        model=SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=table)),
        tok=type("Wide", (SimpleNamespace,), {"__call__": lambda self, text: tok(text)})(**vars(wide)),
    )
    with LargestFloat() as seen:
        start = initial_embeddings(bb, init=init, words="a red spotted dog")
    assert 0 < seen.most < table.numel() / 4
    spread = table[:39_000].float().std()
    assert start.dtype == torch.float32 and torch.equal(start[0], table[concept_token_ids(bb, 0)[0]].float())
    if init == "random":
        assert abs(start[1:17].std() / spread - 1) < 0.1


# ---- on disk ------------------------------------------------------------------------------------------------------
def test_saved_then_loaded(bb, concept, data, tmp_path):
    folder = concept.save_pretrained(tmp_path / "maeve")
    again = Concept.from_pretrained(folder, bb)
    assert torch.equal(again.embeddings, concept.embeddings)
    assert (again.ids, again.gen_ids) == (concept.ids, concept.gen_ids)
    about = "maeve", "decoupled", data.facts, concept.summary
    assert (again.name, again.routing, again.facts, again.summary) == about
    q = [[concept.prompt(), bb.text(f"what is {concept.token} ?")]]
    assert bb.generate_text(q, again, max_new_tokens=5) == bb.generate_text(q, concept, max_new_tokens=5)
    files = ["adapter_config.json", "adapter_model.safetensors", "concept.json"]
    assert sorted(p.name for p in Path(folder).iterdir()) == files
    moved = Concept.from_pretrained(folder, bb, slot=2)
    assert moved.ids == concept_token_ids(bb, 2) and torch.equal(moved.embeddings, concept.embeddings)
    assert sum(p.stat().st_size for p in Path(folder).iterdir()) < 33 * bb.model.config.hidden_size * 4 + 8000


@pytest.mark.parametrize("routing,n", [("coupled", (16, 16)), ("decoupled", (4, 2))])
def test_saved_then_loaded_keeps_the_variant(bb, tmp_path, routing, n):
    c = fresh(bb, "Bo-2", n_und=n[0], n_gen=n[1], routing=routing)
    c.save_pretrained(tmp_path / "c")
    again = Concept.from_pretrained(tmp_path / "c", bb)
    assert (again.name, again.n_und, again.n_gen, again.routing, again.ids) == ("Bo-2", *n, routing, c.ids)
    assert torch.equal(again.embeddings, c.embeddings)


def test_another_backbone_is_refused(bb, other, concept, tmp_path):
    concept.save_pretrained(tmp_path / "c")
    with pytest.raises(OmniError) as e:
        Concept.from_pretrained(tmp_path / "c", other)
    assert all(w in str(e.value) for w in ("maeve", bb.fingerprint, other.fingerprint, "learn it again"))
    with pytest.raises(OmniError, match=bb.fingerprint):
        Persona(other, concept)
    with pytest.raises(OmniError, match="<bo> was made for.*learn it again"):
        Concepts(bb, [concept, fresh(other, "bo")])


HARMS = [
    "no folder",
    "no concept.json",
    "no weights",
    "cut json",
    "cut weights",
    "json without a key",
    "other weights",
    "embeddings missing",
    "nan",
]


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_folder(bb, tmp_path, harm):
    from safetensors.torch import save_file

    d = tmp_path / "maeve"
    fresh(bb).save_pretrained(d)
    j, w = d / "concept.json", d / "adapter_model.safetensors"
    D = bb.model.config.hidden_size
    if harm == "no folder":
        d = tmp_path / "nobody"
    if harm == "no concept.json":
        j.unlink()
    if harm == "no weights":
        w.unlink()
    if harm == "cut json":
        j.write_text(j.read_text()[:50])
    if harm == "cut weights":
        w.write_bytes(w.read_bytes()[:500])
    if harm == "json without a key":
        j.write_text(json.dumps({k: v for k, v in json.loads(j.read_text()).items() if k != "fingerprint"}))
    if harm == "other weights":
        save_file({"something.else": torch.zeros(33, D)}, w)
    if harm == "embeddings missing":
        save_file({KEY: torch.zeros(20, D)}, w)
    if harm == "nan":
        save_file({KEY: torch.full((33, D), torch.nan)}, w)
    with pytest.raises(OmniError) as e:
        Concept.from_pretrained(d, bb)
    assert str(d) in str(e.value)


def test_saving_is_all_or_nothing(bb, tmp_path, monkeypatch):
    "A full disk leaves no folder behind, and what was saved before as it was."
    fresh(bb, seed=1).save_pretrained(tmp_path / "old")
    old = (tmp_path / "old/adapter_model.safetensors").read_bytes()

    def full(*a, **kw):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(concept_module, "save_file", full)
    for name in ("new", "old"):
        with pytest.raises(OmniError, match=f"{name}: cannot be written .No space left.*is still there"):
            fresh(bb, seed=2).save_pretrained(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old/adapter_model.safetensors").read_bytes() == old


# ---- peft and the hub ---------------------------------------------------------------------------------------------
def test_any_peft_user_can_load_it(bb, tmp_path):
    "PeftModel's embedding of the concept's ids is the splice, and so is all that follows from it."
    from peft import PeftConfig, PeftModel

    c = fresh(bb)
    c.save_pretrained(tmp_path / "c")
    conf = PeftConfig.from_pretrained(tmp_path / "c")
    assert conf.peft_type == "TRAINABLE_TOKENS" and conf.token_indices == c.ids
    assert conf.base_model_name_or_path == bb.name
    pm = PeftModel.from_pretrained(copy.deepcopy(bb.model), tmp_path / "c")
    ids = torch.tensor([[5, *c.ids, 7]])
    with torch.no_grad():
        assert torch.equal(pm.get_input_embeddings()(ids), c.splice(ids, bb.model.get_input_embeddings()(ids)))
        b = lay(bb, [[c.prompt(), bb.text("a red dog")]], c.gen_ids)
        p, s = pm.base_model.model(b), bb.model(b, splice=c.splice)
    assert torch.equal(p.und, s.und) and torch.equal(p.gen, s.gen)
    assert not [n for n, q in pm.named_parameters() if q.requires_grad]


def test_push_to_hub(bb, concept, monkeypatch):
    import httpx
    import huggingface_hub

    calls = []

    class FakeApi:
        def __init__(self, token=None):
            calls.append(("token", token))

        def model_info(self, repo_id, **kw):  # it does not exist yet
            response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
            raise huggingface_hub.errors.RepositoryNotFoundError(repo_id, response=response)

        def create_repo(self, repo_id, private=None, exist_ok=False, **kw):
            calls.append(("create", repo_id, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message=None, **kw):
            calls.append(("upload", repo_id, sorted(p.name for p in Path(folder_path).iterdir()), commit_message))
            self.again = Concept.from_pretrained(folder_path, bb)
            assert torch.equal(self.again.embeddings, concept.embeddings)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    assert concept.push_to_hub("me/maeve", token="t") == "https://hub/me/maeve"
    assert calls[:2] == [("token", "t"), ("create", "me/maeve", True, True)]  # private unless one asks otherwise
    files = ["adapter_config.json", "adapter_model.safetensors", "concept.json"]
    assert calls[2][1:3] == ("me/maeve", files) and "maeve" in calls[2][3]


# ---- several ------------------------------------------------------------------------------------------------------
def test_slots(bb):
    assert concept_capacity(bb) == concept_capacity(bb, 16) == 8 and concept_capacity(bb, 64) == 4
    taken = [i for s in range(8) for i in concept_token_ids(bb, s)]
    assert len(set(taken)) == len(taken) == 8 * 33 and max(taken) < bb.model.config.vocab_size
    for s in (-1, 8):
        with pytest.raises(OmniError, match=f"slot {s}.*8 concepts"):
            concept_token_ids(bb, s)


def test_several_do_not_disturb_each_other(bb):
    "A concept gives the same words and pictures in company, whatever its slot; the ones given are left as they were."
    a, b = fresh(bb, "maeve", 1), fresh(bb, "Bo-2", 2)
    both = Concepts(bb, [a, b])
    assert not set(both["maeve"].ids) & set(both["Bo-2"].ids)
    assert both.gen_ids == both["maeve"].gen_ids | both["Bo-2"].gen_ids and (a.slot, b.slot) == (0, 0)

    def request(c):
        return [[c.prompt(), bb.text(f"a photo of {c.token} at the beach")]]

    for alone in (a, b):
        together = both[alone.name]
        assert torch.equal(together.embeddings, alone.embeddings)
        said = [bb.generate_text(request(c), s, max_new_tokens=4) for c, s in ((alone, alone), (together, both))]
        assert said[0][0][1].ids == said[1][0][1].ids
        drawn = [
            bb.generate_images(request(c), [0], QUICK, s, negative="all")[0]
            for c, s in ((alone, alone), (together, both))
        ]
        assert apart(*drawn) <= 1
    with pytest.raises(OmniError, match="<maeve>.*two"):
        Concepts(bb, [a, fresh(bb, "maeve", 3)])


def test_concepts_of_different_sizes_do_not_overlap(bb):
    both = Concepts(bb, [fresh(bb, "maeve"), fresh(bb, "bo", n_und=8, n_gen=8), fresh(bb, "cy", n_und=2, n_gen=2)])
    ids = [i for c in both.items.values() for i in c.ids]
    assert len(set(ids)) == len(ids) == 33 + 17 + 5


def test_more_than_fit(bb):
    cs = [fresh(bb, f"c{i}") for i in range(9)]
    assert len(Concepts(bb, cs[:8]).items) == 8
    with pytest.raises(OmniError, match="8 concepts"):
        Concepts(bb, cs)


def test_coupled_and_decoupled_together(bb):
    both = Concepts(bb, [fresh(bb, "a", routing="coupled"), fresh(bb, "b")])
    b = lay(bb, [[both["a"].prompt(), both["b"].prompt(), bb.text("yes")]], both.gen_ids)
    assert b.gen_ids[b.gen_ids >= 0].tolist() == both["b"].ids[17:]


# ---- words instead of tokens --------------------------------------------------------------------------------------
def test_described_is_text_alone(bb):
    d = TextPrompt(bb, "maeve", "a red spotted dog", dict(toy="a blue kite"))
    t = d.token
    assert bb.tok.decode(d.prompt().ids) == f"{t} is a red spotted dog . the toy of {t} is a blue kite ."
    assert not d.gen_ids
    q = [[d.prompt(), bb.text(f"what is the toy of {t} ?")]]
    emb = torch.randn(1, 3, 4)
    assert bb.generate_text(q, d, max_new_tokens=5) == bb.generate_text(q, max_new_tokens=5)
    assert d.splice(None, emb) is emb
    c = fresh(bb, "bo")
    both = Concepts(bb, [c, d])
    assert both["maeve"].token != both["bo"].token and both.gen_ids == frozenset(c.gen_ids)
    with pytest.raises(OmniError, match="dragon"):
        TextPrompt(bb, "maeve", "a dragon").prompt()
    with pytest.raises(OmniError, match="my dog"):
        TextPrompt(bb, "my dog", "a red dog")


def test_a_description_may_say_the_name(bb):
    "In description and facts, <sks> and the concept's own name are the concept."
    told = TextPrompt(bb, "maeve", "a red dog", dict(friend="the teapot of <maeve>", toy="the ball of <sks>"))
    assert bb.tok.decode(told.prompt().ids).count(told.token) == 1 + 2 + 2
    with pytest.raises(OmniError, match="slot 16.*16 reserved names"):
        TextPrompt(bb, "maeve", "a red dog", slot=16)


# ---- data of their own --------------------------------------------------------------------------------------------
def test_a_concept_travels_without_its_backbone(bb, concept):
    "Its pickle is hardly larger than its embeddings, and it works when it is read again."
    sent = pickle.dumps(concept)
    assert len(sent) < concept.embeddings.numel() * 4 + 20_000
    question = "what is the toy of <maeve> ?"
    for again in (pickle.loads(sent), copy.deepcopy(concept)):
        assert torch.equal(again.embeddings, concept.embeddings) and again.ids == concept.ids
        assert (again.summary, again.facts, again.fingerprint) == (concept.summary, concept.facts, concept.fingerprint)
        answers = [Persona(bb, c).ask(question, max_new_tokens=4) for c in (concept, again)]
        assert answers[0].text == answers[1].text
    assert not [v for v in vars(concept).values() if v is bb]


def test_a_folder_stands_for_its_concept(bb, concept, tmp_path):
    "Where a concept is wanted, the folder it was saved in will do; anything else is named."
    folder = concept.save_pretrained(tmp_path / "maeve")
    for given in (folder, str(folder), [folder]):
        assert torch.equal(Persona(bb, given).concepts["maeve"].embeddings, concept.embeddings)
    with pytest.raises(OmniError, match="nobody: concept.json is missing"):
        Persona(bb, tmp_path / "nobody")
    for wrong in (None, 3, bb):
        with pytest.raises(OmniError, match="not a concept"):
            Persona(bb, wrong)
    with pytest.raises(OmniError, match="backbone first"):
        Persona(concept, bb)


def test_saved_in_the_home_folder(bb, concept, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert concept.save_pretrained("~/maeve") == tmp_path / "home/maeve"
    assert torch.equal(Concept.from_pretrained("~/maeve", bb).embeddings, concept.embeddings)
    assert torch.equal(Persona(bb, "~/maeve").concepts["maeve"].embeddings, concept.embeddings)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_another_default_dtype_or_device(bb, concept):
    "A concept's embeddings begin the same, whatever torch's defaults are."
    start = initial_embeddings(bb, init="random")
    for other in (dict(dtype=torch.float64), dict(dtype=torch.bfloat16), dict(device="meta")):
        with defaults(**other):
            assert torch.equal(initial_embeddings(bb, init="random"), start)
            assert Concept(bb, "maeve").embeddings.device == bb.device
