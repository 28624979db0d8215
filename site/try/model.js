// The unified model: segments of text and pictures in, words and velocities out. Each function has the name that it
// has in the Python package, and does the same.

import { normal } from "./noise.js";

const CAUSAL = 0, FULL = 1, NOISE = 2;

// Tokens of all segments in logical order, sorted into those of the two experts (see `pack` in Python).
export function pack(segments, special, genIds, start) {
  const und = [], gen = [];
  let order = 0, position = start;
  const add = (to, mode, segment, token) => to.push({ mode, segment, position, order: order++, ...token });
  segments.forEach((s, segment) => {
    if (s.ids) {
      const ids = s.wrap === false ? s.ids : [special.bos, ...s.ids, special.eos];
      for (const id of ids) {
        add(genIds.has(id) ? gen : und, CAUSAL, segment, { id });
        position++;
      }
      return;
    }
    const mode = s.noised ? NOISE : FULL;
    add(und, mode, segment, { id: special.start });
    for (let i = 0; i < s.count; i++) add(s.seen ? und : gen, mode, segment, { id: -1, from: s.tokens, row: i });
    add(und, mode, segment, { id: special.end });
    if (!s.noised) position++;
  });
  return { und, gen, next: position };
}

// Which token sees which key (see `attention_mask`); all `past` keys that were read before are visible.
export function visible(tokens, past) {
  const length = tokens.length, mask = new Uint8Array(length * (past + length)).fill(1);
  tokens.forEach((q, i) => {
    tokens.forEach((k, j) => {
      const inside = k.segment === q.segment && (q.mode !== CAUSAL || k.order <= q.order);
      const before = k.segment < q.segment && k.mode !== NOISE;
      mask[i * (past + length) + past + j] = inside || before ? 1 : 0;
    });
  });
  return mask;
}

// Keys or values of `blocks` pairs of layer and head, `dim` channels: what is cached, followed by what is new.
function join(old, fresh, blocks, dim) {
  const a = old.length / blocks, b = fresh.length / blocks, out = new Float32Array(old.length + fresh.length);
  for (let i = 0; i < blocks; i++) {
    out.set(old.subarray(i * a, (i + 1) * a), i * (a + b));
    out.set(fresh.subarray(i * b, (i + 1) * b), i * (a + b) + a);
  }
  return out;
}

const length = (x, from, to) => {
  let sum = 0;
  for (let i = from; i < to; i++) sum += x[i] * x[i];
  return Math.sqrt(sum);
};

// The guided velocity is at most as long as the plain one, over all values or token by token.
function renorm(w, v, size, least) {
  for (let at = 0; at < w.length; at += size) {
    const share = length(v, at, at + size) / (length(w, at, at + size) + 1e-8);
    const factor = Math.min(1, Math.max(least, share));
    for (let i = at; i < at + size; i++) w[i] *= factor;
  }
}

// See `guide`: one number for a token's channels is needed where the velocity is shortened token by token.
export function guide(v, withoutText, sampling, channels) {
  const w = v.map((x, i) => withoutText[i] + sampling.cfg_text_scale * (x - withoutText[i]));
  if (sampling.cfg_renorm_type === "global") renorm(w, v, w.length, sampling.cfg_renorm_min);
  else if (sampling.cfg_renorm_type !== "none") renorm(w, v, channels, sampling.cfg_renorm_min);
  return w;
}

// Times from 1, noise, to 0, picture (see `time_grid`).
export function timeGrid({ num_timesteps: n, timestep_shift: shift }) {
  const at = (i) => (n < 2 ? 1 : 1 - i / (n - 1));
  return Array.from({ length: n }, (_, i) => Math.fround((shift * at(i)) / (1 + (shift - 1) * at(i))));
}

// (3, h, w) in [-1, 1] to the bytes of an RGBA picture (see `to_image`), and back (see `to_tensor`).
export function toPixels(x) {
  const n = x.length / 3, out = new Uint8ClampedArray(4 * n).fill(255);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < n; i++) {
      out[4 * i + c] = Math.trunc(Math.fround(Math.min(1, Math.max(0, Math.fround(x[c * n + i] * 0.5) + 0.5)) * 255));
    }
  }
  return out;
}

export function fromPixels(rgba) {
  const n = rgba.length / 4, out = new Float32Array(3 * n);
  for (let c = 0; c < 3; c++) for (let i = 0; i < n; i++) out[c * n + i] = (Math.fround(rgba[4 * i + c] / 255) - 0.5) / 0.5;
  return out;
}

function largest(scores) {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  let sum = 0;
  for (const s of scores) sum += Math.exp(s - scores[best]);
  return { id: best, logprob: -Math.log(sum) };
}

export class Model {
  constructor(ort, config, sessions) {
    Object.assign(this, { ort, config, sessions });
    const [rows, columns] = config.grid;
    this.cells = rows * columns;
    this.noiseSize = this.cells * config.channels;
  }

  async run(name, feeds) {
    const out = await this.sessions[name].run(feeds);
    return Object.fromEntries(Object.entries(out).map(([k, tensor]) => [k, tensor.data]));
  }

  float(data, ...dims) {
    return new this.ort.Tensor("float32", data, dims);
  }

  whole(list, ...dims) {
    return new this.ort.Tensor("int64", BigInt64Array.from(list, BigInt), dims);
  }

  // Embeddings of ids; a concept's own stand where its ids are (see `splice`).
  async words(ids, concept) {
    const token_ids = concept ? concept.ids : [-1], d = this.config.width;
    const embeddings = concept ? concept.embeddings : new Float32Array(d);
    const feeds = {
      ids: this.whole(ids, 1, ids.length),
      token_ids: this.whole(token_ids, token_ids.length),
      embeddings: this.float(embeddings, token_ids.length, d),
    };
    return (await this.run("words", feeds)).tokens;
  }

