"""Many concepts in one process: memory stays flat, and answers are those of a fresh process.

Each case runs in a process of its own, so that what other tests did does not count."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from trust.corpus import Case

TESTS = Path(__file__).resolve().parents[1]
HEAD = """
import gc, json, os, sys, threading
import torch
from helpers import SHORT, random_backbone
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona
from omnipersona.data import ConceptData
from omnipersona.model.flow import SamplingConfig
from omnipersona.pictures import png_bytes
from omnipersona.toyworld.world import ToyWorld

bb, quick = random_backbone(), SamplingConfig(3, 2.0, 1.0)
pictures = [ToyWorld().photo(seed=i).image for i in range(3)]

def resident():
    gc.collect()
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024

def one(i, name="maeve"):
    return Concept(bb, name, torch.randn(33, 64, generator=torch.Generator("cpu").manual_seed(i)))

def said(p, name="maeve"):
    a = p.ask(f"is <{name}> in the photo ?", pictures[0], 4)
    g = p.generate(f"a photo of <{name}>", 1, quick)
    e = p.edit(f"move <{name}> to the left", pictures[1], 1, quick)
    return [a.text, a.probability, png_bytes(g.image).hex(), png_bytes(e.image).hex()]

def taught(i):
    return learn(bb, ConceptData(pictures, facts={"toy": "a red kite"}), f"c{i}", seed=i, recipe=SHORT, progress=False)

def flat(values, after):
    "Within 5 % of what it was after the first few."
    least, most = min(values[after:]), max(values[after:])
    assert most <= 1.05 * least, [round(v) for v in values]
"""
WORK = {
    "ten concepts after another": """
        seen = []
        for i in range(10):
            taught(i)
            seen.append(resident())
        flat(seen, 2)
    """,
    "ten concepts are those of a fresh process": """
        last = [taught(i) for i in range(10)][-1]
        print(json.dumps([said(Persona(bb, last), "c9"), last.embeddings.sum().item()]))
    """,
    "thirty create and drop cycles": """
        seen = []
        for i in range(30):
            p = Persona(bb, [one(i), one(i + 1, "bo")])
            said(p)
            del p
            seen.append(resident())
        flat(seen, 9)
    """,
    "thirty backbones made and dropped": """
        del bb
        seen = []
        for i in range(30):
            bb = random_backbone(i)
            said(Persona(bb, one(i)))
            del bb
            seen.append(resident())
        flat(seen, 9)
    """,
    "a thousand answers": """
        p, seen = Persona(bb, one(0)), []
        for i in range(1000):
            p.ask("where is <maeve> ?", max_new_tokens=1)
            if i % 100 == 99:
                seen.append(resident())
        flat(seen, 2)
    """,
    "two Personas interleaved": """
        a, b = Persona(bb, one(0)), Persona(bb, one(1))
        alone = said(a), said(b)
        assert alone[0] != alone[1]
        for _ in range(3):
            assert (said(a), said(b)) == alone
        both = Persona(bb, [one(0), one(1, "bo")])
        assert said(both) == alone[0]
    """,
    "an answer while another concept is taught": """
        p = Persona(bb, one(0))
        before, heard = said(p), []
        def bo(*callbacks):
            return learn(bb, ConceptData(pictures), "bo", recipe=SHORT, progress=False, callbacks=callbacks)
        quiet, loud = bo(), bo(lambda _: heard.append(said(p)))
        assert len(heard) == SHORT.steps and all(h == before for h in heard)
        assert torch.equal(quiet.embeddings, loud.embeddings)
    """,
    "four threads": """
        personas = [Persona(bb, one(i)) for i in range(4)]
        alone, out = [said(p) for p in personas], {}
        def work(i):
            out[i] = [said(personas[i]) for _ in range(3)]
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        [t.start() for t in threads]
        [t.join(120) for t in threads]
        assert sorted(out) == [0, 1, 2, 3] and all(r == alone[i] for i in out for r in out[i])
    """,
    "a thread teaches, another asks": """
        p = Persona(bb, one(0))
        alone, quiet, out = said(p), taught(1).embeddings, {}
        t = threading.Thread(target=lambda: out.update(taught=taught(1).embeddings))
        t.start()
        heard = [said(p) for _ in range(4)]
        t.join(120)
        assert all(h == alone for h in heard) and torch.equal(out["taught"], quiet)
    """,
    "two threads record": """
        from omnipersona.inside.concept_maps import concept_maps
        personas, out = [Persona(bb, one(i)) for i in range(2)], {}
        def maps(i):
            return concept_maps(personas[i], "a photo of <maeve>", 1, quick)[1].weights
        alone = [maps(i) for i in range(2)]
        threads = [threading.Thread(target=lambda i=i: out.update({i: maps(i)})) for i in range(2)]
        [t.start() for t in threads]
        [t.join(120) for t in threads]
        assert sorted(out) == [0, 1] and all((out[i] == alone[i]).all() for i in out)
    """,
    "fork": """
        p, threads = Persona(bb, one(0)), torch.get_num_threads()
        torch.set_num_threads(1)  # as a forked process has: sums in another order have other last bits
        once = said(p)
        torch.set_num_threads(threads)
        alone = said(p)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            same = said(p) == once and taught(1) is not None
            os.write(writing, b"same" if same else b"differs")
            os._exit(0)
        os.close(writing)
        assert os.read(reading, 10) == b"same"
        os.waitpid(pid, 0)
        assert said(p) == alone
    """,
    "a pool of processes": """
        import multiprocessing
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a forked process has: sums in another order have other last bits
        alone = [said(Persona(bb, one(i))) for i in range(3)]
        torch.set_num_threads(threads)
        said(Persona(bb, one(0)))
        with multiprocessing.get_context("fork").Pool(2) as pool:
            got = pool.map_async(lambda_free, range(3)).get(240)
        assert got == alone
    """,
}
HEAD += """
def lambda_free(i):
    return said(Persona(bb, one(i)))
"""
FRESH = {  # the same answer in a process that did nothing else
    "ten concepts are those of a fresh process": """
        last = taught(9)
        print(json.dumps([said(Persona(bb, last), "c9"), last.embeddings.sum().item()]))
    """,
}


def script(work, threads=1, seconds=180):
    "Run in a fresh process; returns what it printed."
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"OMP_NUM_THREADS": str(threads)}
    env["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HEAD + textwrap.dedent(work)],
        env=env,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert run.returncode == 0, run.stderr[-1500:]
    return run.stdout


def alone(name, threads=1):
    out = script(WORK[name], threads)
    if name in FRESH:
        fresh = script(FRESH[name], threads)
        assert out == fresh, f"{out[:200]} is not {fresh[:200]}"
    return True


QUICK = ("two Personas interleaved", "four threads")
CASES = [Case("several", name, lambda tmp, n=name: alone(n), slow=name not in QUICK) for name in WORK]
CASES += [
    Case("several", f"{name}, two cores", lambda tmp, n=name: alone(n, 2), slow=True)
    for name in ("fork", "a pool of processes", "four threads")
]
