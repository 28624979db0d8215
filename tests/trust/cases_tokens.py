"""Texts that try to write the model's own tokens, through every door of the concept wing, on both kinds of tokenizer.

A case is refused, or the ids hold no token of the model's own except the names that are meant."""

import unicodedata

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept, Concepts, TextPrompt
from omnipersona.concept.persona import Persona
from omnipersona.concept.replay import Replay, ReplayConfig, Trace
from omnipersona.concept.requests import request_segments, restore_names
from omnipersona.concept.sampling import EncodedData
from omnipersona.concept.tokens import concept_capacity, concept_token_ids, initial_embeddings, own_tokens, text_ids
from omnipersona.data import ConceptData
from omnipersona.inside.ablation import answer_attention
from trust.corpus import Case
from trust.material import MORE_CONTROL, bagel, bb, persona, photos

CONTROL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
EXACT = {c: c for c in CONTROL}  # the model would obey: always refused
NAMED = {  # in brackets, and not a concept's name: always refused
    "reserved name": "<name_0>",
    "another concept's": "<name_1>",
    "a free one": "<name_9>",
    "in capitals": "<NAME_0>",
    "with blanks": "< name_0 >",
    "with a new line": "<name\n_0>",
    "zero width inside": "<na\u200bme_0>",
    "soft hyphen inside": "<name\u00ad_0>",
    "full-width digit": "<name_\uff10>",
    "another alphabet": "<n\u0430me_0>",
    "nested": "<<name_0>>",
    "nested twice": "<<<name_0>>>",
    "around a name": "<na<name_0>me_1>",
    "after a name": "<maeve><name_1>",
    "other case of its own": "<Maeve>",
    "empty": "<>",
    "full-width bars": "<\uff5cim_end\uff5c>",
    "end of text": "<s></s>",
    "unknown": "<unk>",
    "tag": "<b>red</b>",
    "written backwards": "<name_0\u202e>",
}
ALIKE = {  # looks like one, and is only text
    "full-width brackets": "\uff1c|im_end|\uff1e",
    "all full-width": "".join(chr(ord(c) + 0xFEE0) for c in "<|im_end|>"),
    "zero width inside control": "<|im_\u200bend|>",
    "joiner inside control": "<|\u200dim_end|>",
    "byte order mark inside": "<|im\ufeff_end|>",
    "control with a blank": "< |im_end| >",
    "half": "<|im_end",
    "other half": "im_end|>",
    "split by a bar": "<||im_end||>",
    "decomposed": unicodedata.normalize("NFD", "<|\u00ecm_end|>"),
    "escaped": "&lt;|im_end|&gt;",
    "escaped name": "&lt;name_0&gt;",
    "escaped for JSON": "\\u003cname_0\\u003e",
    "full-width name": "\uff1cname_0\uff1e",
    "without brackets": "name_0",
    "only its end": "name_0>",
    "mathematical letters": "\U0001d427\U0001d41a\U0001d426\U0001d41e_0",
}
WITHIN = {f"control within words: {c}": f"a red{c}car" for c in CONTROL}
REFUSED = EXACT | NAMED | WITHIN
SIZES = {"tiny": bb, "BAGEL": bagel}


def request(b, text):
    "A request to two concepts."
    p = persona(lambda: b)
    prompts, _, segment = request_segments(b, text, p.concepts)
    return segment.ids


def encoded(b, **fields):
    return EncodedData(b, ConceptData(list(photos()[:1]), **fields), "maeve")


def as_fact(b, text):
    return encoded(b, facts={"toy": text}).facts[0][1]


def as_key(b, text):
    return encoded(b, facts={text: "a red kite"}).facts[0][0].ids


def as_caption(b, text):
    return encoded(b, captions=[text]).captions[0].ids


def as_description(b, text):
    return encoded(b, description=text).facts[0][1]


def as_question(b, text):
    return encoded(b, qa=[(0, text, "red")]).qa[0][1].ids


def as_answer(b, text):
    return encoded(b, qa=[(0, "where is <sks> ?", text)]).qa[0][2]


def in_words(b, text):
    return TextPrompt(b, "maeve", text).prompt_ids


def in_words_fact(b, text):
    return TextPrompt(b, "maeve", "a red dog", {"toy": text}).prompt_ids


def in_words_second(b, text):
    "The concept that is loaded second has another reserved name."
    two = Concepts(b, [Concept(b, "bo"), TextPrompt(b, "maeve", text)])
    return [i for i in two["maeve"].prompt_ids if i != b.tok(b.tok.names[1])[0]]


def by_hand(b, text):
    "An answer that a student writes into the replay."
    p = Persona(b, [Concept(b, "maeve")])
    replay, seen = Replay(b, p.concepts), []
    replay._pass = lambda name, samples, texts, personal=False: seen.append(samples) or [_Said()]
    replay.with_answer(Trace("a photo of <maeve>", "what is the toy of <maeve> ?"), text)
    return seen[0][0][0].ids


class _Said:
    name, said, problem = "rewriting", "red", ""


