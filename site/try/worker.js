// The model, away from the page's own thread, so that the page answers while it computes.

import * as ort from "./vendor/ort.wasm.min.mjs";
import { Tokenizer } from "./vendor/tokenizers.min.mjs";
import { openConcept, Refused } from "./concept.js";
import { Model, toPixels } from "./model.js";
import { Persona } from "./persona.js";

const DATA = new URL("./data/", import.meta.url);
const FIRST = ["words", "latents", "layers", "decode"], LATER = ["see", "encode"]; // graphs, in the order of need
const EVERY = 3; // steps between two pictures while drawing: a picture costs as much as half a step

let config, tokenizer, model, persona, stopped = false;
const later = {}; // graph -> promise of its bytes, until it is needed

async function get(name) {
  const answer = await fetch(new URL(name, DATA));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

const json = async (name) => (await get(name)).json();
const bytes = async (name) => new Uint8Array(await (await get(name)).arrayBuffer());
const session = (data) => ort.InferenceSession.create(data, { executionProviders: ["wasm"] });

// A session that is made when it is used for the first time.
function lazily(name) {
  let made;
  later[name] = bytes(`${name}.onnx`);
  later[name].catch(() => {}); // asked for again when it is needed
  return {
    run: async (feeds) => {
      made ??= session(await later[name].catch(() => bytes(`${name}.onnx`)));
      return (await made).run(feeds);
    },
  };
}

async function open(_, tell) {
  ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  config = await json("config.json");
  tokenizer = new Tokenizer(await json("tokenizer.json"), {});
  const data = FIRST.map((name) => bytes(`${name}.onnx`)), sessions = {};
  for (const [i, name] of FIRST.entries()) {
    sessions[name] = await session(await data[i]);
    tell({ loaded: (i + 1) / FIRST.length });
  }
  for (const name of LATER) sessions[name] = lazily(name);
  model = new Model(ort, config, sessions);
  return config;
}

async function choose({ folder, files }) {
  const [about, weights] = config.concept.parts;
  const read = folder
    ? { [about]: await bytes(`concepts/${folder}/${about}`), [weights]: await bytes(`concepts/${folder}/${weights}`) }
    : files;
  persona = new Persona(model, tokenizer, openConcept(read, config.concept));
  const { name, facts, routing, labels, nUnd, nGen } = persona.concept;
  return { name, facts, routing, labels, nUnd, nGen };
}

const ask = ({ question, picture }) => persona.ask(question, picture);
const replay = ({ request, answer }) => persona.replay(request, answer);
const decode = async ({ latents }) => ({ pixels: toPixels(await model.decode(latents)) });

async function draw({ prompt, seed, source, all = false }, tell) {
  stopped = false;
  const told = async ({ ahead, reads, ...step }) => {
    const shown = all || step.step % EVERY === 0;
    tell({ ...step, reads, latents: ahead, pixels: shown ? toPixels(await model.decode(ahead)) : null });
    await new Promise((resolve) => setTimeout(resolve)); // lets a message to stop come in
    return !stopped;
  };
  const picture = await persona.draw(prompt, { seed, source, told });
  return picture && { pixels: toPixels(picture), values: picture };
}

const CALLS = { open, choose, ask, replay, draw, decode };
let turn = Promise.resolve(); // one call after the other

self.onmessage = ({ data: { id, call, args } }) => {
  if (call === "stop") {
    stopped = true;
    return;
  }
  turn = turn.then(async () => {
    try {
      const result = await CALLS[call](args, (news) => self.postMessage({ id, news }));
      self.postMessage({ id, result });
    } catch (e) {
      self.postMessage({ id, error: e.message, refused: e instanceof Refused });
    }
  });
};
