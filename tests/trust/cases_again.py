"More of the same: a run goes on to more steps, and a concept is the start of another run. What changed is recorded."

import json
import warnings
from dataclasses import replace

import torch
from helpers import SHORT, random_backbone
from safetensors import safe_open

from omnipersona.concept.concept import Concept, TextPrompt
from omnipersona.concept.learn import learn
from omnipersona.concept.learner import Learner
from omnipersona.data import ConceptData
from omnipersona.toyworld.world import ToyWorld
from trust.corpus import Case
from trust.material import bb, concept, data, photos

CASES: list[Case] = []
FILE = "checkpoint.safetensors"


def case(name, run, expect="accepted", words=()):
    CASES.append(Case("again", name, run, expect, words))


def taught(folder=None, steps=4, given=None, **kw):
    options = dict(recipe=replace(SHORT, steps=steps), output_dir=folder, progress=False) | kw
    return learn(bb(), given or data(), kw.pop("name", "maeve"), **{k: v for k, v in options.items() if k != "name"})


def near(a, b):
    return torch.allclose(a.embeddings, b.embeddings, atol=1e-5)


def more():
    "A picture and a fact more, and another value of the fact that was there."
    return ConceptData([*photos(), ToyWorld().photo(seed=9).image], facts={"toy": "a blue ball", "home": "the beach"})


# ---- more steps --------------------------------------------------------------------------------------------------
def goes_on(first, then):
    def run(tmp):
        a = taught(tmp / "run", first)
        b = taught(tmp / "run", then)
        runs = [dict(from_step=0, steps=first), dict(from_step=first, steps=then)]
        again = taught(tmp / "run", then)
        return (
            (a.summary["steps"], b.summary["steps"]) == (first, then)
            and b.history[:first] == a.history
            and b.summary["runs"] == again.summary["runs"] == runs
            and a.summary["runs"] == runs[:1]
            and not torch.equal(a.embeddings, b.embeddings)
            and torch.equal(b.embeddings, again.embeddings)
        )

    return run


for first, then in ((1, 2), (3, 6), (4, 8), (2, 7)):
    case(f"{first} steps, then {then}", goes_on(first, then))


def three_times(tmp):
    for steps in (2, 4, 6):
        c = taught(tmp / "run", steps)
    return [(r["from_step"], r["steps"]) for r in c.summary["runs"]] == [(0, 2), (2, 4), (4, 6)]


def stopped_then_longer(tmp):
    "Stopped at 2 of 4, asked to go to 6: the record says so, and the same stop again changes no bit."
    taught(tmp / "run", 4, callbacks=[lambda learner: learner.global_step == 2])
    c = taught(tmp / "run", 6)
    for folder in ("again",):
        taught(tmp / folder, 4, callbacks=[lambda learner: learner.global_step == 2])
        taught(tmp / folder, 6, callbacks=[lambda learner: learner.global_step == 3])
        d = taught(tmp / folder, 6)
    return c.summary["runs"] == d.summary["runs"] == [dict(from_step=0, steps=4), dict(from_step=2, steps=6)] and near(
        c, d
    )


def kept(refused):
    "A refusal changes nothing in the folder."

    def run(tmp):
        taught(tmp / "run")
        before = (tmp / "run" / FILE).read_bytes()
        try:
            refused(tmp / "run")
        finally:
            assert (tmp / "run" / FILE).read_bytes() == before

    return run


case("three times more", three_times)
case("stopped, then more steps", stopped_then_longer)


def fewer_steps(tmp):
    "A finished run is returned as it is, with a warning, and nothing in its folder changes."
    c, file = taught(tmp / "run"), tmp / "run" / FILE
    before = file.read_bytes()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        d = taught(tmp / "run", 3)
    told = [str(w.message) for w in said if "4 steps" in str(w.message) and "steps=3" in str(w.message)]
    return bool(told) and near(c, d) and file.read_bytes() == before


case("fewer steps", fewer_steps)
for field, value in dict(learning_rate=0.1, max_grad_norm=2.0, lambda_image=3.0, init="random", n_gen=4).items():
    words = (FILE, "recipe", field, "another folder")
    case(f"another {field}", kept(lambda d, f=field, v=value: taught(d, recipe=replace(SHORT, **{f: v}))), "refused",
         words)  # fmt: skip
case("another seed", kept(lambda d: taught(d, seed=7)), "refused", (FILE, "seed", "another folder"))
case("other data", kept(lambda d: taught(d, given=more())), "refused", (FILE, "data", "another folder"))
case("another start", kept(lambda d: taught(d, start=concept())), "refused", (FILE, "start", "another folder"))
case("any seed, twice", lambda tmp: near(taught(tmp / "run", seed=None), taught(tmp / "run", seed=None)))