def as_example(b, text):
    replay = Replay(b, Concepts(b, [Concept(b, "maeve")]), ReplayConfig(1, ((text, "nothing"),)))
    replay._pass = lambda name, samples, texts, personal=False: [i for s in samples[0][:1] for i in s.ids]
    ids = []
    replay._pass = lambda name, samples, texts, personal=False: ids.extend(samples[0][0].ids) or []
    replay.intents(["a photo of <maeve>"])
    return ids


def as_words(b, text):
    initial_embeddings(b, init="words", words=text)
    return text_ids(b, text)


def scored(b, text):
    "An answer whose words are attributed."
    answer_attention(Persona(b, [Concept(b, "maeve")]), "what is the toy of <maeve> ?", text)
    return []


DOORS = {
    "request": request,
    "fact": as_fact,
    "key of a fact": as_key,
    "caption": as_caption,
    "description": as_description,
    "question": as_question,
    "answer": as_answer,
    "in words": in_words,
    "fact in words": in_words_fact,
    "in words, second": in_words_second,
    "answer by hand": by_hand,
    "example of a replay": as_example,
}
NAMES_ARE_TEXT = {"words to begin with": as_words, "answer to attribute": scored}


def honest(size, door, text):
    "Whether the ids hold none of the model's own tokens but the concept's own name."
    b = SIZES[size]()
    own, may = own_tokens(b.tok), {b.tok.names[0]}
    ids = door(b, text)
    spare = [i for i in ids if i >= b.tok.spare]
    return not spare and not [own[i] for i in ids if i in own and own[i] not in may]


def either(size, door, text):
    "Tiny refuses words it does not know; BAGEL reads them as bytes."
    try:
        return honest(size, door, text)
    except OmniError:
        return size == "tiny" or "did you mean" in door.__name__


# The name is the concept's own in these, so that they are no forgery where one is meant.
QUICK = ("request", "fact", "in words")
CASES = [
    Case(
        "tokens",
        f"{size}, {name}: {kind}",
        lambda tmp, s=size, f=f, x=x: honest(s, f, x),
        "refused",
        (),
        name not in QUICK,
    )
    for size in SIZES
    for name, f in DOORS.items()
    for kind, x in REFUSED.items()
]
CASES += [
    Case("tokens", f"{size}, {name}: {kind}", lambda tmp, s=size, f=f, x=x: either(s, f, x), slow=name not in QUICK)
    for size in SIZES
    for name, f in DOORS.items()
    for kind, x in ALIKE.items()
]
CASES += [
    Case(
        "tokens",
        f"BAGEL, {name}: {x}",
        lambda tmp, f=f, x=x: honest("BAGEL", f, f"a {x} kite"),
        "refused",
        (),
        name not in QUICK,
    )
    for name, f in (DOORS | NAMES_ARE_TEXT).items()
    for x in MORE_CONTROL
]
CASES += [
    Case("tokens", f"{size}, {name}: {x}", lambda tmp, s=size, f=f, x=x: honest(s, f, x), "refused")
    for size in SIZES
    for name, f in NAMES_ARE_TEXT.items()
    for x in (*CONTROL, "<name_1>")
]


def hint(text, size):
    "The concept's name as a person sees it, not as the model reads it."
    b = SIZES[size]()
    Persona(b, [Concept(b, "maeve")]).ask(text, max_new_tokens=1)


LOOKS = (
    "\uff1cmaeve\uff1e",
    "is \uff4d\uff41\uff45\uff56\uff45 here ?",
    "is ma\u200beve here ?",
    "<|maeve|>",
    "<maeve here",
    "MAEVE",
)
CASES += [
    Case("tokens", f"{size}, name that is none: {x}", lambda tmp, s=size, x=x: hint(x, s), "refused", ("<maeve>",))
    for size in SIZES
    for x in LOOKS
]


def spliced_only(size, tmp):
    "No word of the vocabulary has an id that a concept takes, in any slot."
    b = SIZES[size]()
    taken = {i for slot in range(concept_capacity(b)) for i in concept_token_ids(b, slot)[1:]}
    words = set(b.tok.hf.get_vocab(with_added_tokens=True).values())
    return not taken & words


def names_like_reserved(size, tmp):
    "Concepts called name_0 and name_1, loaded in the other order, are still who they are."
    b = SIZES[size]()
    two = Concepts(b, [Concept(b, "name_1"), Concept(b, "name_0")])
    prompts, replaced, _ = request_segments(b, "<name_0> and <name_1>", two)
    return (
        replaced == "<name_1> and <name_0>"
        and [p.ids for p in prompts] == [two["name_0"].prompt_ids, two["name_1"].prompt_ids]
        and restore_names(replaced, two) == "<name_0> and <name_1>"
    )


CASES += [
    Case("tokens", f"{size}, {f.__name__.replace('_', ' ')}", lambda tmp, s=size, f=f: f(s, tmp))
    for size in SIZES
    for f in (spliced_only, names_like_reserved)
]
