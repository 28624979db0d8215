"The plain reference and this package compute the same; solvers; reports of ratios. Identities only, no times."

import json
from dataclasses import asdict, dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from omnipersona.basics import OmniError
from omnipersona.bench import learning_bench, reference_bench, solver_bench
from omnipersona.bench.reference_bench import (
    AS_LEARN_ROW,
    DRAWING_ROW,
    LEARNING_ROW,
    ReferenceSetting,
    reference_errors,
    relative,
)
from omnipersona.bench.reference_pass import N_TOKENS, by_expert, packed_samples, reference_pass
from omnipersona.bench.reference_work import (
    TEXT_TO_IMAGE,
    plain_guidance,
    project_drawing,
    reference_context,
    reference_drawing,
    reference_learning,
)
from omnipersona.bench.speed_work import _second_order
from omnipersona.bench.steps_report import QUALITY
from omnipersona.model.flow import (
    PRESETS,
    SOLVERS,
    SamplingConfig,
    adams_bashforth,
    as_sampling,
    euler,
    guide,
    time_grid,
)
from omnipersona.model.generate import pack_for, prefill, sample_latents
from omnipersona.model.segments import LatentImage, Text

SMALL = dict(hidden_size=64, num_hidden_layers=2, intermediate_size=96)
SHARED = SMALL | dict(num_attention_heads=4, num_key_value_heads=2)
ALONE = SMALL | dict(num_attention_heads=2, num_key_value_heads=2)


@pytest.fixture(scope="module", params=[(0, SHARED), (1, ALONE)], ids=["shared keys", "own keys"])
def setting(request):
    seed, sizes = request.param
    return ReferenceSetting(seed, **sizes)


def whole(setting):
    prompt = setting.concept.prompt()
    return [[prompt, *s] for of_task in setting.samples.values() for s in of_task]


# ---- the reference ------------------------------------------------------------------------------------------------
def test_samples_have_the_stated_length(setting):
    p = setting.packed
    assert [len(m) for m in p.masks] == [N_TOKENS] * 8 and len(p.position) == 8 * N_TOKENS
    assert torch.cat([p.und, p.gen]).sort()[0].tolist() == list(range(8 * N_TOKENS))
    assert len(p.words) + len(p.seen) + len(p.latents) == len(p.position)


def test_a_list_of_tokens_is_read_as_samples_are(setting):
    "Hidden states of every token, against `MoT` with one sample at a time."
    with torch.no_grad():
        h, _ = reference_pass(setting.bb.model, setting.concept, setting.packed)
        for own, s in zip(h.split(N_TOKENS), whole(setting)):
            b = pack_for(setting.bb.model, [s], setting.concept)
            ours = setting.bb.model(b, splice=setting.concept.splice)
            assert relative(own, torch.cat([ours.und[0], ours.gen[0]])[b.packed_index[0]]) < 2e-6


def test_learning_and_drawing_are_equal(setting):
    "Losses within 5e-7. Gradients and latents sum up more, and are as near as float32 is to float64."
    errors = reference_errors(setting)
    learning = errors[LEARNING_ROW]
    assert learning["losses"] < 5e-7 and learning["gradient"] < 4e-6 and errors[DRAWING_ROW]["latents"] < 4e-6
    for k in ("losses", "gradient"):
        assert learning[f"{k} from float64"] < 4 * learning[f"reference's {k} from float64"] + 5e-7
    if AS_LEARN_ROW in errors:  # in bfloat16
        assert 5e-6 < errors[AS_LEARN_ROW]["gradient"] < 0.1


def test_a_context_is_the_cache_of_prefill(setting):
    "Keys, values and the next position, also where texts are read one after the other."
    bb, concept = setting.bb, setting.concept
    cache, start = reference_context(bb, concept, setting.texts)
    ours = prefill(bb.model, [setting.texts], None, concept)
    assert start == int(ours.position[0])
    p = packed_samples(bb, concept, [setting.texts])
    at = torch.cat([p.und, p.gen])
    for (k, v), own_k, own_v in zip(cache, ours.keys, ours.values):
        assert relative(k[at].transpose(0, 1), own_k[0]) < 3e-6 and relative(v[at].transpose(0, 1), own_v[0]) < 3e-6


def test_a_batch_knows_whether_concept_words_are_in_the_gen_expert(setting):
    bb, concept = setting.bb, setting.concept
    assert pack_for(bb.model, [[concept.prompt()]], concept).has_gen_words
    assert not pack_for(bb.model, [[setting.texts[1]]], concept).has_gen_words
    assert not pack_for(bb.model, [[LatentImage(setting.noise, bb.grid, 1.0)]], concept).has_gen_words