  picture(x) {
    const side = this.config.size;
    return this.float(x, 1, 3, side, side);
  }

  // A picture to understand: a segment with the tokens that the ViT and the connector make of it.
  async see(x) {
    const { tokens } = await this.run("see", { picture: this.picture(x) });
    return { seen: true, tokens, count: tokens.length / this.config.width };
  }

  async latentTokens(x, t) {
    const feeds = { x: this.float(x, 1, this.cells, this.config.channels), t: this.float(Float32Array.of(t), 1) };
    return (await this.run("latents", feeds)).tokens;
  }

  // A picture to copy from: a segment of clean latents.
  async clean(picture) {
    const { x } = await this.run("encode", { picture: this.picture(picture) });
    return { tokens: await this.latentTokens(x, 0), count: this.cells };
  }

  async decode(x) {
    return (await this.run("decode", { x: this.float(x, 1, this.cells, this.config.channels) })).picture;
  }

  emptyCache() {
    return { keys: new Float32Array(0), values: new Float32Array(0), ids: [], position: 0 };
  }

  // One pass over packed tokens, whose embeddings are given.
  async layers(packed, und, gen, cache) {
    const { layers, key_heads: heads, head_dim: dim, width } = this.config, past = cache.ids.length;
    const tokens = [...packed.und, ...packed.gen], n = tokens.length;
    const states = [layers, 1, heads, past, dim];
    return this.run("layers", {
      und: this.float(und, 1, packed.und.length, width),
      gen: this.float(gen, 1, packed.gen.length, width),
      position: this.whole(tokens.map((t) => t.position), 1, n),
      mask: new this.ort.Tensor("bool", visible(tokens, past), [1, n, past + n]),
      keys: this.float(cache.keys, ...states),
      values: this.float(cache.values, ...states),
    });
  }

  // Embeddings of a list of packed tokens: words from the table, pictures from their segments.
  async embed(tokens, concept) {
    const d = this.config.width;
    if (!tokens.length) return new Float32Array(0);
    const out = Float32Array.from(await this.words(tokens.map((t) => Math.max(0, t.id)), concept));
    tokens.forEach((t, i) => {
      if (t.from) out.set(t.from.subarray(t.row * d, (t.row + 1) * d), i * d);
    });
    return out;
  }

  // Read segments after what is cached (see `prefill`). The old cache stays as it is.
  async read(segments, concept, cache = this.emptyCache()) {
    if (!segments.length) return { cache, words: null };
    const packed = pack(segments, this.config.special, concept ? concept.gen : new Set(), cache.position);
    const [und, gen] = [await this.embed(packed.und, concept), await this.embed(packed.gen, concept)];
    const out = await this.layers(packed, und, gen, cache);
    const blocks = this.config.layers * this.config.key_heads, tokens = [...packed.und, ...packed.gen];
    const grown = {
      keys: join(cache.keys, out.new_keys, blocks),
      values: join(cache.values, out.new_values, blocks),
      ids: [...cache.ids, ...tokens.map((t) => t.id)],
      position: packed.next,
    };
    return { cache: grown, words: out.words };
  }

  // Continue with words, the best one each time (see `generate_text`).
  async generateText(cache, concept, most = this.config.max_new_tokens) {
    const { bos, eos } = this.config.special, ids = [], rows = this.config.spare;
    let id = bos, logprob = 0;
    for (let i = 0; i <= most; i++) {
      const read = await this.read([{ ids: [id], wrap: false }], concept, cache);
      cache = read.cache;
      const best = largest(read.words.subarray(0, rows));
      if (best.id === eos) return { ids, logprob, finished: true };
      if (ids.length === most) break;
      ids.push(best.id);
      logprob += best.logprob;
      id = best.id;
    }
    return { ids, logprob, finished: false };
  }

  // Draw (see `sample_latents`). `told` gets every step: its number, its time, a look ahead, what each patch reads.
  async sample({ context, withoutText, seed, sampling, concept, told = () => {} }) {
    const { channels, special } = this.config, times = timeGrid(sampling);
    const both = [(await this.read(context, concept)).cache, (await this.read(withoutText, concept)).cache];
    const frame = await this.words([special.start, special.end], null);
    const columns = concept ? concept.ids.map((id) => both[0].ids.indexOf(id)).filter((c) => c >= 0) : [];
    const velocity = async (tokens, cache) => {
      const canvas = { tokens, count: this.cells, noised: true };
      const packed = pack([canvas], special, new Set(), cache.position);
      return this.layers(packed, frame, tokens, cache);
    };
    let x = normal(this.noiseSize, seed);
    for (let i = 0; i + 1 < times.length; i++) {
      const t = times[i], tokens = await this.latentTokens(x, t);
      const out = await velocity(tokens, both[0]);
      let v = out.velocity;
      const [low, high] = sampling.cfg_interval;
      if (sampling.cfg_text_scale > 1 && low < t && t <= high) {
        v = guide(v, (await velocity(tokens, both[1])).velocity, sampling, channels);
      }
      const ahead = x.map((value, k) => value - t * v[k]);
      const keep = await told({ step: i, of: times.length - 1, t, ahead, reads: this.chosen(out.weights, columns) });
      if (keep === false) return null;
      x = x.map((value, k) => value - (t - times[i + 1]) * v[k]);
    }
    return x;
  }

  // (layers, patches, tokens) of the attention weights (layers, patches, keys).
  chosen(weights, columns) {
    const rows = this.config.layers * this.cells, keys = weights.length / rows;
    const out = new Float32Array(rows * columns.length);
    for (let r = 0; r < rows; r++) columns.forEach((c, j) => (out[r * columns.length + j] = weights[r * keys + c]));
    return out;
  }
}
