"The checks of the exercises in tutorials 1 to 5: the right answer passes, a wrong one is named, nothing ever raises."

import json
import math

import pytest
import torch
from conftest import ROOT

from omnipersona.concept.replay import Trace
from omnipersona.course import (
    concept_exercises,
    flow_exercises,
    model_checks,
    quickstart_checks,
    replay_exercises,
    tutorial_checks,
)
from omnipersona.model.flow import SamplingConfig

SMALL = SamplingConfig(num_timesteps=11, timestep_shift=1.0, cfg_interval=(0.45, 1.0))


class Two:
    "As much of a concept as a check looks at."

    def __init__(self, gen_ids):
        self.prompt_ids, self.gen_ids, self.n_und, self.n_gen = [9, 4, 1, 2, 3, 5], frozenset(gen_ids), 2, 1


def softmax_first(q, k, v, mask):
    return ((q @ k.T / q.shape[1] ** 0.5).softmax(-1) * mask) @ v


def one_word(scores, begin, stop, most):
    best = int(scores([begin]).argmax())
    return [] if best == stop else [best]


def at_the_end(velocity, x, times):
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist()):
        x = x + (t_next - t) * velocity(x, t_next)
    return x


def silhouettes(x, gen):
    unit = x / x.norm(dim=1, keepdim=True)
    far, same = 1 - unit @ unit.T, gen[:, None] == gen[None]
    own, away = ((far * m).sum(1) / m.sum(1) for m in (same, ~same))
    return (away - own) / torch.maximum(own, away)


def always_moves(segments):
    out, at = [], 0
    for kind, n in segments:
        out += [at + i for i in range(n)] if kind == "text" else [at] * n
        at += n if kind == "text" else 1
    return out


def routes(answer):
    concept_exercises.check_routes(answer, Two([3]), Two([]))


def cost(answer):
    flow_exercises.check_cost(answer, SMALL)


def needs(answer):
    said = Trace(answer, "what is the toy of <nelly> ?", "a red kite") if isinstance(answer, str) else answer
    replay_exercises.check_asks(said, "ride", "a green boat")


WRONG = [  # (check, a wrong answer, words of the mistake)
    (quickstart_checks.check_request, "maeve wearing a hat at the moon", "the name has no brackets"),
    (quickstart_checks.check_request, "a photo of <maeve> wearing a hat", "something is not asked for"),
    (quickstart_checks.check_accuracy, lambda yes, mine: (yes == mine).float().mean(), "saying yes always pays"),
    (quickstart_checks.check_accuracy, lambda yes, mine: yes[mine].float().mean(), "only the pictures of the char"),
    (quickstart_checks.check_likeness, lambda a, b: (a @ b.T).mean() / (b @ b.T).mean(), "fits none"),
    (model_checks.check_positions, lambda s: list(range(sum(n for _, n in s))), "a position of its own"),
    (model_checks.check_positions, always_moves, "a noised picture moves the position on"),
    (model_checks.check_attention, softmax_first, "hidden after the softmax"),
    (model_checks.check_expert, lambda x, g, u, d: (torch.sigmoid(x @ g.T) * (x @ u.T)) @ d.T, "a sigmoid instead"),
    (model_checks.check_answer, one_word, "only one token is written"),
    (flow_exercises.check_ends, lambda x, v, t: torch.stack([x + (1 - t) * v, x - t * v]), "swapped"),
    (flow_exercises.check_ends, lambda x, v, t: torch.stack([x + t * v, x - (1 - t) * v]), "the sign of the velocity"),
    (flow_exercises.check_unshift, lambda t, s: t / s, "divided by the shift"),
    (flow_exercises.check_stretched, lambda v, u, s: v + s * (v - u), "scale 1 is already too far"),
    (cost, 20, "guidance is counted at every step"),
    (cost, 10, "guidance is not counted"),
    (flow_exercises.check_to_noise, at_the_end, "at the end of each step"),
    (routes, (1, 1), "no expert for generation reads them"),
    (routes, (0, 1), "swapped"),
    (concept_exercises.check_change, lambda g, r: -r * (g**2).sum((-2, -1)), "each task steps alone"),
    (concept_exercises.check_change, lambda g, r: r * (g * g.sum(0)).sum((-2, -1)), "the sign"),
    (concept_exercises.check_shares, lambda g: g.norm(dim=-1).sum(-1) / g.norm(dim=-1).sum(), "all tokens are added"),
    (concept_exercises.check_silhouette, silhouettes, "distance to itself"),
    (replay_exercises.check_sure, lambda x: math.exp(sum(x) / len(x)), "a mean"),
    (replay_exercises.check_sure, sum, "still a logarithm"),
    (replay_exercises.check_expected, lambda right, told, chance: right * told, "never show the fact by chance"),
    (replay_exercises.check_blame, lambda q, a, p, d: "nothing" if d else "drawing", "the last step that failed"),
    (needs, "a photo of the toy of <nelly>", "another fact is needed"),
    (needs, "a photo of a green boat", "the request tells the fact"),
]


def name_of(value):
    return value.__name__ if callable(value) else None


@pytest.mark.parametrize("check,wrong,mistake", WRONG, ids=name_of)
def test_a_wrong_answer_is_named(check, wrong, mistake, capsys):
    assert check(wrong) is None
    said = capsys.readouterr().out
    assert "not yet" in said and mistake in said, said


def endless(*inputs):
    while True:
        pass


def raises(*inputs):
    raise ValueError("a mistake of mine")


BAD = [None, ..., 3.5, "text", [1, 2], lambda *x: None, lambda *x: [torch.nan], lambda: 0, raises]
CHECKS = list(dict.fromkeys(check for check, _, _ in WRONG))


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_whatever_is_given_gets_a_sentence(check, capsys):
    for bad in BAD:
        check(bad)
        assert "not yet" in capsys.readouterr().out, bad


def test_a_loop_that_never_ends_is_stopped(capsys, monkeypatch):
    monkeypatch.setattr("omnipersona.course.checks.SECONDS", 0.2)
    model_checks.check_expert(endless)
    assert "did not return" in capsys.readouterr().out


def test_the_right_value_is_not_told(capsys):
    tutorial_checks.check_value(7, "my_sum", 12)
    assert "12" not in capsys.readouterr().out


# ---- the exercises as they stand in the tutorials -----------------------------------------------------------------
FIRST_FIVE = sorted((ROOT / "nbs" / "tutorials").glob("0[1-5]_*.ipynb"))


@pytest.mark.parametrize("notebook", FIRST_FIVE, ids=lambda p: p.stem)
def test_every_stub_was_checked_and_is_not_right(notebook):
    "What is stored below an exercise is the report on its stub; nobody finds the answer there."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    stubs = [c for c in cells if "".join(c["source"]).startswith("# exercise ")]
    assert 3 <= len(stubs) <= 6
    for c in stubs:
        said = "".join("".join(o.get("text", "")) for o in c["outputs"])
        assert "not yet" in said and "passed" not in said, c["id"]
