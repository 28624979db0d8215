"The zoo of the course: wrong solutions, each as one change to the solution, with the words that a student must read."

import functools
import itertools
import json
import random
import re
import statistics
import tempfile

import course
import torch

from omnipersona.course import (
    flow_checks,
    flow_rules,
    mask_checks,
    mask_rules,
    metric_checks,
    metric_rules,
    own_concepts,
    project_checks,
    project_rules,
    replay_checks,
    replay_evidence,
    replay_rules,
    score_checks,
    token_checks,
    token_rules,
)
from omnipersona.course.mask_rules import GEN, mask_rule

NAMES = (
    "A1_who_sees_whom",
    "A2_noise_to_picture",
    "A3_one_set_or_two",
    "A4_from_knowing_to_drawing",
    "A5_where_a_metric_lies",
    "A6_your_own_study",
)
A1, A2, A3, A4, A5, A6 = (course.ASSIGNMENTS / f"{n}.ipynb" for n in NAMES)


WORDS = dict(
    mask_words=mask_rules.mask_words,
    flow_words=flow_rules.flow_words,
    token_words=token_rules.token_words,
    replay_words=replay_rules.replay_words,
    metric_words=metric_rules.metric_words,
    project_words=project_rules.project_words,
    statistics=statistics,
    own_name=own_concepts.own_name,
    own_character=own_concepts.own_character,
    itertools=itertools,
    re=re,
)