def test_an_expert_reads_its_tokens_only():
    p = ReferenceSetting(**SHARED).packed
    out = by_expert(torch.ones(len(p.position), 1), p, lambda x: 2 * x, lambda x: 3 * x)
    assert (out[p.und] == 2).all() and (out[p.gen] == 3).all()


def test_what_is_wrong_is_seen(setting):
    "Each change of the reference moves the result by far more than rounding."
    bb, concept, p = setting.bb, setting.concept, setting.packed
    losses, gradient = reference_learning(bb, concept, p, setting.recipe)
    gradient = gradient.clone()
    open_masks = replace(p, masks=[torch.ones_like(m) for m in p.masks])
    one_place = replace(p, position=torch.zeros_like(p.position))
    no_prompt = packed_samples(bb, concept, [s[1:] for s in whole(setting)])
    for wrong in (open_masks, one_place, no_prompt):
        found, other = reference_learning(bb, concept, wrong, setting.recipe)
        assert relative(found, losses) > 1e-5 and relative(other, gradient) > 1e-3
    drawn = reference_drawing(bb, concept, setting.texts, setting.noise)
    for s in (replace(TEXT_TO_IMAGE, cfg_img_scale=1.0), replace(TEXT_TO_IMAGE, num_timesteps=11)):
        assert relative(reference_drawing(bb, concept, setting.texts, setting.noise, s), drawn) > 1e-4
        assert relative(project_drawing(bb, concept, setting.texts, setting.noise, s), drawn) > 1e-4


def test_both_guide_alike():
    v, u, w = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    assert relative(plain_guidance(v, u, w, TEXT_TO_IMAGE), guide(v[None], u[None], w[None], TEXT_TO_IMAGE)[0]) < 1e-6


# ---- solvers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_second_order_is_exact_for_a_velocity_that_changes_evenly(shift):
    "But for its first step, which is Euler's: v = a + b t, on even and on shifted times."
    a, b = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times = time_grid(9, shift).double()
    first = float(times[0] - times[1])
    drawn = adams_bashforth(lambda x, t: a + b * t, torch.zeros(5, dtype=torch.float64), times)
    assert torch.allclose(drawn, -(a + b / 2) - b * first**2 / 2, atol=1e-12)
    assert not torch.allclose(euler(lambda x, t: a + b * t, torch.zeros(5).double(), times), drawn, atol=1e-3)


def test_solvers_need_one_velocity_a_step_and_begin_alike():
    for solve in SOLVERS.values():
        asked, told = [], []
        solve(lambda x, t: asked.append(t) or x, torch.ones(2), time_grid(7), lambda i, t, x, v: told.append((i, t)))
        assert asked == time_grid(7)[:-1].tolist() and told == list(enumerate(asked))
    one = [solve(lambda x, t: x * t, torch.ones(2), time_grid(2)) for solve in SOLVERS.values()]
    assert torch.equal(*one)


def test_a_drawing_with_second_order(setting):
    "In a batch as alone; with the solver's name as with the solver; and another one than Euler's."
    bb, concept, texts = setting.bb, setting.concept, setting.texts
    s = replace(TEXT_TO_IMAGE, solver="ab2", num_timesteps=6)
    noise = bb.initial_noise([3, 4])
    two = sample_latents(bb.model, [texts, [*texts, Text(concept.ids[:1])]], bb.grid, s, noise, concept)
    one = sample_latents(bb.model, [texts], bb.grid, s, noise[:1], concept)
    assert relative(two[:1], one) < 1e-5
    contexts = [reference_context(bb, concept, part) for part in (texts, texts[:-1], texts)]
    branches = []
    for cache, start in contexts:
        p = packed_samples(bb, concept, [[LatentImage(noise[0], bb.grid, 1.0)]], start)
        p.masks = [None]
        branches.append((p, cache))

    @torch.no_grad()
    def velocity(x, t):
        found = []
        for p, cache in branches:
            p.x, p.t = x, torch.full_like(p.t, t)
            found.append(bb.model.velocity(reference_pass(bb.model, concept, p, cache)[0][p.latents]))
        return plain_guidance(*found, s)

    assert relative(adams_bashforth(velocity, noise[0], time_grid(6, s.timestep_shift)), one[0]) < 1e-5
    assert relative(project_drawing(bb, concept, texts, noise[0], replace(s, solver="euler")), one[0]) > 1e-4


def test_the_solver_is_an_option():
    "Every preset is Euler's; what was saved before has no solver; an unknown one is named."
    assert {s.solver for s in PRESETS.values()} == {SamplingConfig().solver} == {"euler"}
    old = {k: v for k, v in asdict(PRESETS["draw"]).items() if k != "solver"}
    assert as_sampling(old, PRESETS) == PRESETS["draw"]
    for wrong in ("heun", None, 2):
        with pytest.raises(OmniError, match="solver="):
            SamplingConfig(solver=wrong)


