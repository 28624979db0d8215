// A concept that can be asked, drawn and edited: requests in, answers and pictures out, as `Persona` does it in Python.

import { Refused } from "./concept.js";

const NAME = /<([^<>|]*)>/g;
const escaped = (s) => s.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

export class Persona {
  constructor(model, tokenizer, concept) {
    Object.assign(this, { model, tokenizer, concept, config: model.config });
    this.reserved = new Set(this.config.names);
    this.own = new Map(this.config.own_tokens.map(([id, token]) => [id, token]));
  }

  // The text with the concept's reserved name (see `replace_brackets`).
  named(text) {
    const { name, token } = this.concept;
    if (!text.trim()) throw new Refused("An empty request: write what you want to know or see.");
    let found = false;
    const out = text.replace(NAME, (all, other) => {
      if (other !== name) throw new Refused(`<${other}>: no such concept is loaded. Write <${name}>.`);
      found = true;
      return token;
    });
    const bare = new RegExp(`(?<![\\w-])${escaped(name)}(?![\\w-])`, "i");
    if (!found && bare.test(text.replace(NAME, " "))) {
      throw new Refused(`${name} without brackets is read as a word. Did you mean <${name}>?`);
    }
    return { text: out, found };
  }

  // What the model wrote, for people (see `restore_answer`).
  shown(text) {
    let out = text;
    for (const control of this.config.control) if (out.includes(control)) out = out.replaceAll(control, " ");
    if (out !== text) out = out.split(/\s+/).filter(Boolean).join(" ");
    const { name, token } = this.concept;
    return out.replace(/<[^<>]*>/g, (t) => (t === token ? `<${name}>` : this.reserved.has(t) ? this.config.someone : t));
  }

  // Token ids (see `text_ids`); `names`: reserved names that the text may hold.
  ids(text, names = [this.concept.token]) {
    const { ids, tokens } = this.tokenizer.encode(text, { add_special_tokens: false });
    const unknown = tokens.filter((_, i) => ids[i] === undefined || ids[i] === null || ids[i] === this.config.unknown);
    if (unknown.length) {
      const words = [...new Set(unknown)].map((w) => `“${w}”`).join(", ");
      throw new Refused(`The tiny backbone does not know ${words}. It reads the words of its cartoon world only.`);
    }
    const forged = ids.find((i) => this.own.has(i) && !names.includes(this.own.get(i)));
    if (forged !== undefined) throw new Refused(`${this.own.get(forged)} is a token of the model's own; leave it out.`);
    return ids;
  }

  // Segments of a request: the concept's prompt, if the request names it, and the text (see `request_segments`).
  request(text) {
    const { text: replaced, found } = this.named(text);
    const prompts = found ? [{ ids: this.concept.promptIds }] : [];
    return { prompts, text: { ids: this.ids(replaced) }, found };
  }

  decoded(ids) {
    return this.tokenizer.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  }

  async answerTo(segments, concept, most) {
    const { cache } = await this.model.read(segments, concept);
    const out = await this.model.generateText(cache, concept, most);
    return { said: this.shown(this.decoded(out.ids)), probability: Math.exp(out.logprob), finished: out.finished };
  }

  // Answer a question, about a picture (3, h, w) if one is given.
  async ask(question, picture = null) {
    const { prompts, text } = this.request(question);
    const seen = picture ? [await this.model.see(picture)] : [];
    const { said, ...rest } = await this.answerTo([...prompts, ...seen, text], this.concept);
    return { text: said, ...rest };
  }

  // One pass of replay; `personal`: with the concept's own tokens. What cannot be used has a problem.
  async pass(name, segments, personal) {
    const most = this.config.replay.max_new_tokens;
    const { said, finished } = await this.answerTo(segments, personal ? this.concept : null, most);
    return { said, problem: !said ? `${name}: empty` : finished ? "" : `${name}: endless` };
  }

  // Why what a pass said cannot be used as a request, or "".
  unusable(name, text, needsName) {
    try {
      return this.request(text).found || !needsName ? "" : `${name}: names no concept`;
    } catch (e) {
      if (!(e instanceof Refused)) throw e;
      return `${name}: ${e.message}`;
    }
  }

  // T, Q, A and T': what the request needs to know, what the concept knows, and the request that says it.
  async replay(request, answer = null) {
    this.request(request);
    const { replay } = this.config, trace = { request, question: "", answer: "", prompt: request, fallback: "" };
    const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, k) => values[k]);
    const shown = replay.examples.map((text) => ({ ids: this.ids(text, this.config.names) }));
    const asked = fill(replay.intent, { request: this.named(request).text });
    const intent = await this.pass("intent", [...shown, { ids: this.ids(asked) }], !this.config.names_pretrained);
    if (!intent.problem && intent.said === replay.nothing) return trace;
    trace.fallback = intent.problem || this.unusable("intent", intent.said, true);
    if (trace.fallback) return trace;
    trace.question = intent.said;
    const questions = trace.question.split(/(?<=\?)\s+/);
    const given = questions.length > 1 ? (answer ?? "").split(";").map((a) => a.trim()) : [answer];
    const answers = answer === null ? [] : given;
    for (const q of answer === null ? questions : []) {
      const { prompts, text } = this.request(q), known = await this.pass("retrieval", [...prompts, text], true);
      trace.fallback ||= known.problem || this.unusable("retrieval", known.said, false);
      answers.push(known.said);
    }
    if (trace.fallback) return trace;
    trace.answer = answers.join("; ");
    const told = questions.map((q, i) => {
      return fill(replay.told, { question: this.named(q).text, answer: this.named(answers[i] ?? "").text });
    });
    const text = fill(replay.rewrite, { request: this.named(request).text, told: told.join(" ") });
    const rewriting = await this.pass("rewriting", [{ ids: this.ids(text) }], !this.config.names_pretrained);
    trace.fallback = rewriting.problem || this.unusable("rewriting", rewriting.said, false);
    if (!trace.fallback) trace.prompt = rewriting.said;
    return trace;
  }

  // Draw (`source`: null) or edit a picture (3, h, w). Resolves to (3, h, w), or to null where `told` said stop.
  async draw(prompt, { seed = 0, source = null, sampling, told } = {}) {
    const { prompts, text } = this.request(prompt);
    const given = source ? [await this.model.clean(source), await this.model.see(source)] : [];
    const x = await this.model.sample({
      context: [...prompts, ...given, text],
      withoutText: source ? [...prompts, ...given] : [],
      seed,
      sampling: sampling ?? this.config.presets[source ? "edit" : "draw"],
      concept: this.concept,
      told,
    });
    return x && this.model.decode(x);
  }
}
