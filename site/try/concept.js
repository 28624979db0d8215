// The folder of a concept, read and checked. It comes from anywhere, so that every number in it may be wrong.

export class Refused extends Error {} // what is wrong and what to do, for the person at the page

const isWhole = (n, most) => Number.isInteger(n) && n >= 0 && n <= most;
const isObject = (x) => x !== null && typeof x === "object" && !Array.isArray(x);
const brief = (x) => String(typeof x === "string" ? x : JSON.stringify(x)).slice(0, 80);

export function parseAbout(bytes, rules) {
  let about;
  try {
    about = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new Refused("concept.json is no JSON text. Save the concept again.");
  }
  if (!isObject(about)) throw new Refused("concept.json holds no object. Save the concept again.");
  for (const key of rules.about) if (!(key in about)) throw new Refused(`concept.json has no “${key}”. Save it again.`);
  if (!isWhole(about.format, rules.format)) {
    throw new Refused(`Format ${brief(about.format)} is newer than this page. Use the page of a newer version.`);
  }
  if (!new RegExp(`^(?:${rules.name})$`).test(about.name)) {
    throw new Refused(`${brief(about.name)} is no name for a concept: 1 to 32 letters a-z, digits, _ or -.`);
  }
  for (const key of ["n_und", "n_gen"]) {
    if (!isWhole(about[key], rules.most_tokens)) throw new Refused(`${key} = ${brief(about[key])} is no number of tokens.`);
  }
  if (about.n_und + about.n_gen > rules.spare) {
    throw new Refused(`${about.n_und + about.n_gen} tokens; this backbone has room for ${rules.spare}.`);
  }
  if (!rules.routings.includes(about.routing)) throw new Refused(`routing = ${brief(about.routing)} is unknown.`);
  const facts = about.facts ?? {};
  if (!isObject(facts) || Object.values(facts).some((v) => typeof v !== "string")) {
    throw new Refused("The facts in concept.json are no pairs of texts.");
  }
  if (about.fingerprint !== rules.fingerprint) {
    throw new Refused(
      `<${about.name}> was made for another backbone (${brief(about.fingerprint)}; here it is ${rules.fingerprint}). ` +
        "Its tokens mean nothing here: learn it again with the backbone of this page.",
    );
  }
  return { name: about.name, nUnd: about.n_und, nGen: about.n_gen, routing: about.routing, facts: { ...facts } };
}

const READ = {
  F32: [4, (view, at) => view.getFloat32(at, true)],
  BF16: [2, (view, at) => new Float32Array(new Uint32Array([view.getUint16(at, true) << 16]).buffer)[0]],
};

function table(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.byteLength >= 8 ? Number(view.getBigUint64(0, true)) : 0;
  if (length < 2 || length > bytes.byteLength - 8) throw new Refused("adapter_model.safetensors: no table at its beginning.");
  try {
    const entries = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + length)));
    if (!isObject(entries)) throw new Error();
    return { view, entries, data: 8 + length };
  } catch {
    throw new Refused("adapter_model.safetensors: a damaged table. Copy or download the file again.");
  }
}

// (1 + n_und + n_gen) x width numbers of the only tensor that is wanted.
export function parseEmbeddings(bytes, about, rules) {
  const { view, entries, data } = table(bytes);
  const entry = Object.hasOwn(entries, rules.key) ? entries[rules.key] : null;
  if (!isObject(entry)) throw new Refused("adapter_model.safetensors holds no concept tokens.");
  const rows = 1 + about.nUnd + about.nGen, shape = entry.shape, place = entry.data_offsets;
  if (!Array.isArray(shape) || shape.length !== 2 || shape[0] !== rows || shape[1] !== rules.width) {
    throw new Refused(`Embeddings of shape ${brief(shape)}; ${rows} x ${rules.width} are needed.`);
  }
  if (!Object.hasOwn(READ, entry.dtype)) throw new Refused(`Embeddings of ${brief(entry.dtype)}; F32 is needed.`);
  const [size, read] = READ[entry.dtype], n = rows * rules.width;
  const fits = Array.isArray(place) && place.length === 2 && place.every((p) => isWhole(p, bytes.byteLength));
  if (!fits || place[1] - place[0] !== n * size || data + place[1] > bytes.byteLength) {
    throw new Refused("adapter_model.safetensors: its table and its length do not fit. Copy the file again.");
  }
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) out[i] = read(view, data + place[0] + i * size);
  if (!out.every(Number.isFinite)) throw new Refused("Some values of the embeddings are not finite numbers.");
  return out;
}

// A concept in the backbone's first slot. `files`: {name: Uint8Array}.
export function openConcept(files, rules) {
  for (const name of rules.parts) {
    if (!files[name]) throw new Refused(`${name} is missing: drop the whole folder of a saved concept.`);
    if (files[name].byteLength > rules.most_stored) throw new Refused(`${name} is far too large for a concept.`);
  }
  const about = parseAbout(files[rules.parts[0]], rules);
  const embeddings = parseEmbeddings(files[rules.parts[1]], about, rules);
  const n = about.nUnd + about.nGen, first = rules.first_id;
  const ids = [rules.name_id, ...Array.from({ length: n }, (_, i) => first + i)];
  const gen = new Set(about.routing === "decoupled" ? ids.slice(1 + about.nUnd) : []);
  const promptIds = rules.prompt.flatMap((p) => (p === "name" ? [ids[0]] : p === "tokens" ? ids.slice(1) : [p]));
  const labels = [`<${about.name}>`];
  for (let i = 1; i <= about.nUnd; i++) labels.push(`und ${i}`);
  for (let i = 1; i <= about.nGen; i++) labels.push(`gen ${i}`);
  return { ...about, token: rules.token, embeddings, ids, gen, promptIds, labels };
}
