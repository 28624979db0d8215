"""`make test-trust`: tries every case of the corpus, and prints what came of them.

python tests/trust/report.py [area ...]: some areas only. Ends with 1 where a promise is broken."""

import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1]), str(HERE.parents[1] / "tools")]


def tried(cases, say):
    "(case, outcome) of each; those that need what is not here are None."
    from trust.corpus import Outcome, attempt

    out = []
    with tempfile.TemporaryDirectory(prefix="omnipersona-trust-") as home:
        for i, case in enumerate(cases):
            try:
                outcome = attempt(case, Path(home) / str(i))
            except pytest.skip.Exception as e:
                outcome = Outcome("skipped", str(e), 0.0)
            out.append((case, outcome))
            if outcome.kind not in (case.expect, "skipped"):
                say(f"  {case.area} / {case.name}: {outcome.kind}: {outcome.message[:300]}")
    return out


def row(name, results):
    "One line of the table."
    kinds = Counter(o.kind for _, o in results)
    seconds = sum(o.seconds for _, o in results)
    numbers = [len(results), *(kinds[k] for k in ("accepted", "refused", "raw", "wrong", "skipped"))]
    return f"{name:22}" + "".join(f"{n:9}" for n in numbers) + f"{seconds:9.0f}"


def main(areas):
    from trust.corpus import AREAS, all_cases
    from trust.test_faults import CASES as FAULTS

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # the cases of the hub cut its lines
    begun, chosen = time.time(), all_cases()
    chosen = [c for c in chosen if not areas or c.area in areas]
    print("What went wrong (nothing, if nothing follows):", flush=True)
    results = tried(chosen, lambda text: print(text, flush=True))
    faults = [] if areas and "faults" not in areas else tried(FAULTS, lambda text: print(text, flush=True))
    print("\n" + f"{'area':22}" + "".join(f"{k:>9}" for k in "tried accepted refused raw wrong skipped s".split()))
    for area, title in AREAS.items():
        if own := [r for r in results if r[0].area == area]:
            print(row(title, own))
    print(row("all", results))
    tallies = [o.tally for _, o in results]
    kills = [o.kind == c.expect for c, o in results if c.area == "kills"]
    counted = sum(t.kills for t in tallies)
    leaks = sum(t.leaks for t in tallies) + sum(c.area == "leaks" and o.kind != c.expect for c, o in results)
    lost = sum(t.lost for t in tallies)
    still = [c.name for c, o in faults if o.kind not in (c.expect, "skipped")]
    raw = sum(o.kind == "raw" for _, o in results)
    wrong = sum(o.kind == "wrong" for _, o in results)
    print(
        f"\ncases tried          {len(results)}\naccepted             {sum(o.kind == 'accepted' for _, o in results)}"
        f"\nrefused              {sum(o.kind == 'refused' for _, o in results)}\nraw errors           {raw}"
        f"\nnot as promised      {wrong}"
        f"\nkills survived       {sum(t.survived for t in tallies)} of {counted}, in {sum(kills)} of {len(kills)} cases"
        f"\nbytes lost           {lost}\nleaks                {leaks}"
        f"\nfaults still there   {len(still)} of {len(faults)}{': ' if still else ''}{', '.join(still)}"
        f"\nminutes              {(time.time() - begun) / 60:.1f}"
    )
    return 1 if raw or wrong or lost or leaks or still else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