def test_an_older_version_draws_with_its_own_preset():
    @dataclass(frozen=True)
    class Older:
        num_timesteps: int = 25

    assert _second_order(Older()) == Older()
    assert _second_order(PRESETS["draw"]) == replace(PRESETS["draw"], solver="ab2", num_timesteps=17)


# ---- reports ------------------------------------------------------------------------------------------------------
def test_ratios_against_the_reference_are_paired_by_round():
    rounds = [[dict(row=LEARNING_ROW, now=[9.0, t], reference=[9.0, 2 * t], rate=8.0 / t)] for t in (1.0, 10.0, 3.0)]
    row = reference_bench.reference_report(rounds, {LEARNING_ROW: 4.0})[LEARNING_ROW]
    assert row["cpu_ratio"] == dict(median=2.0, spread=0.0, n=3) and row["share"] == dict(median=0.5, spread=0.0, n=3)
    assert row["cpu"]["median"] == 3.0 and row["reference_cpu"]["median"] == 6.0
    assert "2.00 +- 0.00, n=3" in reference_bench.reference_text(dict(rows={LEARNING_ROW: row}, errors={}))


def test_the_reference_goes_into_the_report_of_speed(tmp_path):
    "What the report holds stays; a second run measures nothing again."
    out = tmp_path / "speed.json"
    out.write_text(json.dumps(dict(rows={"a": 1}, command="make bench-speed")))
    report = reference_bench.main(out, rounds=1, **SHARED)
    kept = json.loads(out.read_text())
    assert kept["rows"] == {"a": 1} and kept["reference"]["rows"] == report["rows"]
    assert set(report["rows"]) == set(report["errors"]) >= {LEARNING_ROW, DRAWING_ROW}
    assert reference_bench.main(out, rounds=1, **SHARED)["rows"] == report["rows"]
    assert len((tmp_path / "speed.reference.jsonl").read_text().strip().split("\n")) == 1


def run_of(cpu, good):
    return dict(cpu=cpu, wall=2 * cpu, step=4, best=2, scores=dict.fromkeys(QUALITY, good))


def test_whole_runs_are_compared_in_pairs():
    "A character that was learnt in one way only does not count."
    rows = {(1, 0, "before"): run_of(10, 0.5), (1, 0, "now"): run_of(5, 0.6)}
    rows |= {(2, 0, "before"): run_of(60, 0.9), (2, 0, "now"): run_of(20, 0.8), (3, 0, "now"): run_of(1, 0.0)}
    report = learning_bench.learning_report(rows)
    assert report["n"] == 2 and report["cpu_ratio"] == dict(median=2.5, each=[2.0, 3.0])
    assert report["quality_more"]["mean"] == pytest.approx(0.0) and report["now"]["quality"] == pytest.approx(0.7)
    with pytest.raises(OmniError, match="in both ways"):
        learning_bench.learning_report({(3, 0, "now"): run_of(1, 0.0)})


def test_the_fewest_steps_that_are_near_enough():
    rows = {
        "euler, 24 steps": dict(steps=24, distance=0.08),
        "ab2, 16 steps": dict(steps=16, distance=0.07),
        "ab2, 24 steps": dict(steps=24, distance=0.03),
        "ab2, 12 steps": dict(steps=12, distance=0.09),
    }
    assert solver_bench.cheapest(rows) == dict(euler="euler, 24 steps", ab2="ab2, 16 steps")
    with pytest.raises(OmniError, match="not among the rows"):
        solver_bench.cheapest(rows, "heun, 3 steps")


def test_passes_are_what_the_network_reads(setting):
    "Counted by a hook: two pictures in a guided step, one elsewhere."
    model, seen = setting.bb.model, []
    hook = model.llm2vae.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    try:
        for s in (replace(PRESETS["draw"], num_timesteps=6, cfg_interval=(0.3, 0.95)), PRESETS["bagel_draw"]):
            seen.clear()
            sample_latents(model, [setting.texts], setting.bb.grid, s, setting.noise[None], setting.concept)
            assert sum(seen) == solver_bench.passes(s) and len(seen) == s.num_timesteps - 1
    finally:
        hook.remove()


def test_distances_are_relative_to_the_exact_path():
    exact = [F.normalize(torch.randn(3, 4, 2), dim=-1) for _ in range(2)]
    assert not solver_bench.distances(exact, exact).any()
    assert torch.allclose(solver_bench.distances([1.5 * x for x in exact], exact), torch.full((6,), 0.5))
