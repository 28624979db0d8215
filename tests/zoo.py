"The zoo of the course: wrong solutions, each as one change to the solution, with the words that a student must read."

import itertools
import json
import re

import course
import torch

from omnipersona.course import (
    flow_checks,
    flow_rules,
    mask_checks,
    mask_rules,
    own_concepts,
    replay_checks,
    replay_evidence,
    replay_rules,
    score_checks,
    token_checks,
    token_rules,
)
from omnipersona.course.mask_rules import GEN, mask_rule

NAMES = "A1_who_sees_whom", "A2_noise_to_picture", "A3_one_set_or_two", "A4_from_knowing_to_drawing"
A1, A2, A3, A4 = (course.ASSIGNMENTS / f"{n}.ipynb" for n in NAMES)


WORDS = dict(
    mask_words=mask_rules.mask_words,
    flow_words=flow_rules.flow_words,
    token_words=token_rules.token_words,
    replay_words=replay_rules.replay_words,
    own_name=own_concepts.own_name,
    own_character=own_concepts.own_character,
    itertools=itertools,
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

ZOOS = {
    A1: [(*z, MASK_ID) for z in ZOO_A1],
    A2: ZOO_A2,
    A3: ZOO_A3,
    A4: ZOO_A4,
}


def report_on(nb, wrong):
    "What the check says about a wrong solution of the zoo."
    name, old, new, _, student = wrong
    return CHECKS[name](functions(nb, student, (old, new))[name], student)