def solution(nb, student):
    "(source of the solution's functions, the names that they need) for a student."
    cells = json.loads(nb.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    keep = [c for c in code if re.search(r"^(def my_|CAUSAL|OWN|RULE|my_requests)", c, re.M)]
    source = "\n\n".join(re.sub(r'^ *""" # BEGIN PROMPT.*?# END PROMPT', "", c, flags=re.M | re.S) for c in keep)
    return source, dict(torch=torch, STUDENT=student, **WORDS)


def functions(nb, student, change=None):
    "The functions of the solution, with one change (old text, new text) in their source."
    source, names = solution(nb, student)
    if change:
        assert source.count(change[0]) >= 1, f"not in the solution: {change[0]}"
        source = source.replace(*change)
    exec(compile(source, "<cell>", "exec"), names)
    return names


def with_rule(rules, purpose, **wanted):
    "The first id whose rule has these fields."
    for i in range(3000):
        if all(getattr(rules(f"student{i}"), k) == v for k, v in wanted.items()):
            return f"student{i}"
    raise AssertionError(f"no student has {purpose} {wanted}")


MASK_ID = with_rule(mask_rule, "A1", width=3, inside="all", reader=GEN, back="all")
FLOW_ID = with_rule(flow_rules.flow_rule, "A2", error="squared", average="picture", first="text", renorm="token")
HEUN = with_rule(flow_rules.flow_rule, "A2", sampler="Heun")
MIDPOINT = with_rule(flow_rules.flow_rule, "A2", sampler="midpoint")
CHECKS = dict(
    my_mask=mask_checks.check_mask,
    my_experts=mask_checks.check_experts,
    my_storage=mask_checks.check_storage,
    my_loss=flow_checks.check_loss,
    my_times=flow_checks.check_times,
    my_guidance=flow_checks.check_guidance,
    my_euler=flow_checks.check_euler,
    my_sampler=flow_checks.check_sampler,
    my_ids=token_checks.check_ids,
    my_sentence=token_checks.check_sentence,
    my_splice=token_checks.check_splice,
    my_train=token_checks.check_train,
    my_score=score_checks.check_score,
    my_interference=score_checks.check_interference,
    my_examples=lambda given, student, purpose="": replay_evidence.check_examples(given, student),
    my_requests=lambda given, student, purpose="": replay_evidence.check_requests(given, student),
    my_replay=replay_checks.check_replay,
    my_effects=replay_checks.check_effects,
    my_recognition=metric_checks.check_recognition,
    my_skill=metric_checks.check_skill,
    my_identity=metric_checks.check_identity,
    my_interval=metric_checks.check_mean_interval,
    my_p=metric_checks.check_p,
)

CAUSAL = "order[None] <= order[:, None]"
READER = " & ((mode_k != SKETCH) | (expert[:, None] == RULE.reader))"
HIDDEN = "(mode_k != NOISE) & ((mode_k != FULL) | (expert[None] == UND))"
ROUTED = "(told | (kind == LATENT) | (kind == DRAFT)).long()"
ZOO_A1 = [  # function, old text, new text, words that the student must read
    ("my_mask", " & (mode_k != NOISE)", "", "a noised picture is visible later"),
    (
        "my_mask",
        "(mode_k != NOISE)",
        "((mode_k != NOISE) | (expert[None] == UND))",
        "start and end of a noised picture",
    ),
    ("my_mask", CAUSAL, "order[None] < order[:, None]", "off by one: a token does not see itself"),
    ("my_mask", CAUSAL, "order[None] <= order[:, None] + 1", "off by one: a token sees the next one"),
    ("my_mask", CAUSAL, "torch.ones(len(order), len(order)).tril() > 0", "the storage order is taken for the position"),
    ("my_mask", CAUSAL, "order[None] >= order[:, None]", "rows and columns are swapped"),
    ("my_mask", "mode_q == CAUSAL, causal", "mode_q == CAUSAL, True", "a text is read in both directions"),
    ("my_mask", "torch.eye(len(order), dtype=torch.bool)", "False", "the rows of empty places are empty"),
    ("my_mask", "torch.where(real, ", "torch.where(real | True, ", "an empty place counts as an earlier segment"),
    ("my_mask", "SKETCH, grouped, True", "SKETCH, grouped, causal", "a picture is read like a text"),
    ("my_mask", "segment[None] < segment[:, None]", "segment[None] != segment[:, None]", "later segments are visible"),
    ("my_mask", "(mode_k != NOISE)", HIDDEN, "clean pictures are hidden like noised ones"),
    ("my_mask", "SKETCH, grouped", "SKETCH, causal", "a sketch is read like a text, token by token"),
    ("my_mask", "SKETCH, grouped", "SKETCH, True", "a sketch is read like a picture, all at once"),
    ("my_mask", "(order - first)", "(order - first + 1)", "off by one: groups are counted from 1"),
    ("my_mask", "(order - first)", "order", "groups are counted from the start of the sample"),
    ("my_mask", "// RULE.width", "// (RULE.width + 2)", "a sketch is read in groups"),
    ("my_mask", "back >= 0 if", "back == 0 if", "a group sees only itself"),
    ("my_mask", READER, "", "every later token sees the sketch"),
    ("my_mask", READER, " & (mode_k != SKETCH)", "no later token sees the sketch"),
    ("my_mask", "expert[:, None] == RULE.reader", "expert[:, None] != RULE.reader", "the rule of another student"),
    ("my_mask", "before & (mode_k", "before & (mode_q != SKETCH) & (mode_k", "a sketch sees nothing before it"),
    ("my_experts", ROUTED, ROUTED.replace("told", "told | (kind == START) | (kind == END)"), "start and end tokens"),
    ("my_experts", ROUTED, ROUTED.replace("told", "told | (kind == PATCH)"), "patches of the ViT"),
    ("my_experts", "told | ", "", "gen tokens of the concept are not routed"),
    ("my_experts", " | (kind == DRAFT)", "", "a sketch is in the understanding expert"),
    ("my_experts", f"return {ROUTED}", f"return 1 - {ROUTED}", "the two experts are swapped"),
    (
        "my_storage",
        "((UND, 0), (GEN, und_slots))",
        "((GEN, 0), (UND, gen_slots))",
        "the generation expert is stored first",
    ),
    (
        "my_storage",
        "(GEN, und_slots)",
        "(GEN, int((expert == UND).sum()))",
        "empty places of both experts are at the end",
    ),
    ("my_storage", "-1, dtype", "0, dtype", "empty places hold 0"),
    ("my_storage", "[:, 0]\n", "[:, 0].flip(0)\n", "stored backwards"),
]
MIXED = "(1 - t)[:, None] * data + t[:, None] * noise"
RENORM = "* (both.norm(dim=over, keepdim=True) / w.norm(dim=over, keepdim=True)).clamp(max=1)"
STEPS = "zip(times[:-1].tolist(), times[1:].tolist())"
ZOO_A2 = [  # function, old text, new text, words that the student must read, id
    ("my_loss", "- (noise - data)", "- (data - noise)", "the sign of the velocity", FLOW_ID),
    ("my_loss", MIXED, "t[:, None] * data + (1 - t)[:, None] * noise", "time is reversed", FLOW_ID),
    ("my_loss", "noised = picture >= 0\n", "noised = picture >= -1\n", "clean tokens are noised", FLOW_ID),
    ("my_loss", f"torch.where(noised[:, None], {MIXED}, data)", MIXED, "clean tokens are noised", FLOW_ID),
    (
        "my_loss",
        'if RULE.average == "token":',
        "if True:\n        noised |= True",
        "the loss counts clean tokens",
        FLOW_ID,
    ),
    ("my_loss", ".mean(-1)", ".sum(-1)", "a sum over the channels", FLOW_ID),
    ("my_loss", 'if RULE.average == "token"', "if True", "where every token counts the same", FLOW_ID),
    ("my_loss", 'RULE.error == "squared"', "False", "the absolute error", FLOW_ID),
    ("my_times", "RULE.base * (tokens / 64) ** 0.5", "1.0", "no shift", FLOW_ID),
    ("my_times", " * (tokens / 64) ** 0.5", "", "does not depend on the size", FLOW_ID),
    ("my_times", " ** 0.5\n", "\n", "not with its root", FLOW_ID),
    ("my_times", "linspace(1, 0, steps + 1)", "linspace(0, 1, steps + 1)", "from picture to noise", FLOW_ID),
    ("my_times", "steps + 1)", "steps)", "one time too few", FLOW_ID),
    (
        "my_times",
        "RULE.base * (tokens / 64) ** 0.5",
        "1 / (RULE.base * (tokens / 64) ** 0.5)",
        "towards the picture",
        FLOW_ID,
    ),
    (
        "my_guidance",
        "(text, s_text, s_image) if",
        "(image, s_text, s_image) if",
        "the wrong branch is dropped",
        FLOW_ID,
    ),
    ("my_guidance", "(both - middle)", "(both - neither)", "both steps start from neither", FLOW_ID),
    ("my_guidance", "(text, s_text, s_image) if", "(text, s_image, s_text) if", "the two scales are swapped", FLOW_ID),
    ("my_guidance", RENORM, "", "no renormalisation", FLOW_ID),
    ("my_guidance", '"token": -1', '"token": -2', "renormalisation over the wrong axis", FLOW_ID),
    ("my_guidance", ".clamp(max=1)", "", "makes short velocities longer", FLOW_ID),
    ("my_guidance", "(both.norm", "(neither.norm", "the velocity without text and image", FLOW_ID),
    (
        "my_euler",
        "x = x - (t - t_next) * v\n    return torch",
        "x = x + (t - t_next) * v\n    return torch",
        "sign",
        FLOW_ID,
    ),
    ("my_euler", STEPS, STEPS.replace("times[", "times.flip(0)["), "time is reversed", FLOW_ID),
    (
        "my_euler",
        "velocity(x, t)\n        previews",
        "velocity(x, t_next)\n        previews",
        "end of the step",
        FLOW_ID,
    ),
    ("my_euler", "append(x - t * v)", "append(x - (t - t_next) * v)", "the preview steps to the next time", FLOW_ID),
    ("my_euler", "append(x - t * v)", "append(x + t * v)", "the preview goes the wrong way", FLOW_ID),
    ("my_sampler", "v = (v + velocity(x - (t - t_next) * v, t_next)) / 2", "pass", "this is Euler's method", HEUN),
    ("my_sampler", "* v, t_next)) / 2", "* v, t)) / 2", "the second velocity is taken at the first time", HEUN),
    ("my_sampler", "velocity(x - (t - t_next) * v, t_next)", "velocity(x, t_next)", "at the first place", HEUN),
    ("my_sampler", "t_next)) / 2", "t_next))", "added, not averaged", HEUN),
    ("my_sampler", "(t - middle) * v, middle)", "(t - middle) * v, t)", "at the first time", MIDPOINT),
    ("my_sampler", 'RULE.sampler == "Heun"', "True", "the rule of another student: Heun", MIDPOINT),
]


ANY = with_rule(token_rules.token_rule, "A3", order="gen", added="und", length="all", score="mean", compared="batches")
TURN = with_rule(token_rules.token_rule, "A3", order="turn", added="gen", length="row", score="worst", compared="means")
BEFORE = "sum(und + gen for und, gen in sizes[:b]) + RULE.gap * b"
GRADIENT = "g = torch.autograd.grad(backbone(x, step), x)[0]"
ALL_LEARN = """backbone(x, step).backward()
        g = x.grad
        for p in backbone.parameters():
            p.data -= rate * p.grad"""
HIT = "hit = (ids[:, None] == token_ids[None]).to(rows.dtype)"
IN_TURN = "hit.sum(1, keepdim=True) * rows[(hit.sum(1).cumsum(0).long() - 1).clamp(0, len(rows) - 1)]"
MICRO = "return right[~learnt].float().mean()\n    shares = torch.stack"
COSINE = "torch.cosine_similarity(a, b, dim=-1).mean(0)"
ZOO_A3 = [
    ("my_ids", f"spare + {BEFORE}", "spare", "ids of two concepts overlap: every concept", ANY),
    ("my_ids", "und + gen for", "und for", "ids of two concepts overlap: the generation tokens", ANY),
    ("my_ids", BEFORE, "32 * b", "ids of two concepts overlap: slots", ANY),
    ("my_ids", "RULE.gap * b", "0", "no unused rows", ANY),
    ("my_ids", "RULE.gap * b", "RULE.gap * (b + 1)", "before the first concept", ANY),
    ("my_ids", "RULE.gap * b", "(RULE.gap % 3 + 2) * b", "the rule of another student: gap", ANY),
    ("my_sentence", "(not coupled)", "False", "gen tokens are not routed", ANY),
    ("my_sentence", " & (not coupled)", "", "a coupled concept is routed like a decoupled one", ANY),
    ("my_sentence", "(not coupled)", "coupled", "and the other way round", ANY),
    ("my_sentence", "routed.long()", "1 - routed.long()", "the two experts are swapped", ANY),
    ("my_sentence", "torch.isin(line, torch.tensor(gen))", "torch.isin(line, ids[1:])", "every concept token", ANY),
    ("my_sentence", "*tokens, stop]", "*tokens]", "the stop is missing", ANY),
    ("my_sentence", 'RULE.order == "und"', "True", "the rule of another student: order und", ANY),
    ("my_sentence", 'RULE.order == "turn"', "False", "the rule of another student: order gen", TURN),
    ("my_splice", "hit @ rows", IN_TURN, "in the order of the text", ANY),
    ("my_splice", HIT, f"{HIT}\n    hit = hit * (hit.cumsum(0) == 1)", "only the first place", ANY),
    ("my_splice", "1 - hit @ (~adds).to(rows.dtype)", "torch.ones(len(ids))", "every row is added", ANY),
    ("my_splice", "(~adds)", "torch.ones_like(adds)", "every row replaces", ANY),
    ("my_splice", "emb * keep", "emb * hit.sum(1, keepdim=True) * keep", "embeddings of other tokens", ANY),
    ("my_splice", "emb * keep[:, None] + hit @ rows", "emb", "nothing is spliced", ANY),
    ("my_splice", "hit @ rows", "hit @ rows.detach()", "no gradient reaches the rows", ANY),
    ("my_splice", "[RULE.added]", '["name"]', "the rule of another student: added name", ANY),
    ("my_train", GRADIENT, ALL_LEARN, "the backbone is in the optimiser", ANY),
    ("my_train", GRADIENT, f"{GRADIENT}\n        g = total = g + (total if step else 0)", "not set to zero", ANY),
    ("my_train", "x - rate", "x + rate", "up the loss", ANY),
    ("my_train", " / length.clamp(min=1)", "", "not shortened", ANY),
    ("my_train", "clamp(min=1)", "clamp(min=1e-9)", "short gradients are made longer", TURN),
    ("my_train", "seen[-RULE.average :]", "seen[-1:]", "not a mean", ANY),
    ("my_train", "seen[-RULE.average :]", "seen", "the mean holds all steps", ANY),
    ("my_train", "range(steps)", "range(steps - 1)", "one step too few", ANY),
    ("my_train", 'RULE.length == "row"', "True", "the rule of another student: length row", ANY),
    ("my_score", " & ~learnt", "", "scored on training pictures", ANY),
    ("my_score", "~learnt", "learnt", "scored on training pictures only", ANY),
    ("my_score", "k in (OWN, ALIKE, STRANGER)", "k in (OWN, STRANGER)", "no look-alikes", ANY),
    ("my_score", "k in (OWN, ALIKE, STRANGER)", "k in (OWN,)", "always yes would be right", TURN),
    ("my_score", "shares = torch.stack", MICRO, "every picture counts the same", ANY),
    ("my_score", "(yes > 0.5) == (kind == OWN)", "yes > 0.5", "yes counts as right", ANY),
    ("my_score", 'RULE.score == "mean"', "False", "the rule of another student: score worst", ANY),
    ("my_interference", COSINE, f"{COSINE}.abs()", "the sign of the mean is lost", ANY),
    ("my_interference", COSINE, "(a * b).sum(-1).mean(0)", "products instead of cosines", ANY),
    (
        "my_interference",
        COSINE,
        "torch.cosine_similarity(a.flatten(1), b.flatten(1)).mean()",
        "all tokens together",
        ANY,
    ),
    ("my_interference", 'RULE.compared == "means"', "False", "student: compared batches", TURN),
]

TOY = with_rule(replay_rules.replay_rule, "A4", fallback="last", rounds=2, floor="ratio", keys=("toy", "food"))
RIDE = with_rule(replay_rules.replay_rule, "A4", fallback="request", rounds=3, labels=("wish", "need"))
FIRST = 'ask(" ".join([*shown, f"{one} : {prompt} {two} :"]), False)'
THIRD = 'rewrite :", False)'
PARK = '("a photo of {name} at the park", "nothing")'
ME = "<{own_name(STUDENT)}>"
LEAK = "{prompt}{' answer : ' + answer if prompt != request else ''}"
LOST = """if answer not in new:
            return request if RULE.fallback == "request" else prompt"""
ZOO_A4 = [
    (
        "my_examples",
        'needing(k, "{name}")',
        '"a photo of {name} with a red kite"',
        "the answer leaked into the req",
        TOY,
    ),
    ("my_examples", PARK, "my_examples[0]", "replay where nothing is asked", TOY),
    ("my_examples", 'needing(k, "{name}")', f'needing(k, f"{ME}")', "speaks of your own character", TOY),
    ("my_examples", PARK, '("a photo of the park", "nothing")', "names no character", TOY),
    ("my_examples", PARK, '("a photo of {name} with its toy", "nothing")', "a need is answered with nothing", TOY),
    (
        "my_requests",
        "needing(k,",
        "(lambda k, n: f'{n} with {own_character(STUDENT).facts[k]}')(k,",
        "leaked into",
        TOY,
    ),
    ("my_requests", "at the park", "at its home", "the request needs something else", TOY),
    ("my_requests", f'f"{ME}")', '"it")', "your character is not named", TOY),
    ("my_replay", FIRST, FIRST.replace("False", "True"), "the concept is read in pass 1", TOY),
    ("my_replay", THIRD, THIRD.replace("False", "True"), "the concept is read in pass 3", TOY),
    ("my_replay", "False)", "True)", "the concept is read in passes 1 and 3", TOY),
    ("my_replay", "ask(question, True)", "ask(question, False)", "the concept is not read in pass 2", TOY),
    ("my_replay", "question == RULE.nothing", "False", "replay where nothing is asked", TOY),
    ("my_replay", "[*shown, ", "[", "the examples are not read", TOY),
    ("my_replay", "range(RULE.rounds)", "range(1)", "only one round", TOY),
    ("my_replay", "range(RULE.rounds)", "range(RULE.rounds + 1)", "one round too many", RIDE),
    ("my_replay", "{one} : {prompt}", "{one} : {request}", "later rounds read the first request", TOY),
    ("my_replay", LOST, "pass", "a rewriting that lost the answer is used", TOY),
    ("my_replay", FIRST, FIRST.replace("{prompt}", LEAK), "the answer leaked into the request of pass 1", TOY),
    ("my_replay", "answer : {answer} rewrite", "answer :  rewrite", "pass 3 does not read the answer", TOY),
    (
        "my_replay",
        "one, two = RULE.labels",
        'one, two = "request", "question"',
        "the rule of another student: 'req",
        RIDE,
    ),
    ("my_replay", 'RULE.fallback == "request"', "True", "where the answer is lost, the request", TOY),
    ("my_effects", "draw(p, s)) for s", "draw(p, s + 1)) for s", "new noise", TOY),
    ("my_effects", "draw(p, s)) for s", "draw(p, seeds[(seeds.index(s) + 1) % len(seeds)])) for s", "new noise", TOY),
    ("my_effects", "effects / floor", "effects", "not compared with the floor", TOY),
    ("my_effects", "effects / floor", "effects / effects.mean()", "the floor is the distance between prompts", TOY),
    ("my_effects", "for s in seeds]).mean() for p", "for s in seeds[:1]]).mean() for p", "only the first seed", TOY),
    ("my_effects", "(a - b).abs()", "(a - b)", "signed differences", TOY),
    ("my_effects", "(a - b).abs()", "(a - b).square()", "squared differences", TOY),
    ("my_effects", 'RULE.floor == "ratio"', "False", "the rule of another student: difference", TOY),
]

ZERO = with_rule(
    metric_rules.metric_rule, "A5", unreadable="half", combined="mean", skill="each", over="mean", lost="zero"
)
ROOT = with_rule(
    metric_rules.metric_rule, "A5", combined="least", skill="pooled", over="max", lost="least", sides="two"
)
SURE = with_rule(metric_rules.metric_rule, "A5", seeds="mean", width=1.96, statistic="mean", sides="two")
COMBINE = '{"mean": (a + b) / 2, "least": min(a, b), "root": (a * b) ** 0.5}[RULE.combined]'
FIRST_WORD = 'next((w for w in words if w in ("yes", "no")), "no" if RULE.unreadable == "no" else "")'
FLIPS = "list(itertools.product([1.0, -1.0], repeat=len(gap)))"
ONE_SIGN = "[[1.0] * len(gap)] + [[1.0 - 2 * (i == j) for j in range(len(gap))] for i in range(len(gap))]"
MIXED_UP = """both = torch.cat([a, b]).double()
    gap = a.double() - b.double()
    ways = list(itertools.combinations(range(len(both)), len(gap)))
    middle = torch.mean if RULE.statistic == "mean" else torch.median
    rest = [[i for i in range(len(both)) if i not in w] for w in ways]
    value = torch.stack([middle(both[list(w)]) - middle(both[r]) for w, r in zip(ways, rest)])
    value = value.abs() if RULE.sides == "two" else value
    return (value >= value[0] - 1e-9).double().mean()"""
ZOO_A5 = [
    (
        "my_recognition",
        COMBINE,
        "sum(points) / len(points)",
        "always yes looks good: every photo counts the same",
        ZERO,
    ),
    ("my_recognition", COMBINE, "a", "always yes looks good: only the photos of the character", ZERO),
    ("my_recognition", FIRST_WORD, '"no" if "no" in answer.lower() else ' + FIRST_WORD, "'no' are found inside", ZERO),
    ("my_recognition", FIRST_WORD, '"yes" if "yes" in words else ' + FIRST_WORD, "'yes' are looked for anywhere", ZERO),
    ("my_recognition", 're.findall(r"[a-z]+", answer.lower())', "answer.split()", "capital letters or commas", ZERO),
    (
        "my_recognition",
        "zip(points, there) if",
        "zip(points, there) if p != 0.5 and",
        "unreadable answers are left out",
        ZERO,
    ),
    ("my_recognition", '(said == "yes") == shown', '(said == "yes") != shown', "right and wrong are swapped", ZERO),
    ("my_recognition", "0.5 if RULE.unreadable", "0.0 if RULE.unreadable", "student: unreadable wrong", ZERO),
    ("my_recognition", "[RULE.combined]", '["root"]', "the rule of another student: combined root", ZERO),
    ("my_skill", "((hit - chance) / (1 - chance))", "hit", "no chance level", ZERO),
    ("my_skill", "1 / options.double()", "torch.full_like(options.double(), 0.5)", "one half everywhere", ZERO),
    ("my_skill", "((hit - chance) / (1 - chance))", "(hit - chance)", "not stretched to 1", ZERO),
    ("my_skill", "((hit - chance) / (1 - chance))", "(hit / chance)", "divided by the chance level", ZERO),
    ("my_skill", "chance.mean()", "1 / options.double().mean()", "one over the mean number of options", ROOT),
    ("my_skill", "/ (1 - chance)).mean()", "/ (1 - chance)).mean().clamp(min=0)", "cut off at 0", ZERO),
    ("my_skill", 'RULE.skill == "pooled"', "False", "the rule of another student: skill each", ROOT),
    ("my_identity", "similarity[:, ~known]", "similarity", "the judge's training pictures count", ZERO),
    ("my_identity", "each.mean()", "(each[found].mean() if found.any() else each.mean())", "are left out", ZERO),
    ("my_identity", "torch.where(found, each, lost)", "each", "keep what the judge said", ZERO),
    ("my_identity", "return each.mean()", "return each.max()", "only the best drawing counts", ZERO),
    ("my_identity", "[RULE.over]", '["median"]', "the rule of another student: over median", ZERO),
    ("my_identity", 'RULE.lost == "least" and', "False and", "the rule of another student: lost zero", ROOT),
    (
        "my_interval",
        "float(x[0]), 0.0, 1.0",
        "float(x[0]), float(x[0]), float(x[0])",
        "gives an interval of width 0",
        SURE,
    ),
    (
        "my_interval",
        'x.mean(1) if RULE.seeds == "mean" else x.median(1).values',
        "x[:, 0]",
        "only the first seed",
        SURE,
    ),
    ("my_interval", "x.mean(1) if", "x.amax(1) if", "the best seed of every character", SURE),
    ("my_interval", "x.mean(1) if", "x.flatten() if", "seeds are counted like characters", SURE),
    ("my_interval", "x.std() / n**0.5", "x.std()", "the standard deviation of the characters", SURE),
    ("my_interval", "x.std()", "x.std(correction=0)", "divided by n, not by n - 1", SURE),
    ("my_interval", ".clamp(0, 1)", "", "the interval leaves 0 to 1", SURE),
    ("my_interval", "RULE.width * error", "2.58 * error", "the rule of another student: width 2.58", SURE),
    ("my_p", "gap = a.double() - b.double()", MIXED_UP, "paired data are tested unpaired", SURE),
    ("my_p", "a.double() - b.double()", "(a.double() - b.double())[:1]", "n = 1: only the first character", SURE),
    ("my_p", "value[0] - 1e-9)", "value[0] - 1e-9)[1:]", "the flip that changes nothing is left out", SURE),
    ("my_p", ">= value[0] - 1e-9", "> value[0] + 1e-9", "ties are left out", SURE),
    ("my_p", FLIPS, ONE_SIGN, "only one sign is flipped at a time", SURE),
    ("my_p", "flips * gap", "flips * gap.sign()", "the signs count, and not how large", SURE),
    ("my_p", ">= value[0] - 1e-9", "< value[0] - 1e-9", "the share of flips that are smaller", SURE),
    ("my_p", 'RULE.sides == "two"', "False", "the rule of another student: sides greater", SURE),
]

PLAN = with_rule(project_rules.project_rule, "A6", learn=4, score="mean", reported="mean", baseline="words")
LEAST = with_rule(project_rules.project_rule, "A6", score="least", reported="median", baseline="untrained")
HELD = 'album["look_alikes"], album["others"] = alike[: RULE.test], other[: RULE.test + 3]'
RUNS = 'runs = {seed: one(album["learn"], seed) for seed in RULE.seeds}'
ALBUM = "\n    return album"
ASKED = 'kinds = ("held_out", "look_alikes", "others")'
ASK = 'k: dict(zip(album[k], run(learn, album["negatives"], seed, album[k]))) for k in kinds}'
LEARNT = 'dict.fromkeys(album["learn"] if k[0] == "h" else [], "yes") for k in kinds'
SHARES = "shares = [statistics.mean(r) for r in right.values()]"
ONLY = "shares = [statistics.mean(right[k]) for k in "
ZOO_A6 = [
    ("my_album", 'album["negatives"] = ', 'album["negatives"] = [] and ', "no negatives: the concept never", PLAN),
    ("my_album", HELD, 'album["look_alikes"], album["others"] = [], []', "no negatives: nobody else is asked", PLAN),
    (
        "my_album",
        "= alike[: RULE.test], other[: RULE.test + 3]",
        "= [], other[: RULE.test + 3]",
        "no look-alikes are asked",
        PLAN,
    ),
    (
        "my_album",
        "= alike[: RULE.test], other[: RULE.test + 3]",
        "= alike[: RULE.test], []",
        "no others are asked",
        PLAN,
    ),
    ("my_album", "own[RULE.learn : RULE.learn + RULE.test]", "[]", "no held-out photo", PLAN),
    ("my_album", "own[RULE.learn : RULE.learn + RULE.test]", "own[: RULE.test]", "a learnt photo is asked about", PLAN),
    (
        "my_album",
        ALBUM,
        '\n    album["negatives"] += album["others"]\n    return album',
        "a learnt photo is asked",
        PLAN,
    ),
    ("my_album", "< 0.95", "< 9", "a copy of a learnt photo is asked about", PLAN),
    (
        "my_album",
        ALBUM,
        '\n    album["others"] = album["others"] + album["held_out"][:1]\n    return album',
        "the subject is among",
        PLAN,
    ),
    ("my_album", "own[: RULE.learn]", "own[: RULE.learn - 1]", "the protocol of another student", PLAN),
    ("my_album", "alike[: RULE.test],", "alike[:1],", "too few photos", PLAN),
    ("my_results", RUNS, RUNS.replace("RULE.seeds", "RULE.seeds[1:]"), "seeds: an announced seed is missing", PLAN),
    ("my_results", RUNS, RUNS.replace("RULE.seeds", "[*RULE.seeds[:2], 1]"), "a seed that was not announced", PLAN),
    ("my_results", RUNS, RUNS.replace("RULE.seeds", "RULE.seeds[:1]"), "n = 1: a single seed", PLAN),
    ("my_results", ASKED, 'kinds = ("held_out", "others")', "no look-alikes are asked about", PLAN),
    ("my_results", ASKED, 'kinds = ("held_out",)', "no look-alikes are asked about", PLAN),
    ("my_results", "one(RULE.baseline, None)", "None", "no baseline", PLAN),
    ("my_results", "dict(zip(album[k],", "dict(zip(album[k][:2],", "answers are left out", PLAN),
    (
        "my_results",
        ASK,
        ASK.replace(" for k in kinds", f" | {LEARNT}"),
        "asked about a photo that is not in the test",
        PLAN,
    ),
    ("my_summary", "dict(score=middle", "dict(score=max(scores)", "the best seed is reported", PLAN),
    ("my_summary", "dict(score=middle", "dict(score=scores[-1]", "the last seed is reported", PLAN),
    ("my_summary", SHARES, "shares = [statistics.mean(sum(right.values(), []))]", "every answer counts the same", PLAN),
    ("my_summary", SHARES, ONLY + '("held_out",)]', "always yes would be right", PLAN),
    ("my_summary", SHARES, ONLY + '("held_out", "others")]', "no look-alikes count", PLAN),
    ("my_summary", 'RULE.score == "least"', "False", "the rule of another student: mean of the shares", LEAST),
    ("my_summary", 'RULE.reported == "mean"', "True", "the rule of another student: mean of the seeds", LEAST),
    ("my_summary", "smallest=min(scores)", "smallest=middle", "does not belong to these answers", PLAN),
]


def pretended(learn, negatives, seed, asked):
    "Answers that depend on the seed and on the photo, as a learnt concept might give them."
    chance = random.Random(f"{seed} {learn} {asked}")
    wrong = {"own": 0.3, "alike": 0.6, "other": 0.1}
    return ["yes" if (n[:3] == "own") != (chance.random() < wrong[n.split("-")[0]]) else "no" for n in asked]


def on_a_project(check):
    "A check of the folder that a project with this student's functions makes."

    def checked(function, student, purpose=""):
        if not isinstance(student, str) or not student.strip() or not callable(function):
            return check(function, student)
        mine = functions(A6, student)
        mine[function.__name__] = function
        with tempfile.TemporaryDirectory() as tmp:
            three = (mine[k] for k in ("my_album", "my_results", "my_summary"))
            folder = project_rules.make_project(f"{tmp}/p", student, POOLS(student), pretended, *three)
            return check(folder, student)

    return checked


POOLS = functools.cache(project_rules.own_pool)
CHECKS |= dict(
    my_album=on_a_project(project_checks.check_album),
    my_results=on_a_project(project_checks.check_results),
    my_summary=on_a_project(project_checks.check_summary),
)

ZOOS = {
    A1: [(*z, MASK_ID) for z in ZOO_A1],
    A2: ZOO_A2,
    A3: ZOO_A3,
    A4: ZOO_A4,
    A5: ZOO_A5,
    A6: ZOO_A6,
}


def report_on(nb, wrong):
    "What the check says about a wrong solution of the zoo."
    name, old, new, _, student = wrong
    return CHECKS[name](functions(nb, student, (old, new))[name], student)