def precision_stays(tmp):
    "What the first process computed in is used by the next one, too, however fast its machine is."
    auto = replace(SHORT, precision="auto", steps=3)
    first = Learner(bb(), data(), "maeve", recipe=auto)
    first.dtype = torch.bfloat16 if auto.dtype("cpu") == torch.float32 else torch.float32
    from omnipersona.concept.checkpoints import resume, save_checkpoint

    first.step()
    save_checkpoint(first, tmp / "run")
    return resume(Learner(bb(), data(), "maeve", recipe=auto), tmp / "run").dtype == first.dtype


case("the same precision in the next process", precision_stays)


# ---- a concept as the start --------------------------------------------------------------------------------------
def started(of_folder):
    "More pictures and new facts: what changed is recorded, also in the folder; the start itself stays as it was."

    def run(tmp):
        old = taught(given=data())
        before = old.embeddings.clone()
        start = old.save_pretrained(tmp / "old") if of_folder else old
        new = taught(given=more(), steps=3, start=start)
        said = json.loads((new.save_pretrained(tmp / "new") / "concept.json").read_text())["summary"]["start"]
        first = Learner(bb(), more(), "maeve", recipe=SHORT, start=start).concept.embeddings
        return (
            torch.equal(first, before)
            and torch.equal(old.embeddings, before)
            and not torch.equal(new.embeddings, before)
            and new.facts == more().facts
            and said["data"] == {"images": [3, 4], "facts": [1, 2]}
            and (said["name"], said["steps"], said["new_facts"], said["changed_facts"]) == ("maeve", 4, 1, 1)
            and said["recipe"] == {"steps": [4, 3]}
            and "blue" not in json.dumps(said)
        )

    return run


def chain(tmp):
    "A start that had a start: the record holds both."
    first = taught()
    second = taught(given=more(), start=first, name="bo")
    third = taught(given=more(), start=second)
    return third.summary["start"]["name"] == "bo" and third.summary["start"]["start"]["name"] == "maeve"


def start_resumes(tmp):
    "A run with a start is stopped and goes on."
    whole = taught(given=more(), start=concept())
    taught(tmp / "run", given=more(), start=concept(), callbacks=[lambda learner: learner.global_step == 2])
    return near(taught(tmp / "run", given=more(), start=concept()), whole)


def without_its_start(tmp):
    taught(tmp / "run", start=concept())
    taught(tmp / "run")


def odd_summary(tmp):
    "A start whose summary holds something else than this version writes: it is learnt from, and the record stays JSON."
    for odd in ({}, {"data": 3, "recipe": "quick"}, {"data": None, "recipe": [], "start": [1, 2], "steps": "many"}):
        start = Concept(bb(), "maeve", summary=odd)
        json.dumps(taught(start=start, steps=1).summary, allow_nan=False)
    return True


def older_checkpoint(tmp):
    "A checkpoint from before there were starts and runs is read."
    from safetensors.torch import save_file

    whole = taught(tmp / "run")
    taught(tmp / "old", callbacks=[lambda learner: learner.global_step == 2])
    with safe_open(tmp / "old" / FILE, "pt") as f:
        about, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    save_file(tensors, tmp / "old" / FILE, {k: v for k, v in about.items() if k not in ("start", "runs", "precision")})
    return near(taught(tmp / "old"), whole)


def other_size(**sizes):
    "A concept of another size, or another routing."
    return Concept(bb(), "maeve", **sizes)


case("a concept as the start", started(False))
case("the folder of a concept as the start", started(True))
case("a start of a start", chain)
case("a start with an odd summary", odd_summary)
case("a run with a start goes on", start_resumes)
case("a run goes on without its start", without_its_start, "refused", (FILE, "start", "another folder"))
case("a checkpoint of an older version", older_checkpoint)
case("a start of no steps", lambda tmp: taught(start=other_size(), steps=0).summary["start"]["steps"] is None)
for sizes, words in (
    (dict(n_und=4), ("start", "n_und=4", "16")),
    (dict(n_gen=0), ("start", "n_gen=0", "16")),
    (dict(routing="coupled"), ("start", "routing='coupled'", "decoupled")),
):
    case(f"a start with {words[1]}", lambda tmp, s=sizes: taught(start=other_size(**s)), "refused", words)
case("a start of another backbone", lambda tmp: taught(start=Concept(random_backbone(5), "maeve")), "refused",
     ("start", "was made for", "learn it again"))  # fmt: skip
case("words as the start", lambda tmp: taught(start=TextPrompt(bb(), "maeve", "a red dog")), "refused",
     ("start", "TextPrompt"))  # fmt: skip
case("a folder that is not there as the start", lambda tmp: taught(start=tmp / "nowhere"), "refused", ("nowhere",))
case("a number as the start", lambda tmp: taught(start=3), "refused", ("int", "not a concept"))
