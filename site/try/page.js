// The page itself: what is clicked goes to the model in `worker.js`, and what comes back is shown.

import { contents, droppedFiles, paint, readPicture, toUrl } from "./pictures.js";
import { fromPixels } from "./model.js";
import { Reads } from "./reads.js";

const $ = (id) => document.getElementById(id);
const FORMS = ["ask", "draw", "edit"], MOST_KEPT = 12; // drawings in the gallery
const state = { config: null, concept: null, shipped: null, pictures: [], drawing: null, busy: false };

// ---- the model ------------------------------------------------------------------------------------------------------
const waiting = new Map();
let worker, calls = 0;

function call(name, args = {}, news = () => {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject, news });
    worker.postMessage({ id: calls, call: name, args });
  });
}

function listen({ data }) {
  const one = waiting.get(data.id);
  if (data.news) return one.news(data.news);
  waiting.delete(data.id);
  if (data.error === undefined) return one.resolve(data.result);
  one.reject(Object.assign(new Error(data.error), { refused: data.refused }));
}

// ---- small pieces ---------------------------------------------------------------------------------------------------
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) node.setAttribute(k, v === true ? "" : v);
  }
  node.append(...children);
  return node;
}

function choice(group, label, face, checked, chosen) {
  const input = el("input", { type: "radio", name: group, checked, onchange: chosen });
  return el("label", { class: "choice" }, input, el("span", { class: "face" }, face, ...label));
}

function say(where, error) {
  const sorry = "Something went wrong; reload the page and try again. ";
  $(where).textContent = !error ? "" : error.refused ? error.message : sorry + error.message;
  if (error && !error.refused) console.error(error);
}

// Runs something with the buttons off, and shows what is refused.
async function busy(work) {
  if (state.busy) return;
  state.busy = true;
  document.querySelectorAll(".go").forEach((b) => (b.disabled = true));
  say("error");
  try {
    await work();
  } catch (e) {
    say("error", e);
  } finally {
    state.busy = false;
    document.querySelectorAll(".go").forEach((b) => (b.disabled = !state.concept));
  }
  if (state.drawing?.pixels) fillFilm(state.drawing);
}

// ---- who ------------------------------------------------------------------------------------------------------------
const dataUrl = (path) => new URL(`data/${path}`, document.baseURI).href;

function card(shipped, checked) {
  const note = shipped.routing === "decoupled" ? shipped.description : `${shipped.description}, ${shipped.routing} tokens`;
  const face = el("img", { src: dataUrl(`concepts/${shipped.folder}/${shipped.pictures[0].file}`), alt: "" });
  const label = [el("b", {}, `<${shipped.name}>`), el("small", {}, note)];
  return choice("who", label, face, checked, () => choose({ folder: shipped.folder }, shipped));
}

async function choose(source, shipped) {
  say("refused");
  try {
    const concept = await call("choose", source);
    Object.assign(state, { concept, shipped });
  } catch (e) {
    say("refused", e);
    return false;
  }
  await showConcept();
  return true;
}

async function showConcept() {
  const { concept, shipped, config } = state;
  const summary = $("facts").querySelector("summary");
  const n = concept.labels.length, facts = Object.entries(concept.facts);
  summary.textContent = `What <${concept.name}> is: ${n} vectors of ${config.concept.width} numbers` +
    (facts.length ? ", and what it was told" : "");
  const rows = [["tokens", `1 name, ${concept.nUnd} und, ${concept.nGen} gen (${concept.routing})`], ...facts];
  $("facts").querySelector("dl").replaceChildren(...rows.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
  const other = shipped ?? config.concepts[0]; // a dropped concept borrows the examples of a shipped one
  for (const kind of FORMS) {
    const texts = other.requests[kind].map((r) => ({ ...r, text: r.text.replaceAll(`<${other.name}>`, `<${concept.name}>`) }));
    showExamples(kind, texts);
    $(kind).elements.text.value = texts[0]?.text ?? "";
  }
  await showPictures(other);
  document.querySelectorAll(".go").forEach((b) => (b.disabled = state.busy));
}

function showExamples(kind, requests) {
  const form = $(kind);
  const button = (r) => {
    const start = () => {
      form.elements.text.value = r.text;
      if (kind === "ask") pickPicture(form, r.picture ? Math.max(0, picked(form)) : -1);
      if (kind === "draw") $("replay").checked = r.replay || $("replay").checked;
      form.requestSubmit();
    };
    return el("button", { type: "button", onclick: start }, r.text);
  };
  form.querySelector(".chips").replaceChildren(...requests.map(button));
}

// ---- pictures to ask about ------------------------------------------------------------------------------------------
async function showPictures(shipped) {
  const { size } = state.config;
  state.pictures = await Promise.all(
    shipped.pictures.map(async ({ file, title }) => {
      const answer = await fetch(dataUrl(`concepts/${shipped.folder}/${file}`));
      return { title, pixels: await readPicture(await answer.blob(), size) };
    }),
  );
  layPictures();
}

function layPictures(chosen = {}) {
  for (const kind of ["ask", "edit"]) {
    const cards = state.pictures.map(({ title, pixels }, i) => {
      const image = el("img", { src: toUrl(pixels, state.config.size), alt: "" });
      const input = choice(`${kind}-picture`, [el("small", {}, title)], image, i === (chosen[kind] ?? (kind === "edit" ? 0 : -1)));
      input.querySelector("input").value = i;
      return input;
    });
    const none = choice(`${kind}-picture`, [el("small", {}, "none")], el("span", { class: "none" }, "–"), (chosen[kind] ?? -1) < 0);
    none.querySelector("input").value = -1;
    const file = el("input", { type: "file", accept: "image/*", hidden: true, onchange: (e) => addPicture(kind, e.target.files[0]) });
    const own = el("button", { type: "button", onclick: () => file.click() }, "your own …");
    $(kind).querySelector(".pictures").replaceChildren(...(kind === "ask" ? [none] : []), ...cards, own, file);
  }
}

const picked = (form) => Number(form.querySelector(".pictures input:checked")?.value ?? -1);

function pickPicture(form, i) {
  const input = form.querySelector(`.pictures input[value="${i}"]`);
  if (input) input.checked = true;
}

async function addPicture(kind, file) {
  if (!file) return;
  try {
    state.pictures.push({ title: file.name.slice(0, 20), pixels: await readPicture(file, state.config.size) });
    layPictures({ [kind]: state.pictures.length - 1 });
  } catch {
    say("error", { refused: true, message: `${file.name}: this browser cannot read it as a picture.` });
  }
}

// ---- asking ---------------------------------------------------------------------------------------------------------
async function ask() {
  const question = $("question").value, picture = state.pictures[picked($("ask"))];
  const values = picture ? fromPixels(picture.pixels) : null;
  const answer = await call("ask", { question, picture: values });
  const image = picture ? [el("img", { src: toUrl(picture.pixels, state.config.size), alt: picture.title })] : [el("span")];
  const sure = `${(100 * answer.probability).toFixed(0)}%${answer.finished ? "" : ", cut off"}`;
  const line = el("li", {}, ...image, el("span", { class: "q" }, question), el("span", { class: "a" }, answer.text || "(nothing)"));
  line.append(el("small", { title: "how probable the model finds its answer" }, sure));
  $("answers").prepend(line);
}

// ---- drawing and editing --------------------------------------------------------------------------------------------
let reads;

function traceLine(letter, text, note) {
  return el("li", {}, el("b", {}, letter), el("span", {}, text), el("small", {}, note));
}

function showTrace(trace) {
  const card = $("trace");
  card.hidden = !trace;
  if (!trace) return;
  const lines = [traceLine("T", trace.request, "the request")];
  lines.push(traceLine("Q", trace.question || "nothing", trace.question ? "what the model asks itself" : "no knowledge is needed"));
  if (trace.answer) {
    const answer = el("input", { value: trace.answer, "aria-label": "another answer", maxlength: "200" });
    const again = async (e) => {
      e.preventDefault();
      await busy(() => draw({ answer: answer.value }));
    };
    const form = el("form", { onsubmit: again }, answer, el("button", {}, "What if?"));
    lines.push(el("li", {}, el("b", {}, "A"), form, el("small", {}, "what the concept knows; change it and draw again")));
    lines.push(traceLine("T′", trace.prompt, "the request that says it: this is drawn"));
  }
  if (trace.fallback) lines.push(traceLine("!", "The request is drawn as it was given.", trace.fallback));
  card.replaceChildren(...lines);
}

function showStep(i) {
  const { drawing, config } = state, last = drawing.steps.length, shown = Math.min(i, last);
  $("step").value = shown;
  const step = drawing.steps[shown], pixels = step ? step.pixels : drawing.pixels;
  $("step-name").value = step ? `${shown + 1} of ${drawing.of}, t = ${step.t.toFixed(2)}` : "finished";
  if (pixels) paint($("picture"), pixels, config.size);
  else if (step) look(step).then(() => state.drawing === drawing && Number($("step").value) === shown && paint($("picture"), step.pixels, config.size));
  reads.step = Math.min(shown, last - 1);
  reads.show();
  document.querySelectorAll("#film button").forEach((b, k) => {
    if (k === shown) b.setAttribute("aria-current", "step");
    else b.removeAttribute("aria-current");
  });
}

// The picture that a step expects, computed when somebody looks.
async function look(step) {
  if (!step.pixels) step.pixels = (await call("decode", { latents: step.latents })).pixels;
  return step.pixels;
}

function frame(i, label, pixels) {
  const canvas = el("canvas", { width: 1, height: 1 });
  if (pixels) paint(canvas, pixels, state.config.size);
  return el("li", {}, el("button", { type: "button", "aria-label": label, onclick: () => showStep(i) }, canvas));
}

function begin(caption, source) {
  state.drawing = { steps: [], of: 0, pixels: null, caption, source };
  reads.begin(state.concept, state.config.layers);
  $("result").hidden = false;
  $("film").replaceChildren();
  $("caption").textContent = `Drawing: ${caption}`;
  $("stage").setAttribute("aria-label", `The picture: ${caption}`);
  $("result").scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  return state.drawing;
}

function onStep(drawing, step) {
  drawing.of = step.of;
  drawing.steps.push(step);
  reads.add(step.reads);
  $("step").max = step.of;
  $("film").append(frame(step.step, `step ${step.step + 1}, t = ${step.t.toFixed(2)}`, step.pixels));
  if (step.pixels) showStep(step.step);
}

async function run(prompt, seed, source) {
  const drawing = begin(prompt, source);
  $("stop").hidden = false;
  const values = source ? fromPixels(source.pixels) : null;
  const done = await call("draw", { prompt, seed, source: values }, (step) => onStep(drawing, step)).finally(() => ($("stop").hidden = true));
  if (!done) {
    $("caption").textContent = `Stopped: ${prompt}`;
    return;
  }
  drawing.pixels = done.pixels;
  $("film").append(frame(drawing.steps.length, "finished", done.pixels));
  $("caption").textContent = prompt;
  showStep(drawing.steps.length);
  keep(drawing, seed);
}

// The frames that were left out while drawing, one after the other.
async function fillFilm(drawing) {
  for (const [i, step] of drawing.steps.entries()) {
    if (state.drawing !== drawing || state.busy) return;
    if (step.pixels) continue;
    await look(step);
    const canvas = $("film").children[i]?.querySelector("canvas");
    if (state.drawing === drawing && canvas) paint(canvas, step.pixels, state.config.size);
  }
}

function keep(drawing, seed) {
  const image = el("img", { src: toUrl(drawing.pixels, state.config.size), alt: drawing.caption });
  $("gallery-title").hidden = false;
  $("gallery").prepend(el("li", {}, image, `${drawing.caption} · noise ${seed}`));
  while ($("gallery").children.length > MOST_KEPT) $("gallery").lastChild.remove();
  const title = "your last drawing", drawn = { title, pixels: drawing.pixels };
  const at = state.pictures.findIndex((p) => p.title === title), chosen = { ask: picked($("ask")), edit: picked($("edit")) };
  if (at < 0) state.pictures.push(drawn);
  else state.pictures[at] = drawn;
  layPictures(chosen);
}

function noiseNumber() {
  const n = $("seed").valueAsNumber;
  if (Number.isInteger(n) && n >= 0 && n <= 0xffffffff) return n;
  throw Object.assign(new Error("The noise number is a whole number from 0 to 4294967295."), { refused: true });
}

async function draw({ answer = null } = {}) {
  const request = answer === null ? $("request").value : state.asked, seed = noiseNumber();
  state.asked = request;
  const trace = $("replay").checked || answer !== null ? await call("replay", { request, answer }) : null;
  showTrace(trace);
  await run(trace ? trace.prompt : request, seed, null);
}

async function edit() {
  const source = state.pictures[picked($("edit"))];
  if (!source) throw Object.assign(new Error("Choose a picture that is to be changed."), { refused: true });
  showTrace(null);
  await run($("instruction").value, noiseNumber(), source);
}

// ---- the page -------------------------------------------------------------------------------------------------------
function openTab(kind) {
  for (const k of FORMS) {
    const tab = $(`tab-${k}`);
    tab.setAttribute("aria-selected", String(k === kind));
    tab.tabIndex = k === kind ? 0 : -1;
    $(k).hidden = k !== kind;
  }
  say("error");
}

function wireTabs() {
  FORMS.forEach((kind, i) => {
    const tab = $(`tab-${kind}`);
    tab.addEventListener("click", () => openTab(kind));
    tab.addEventListener("keydown", (e) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
      if (!step) return;
      const next = FORMS[(i + step + FORMS.length) % FORMS.length];
      openTab(next);
      $(`tab-${next}`).focus();
    });
  });
}

function wireDrop() {
  const zone = $("drop"), open = async (files) => {
    const { parts, most_stored } = state.config.concept;
    const found = await contents(files, parts, most_stored);
    if (await choose({ files: found }, null)) addOwnCard(found);
  };
  $("pick").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", async (e) => {
    await open([...e.target.files]);
    e.target.value = "";
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    zone.addEventListener(kind, (e) => {
      e.preventDefault();
      zone.classList.toggle("over", kind === "dragover");
    });
  }
  zone.addEventListener("drop", async (e) => open(await droppedFiles(e.dataTransfer)));
}

// A card for the concept that was dropped last.
function addOwnCard(files) {
  $("own")?.remove();
  const label = [el("b", {}, `<${state.concept.name}>`), el("small", {}, "your own folder")];
  const own = choice("who", label, el("span", { class: "none" }, "★"), true, () => choose({ files }, null));
  own.id = "own";
  $("who").append(own);
}

function wireTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch { /* a browser that stores nothing */ }
  const show = () => (document.documentElement.dataset.theme = chosen ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", show);
  $("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("theme", chosen);
    } catch { /* as above */ }
    show();
  });
  show();
}

async function keepForOffline() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("offline.js");
    if (navigator.serviceWorker.controller) return;
    const taken = new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve));
    await Promise.race([taken, new Promise((resolve) => setTimeout(resolve, 2000))]);
    const here = new URL("./", document.baseURI).href, loaded = performance.getEntriesByType("resource").map((r) => r.name);
    const before = [here, `${here}index.html`, ...loaded.filter((url) => url.startsWith(here))]; // loaded without the worker
    await Promise.allSettled(before.map((url) => fetch(url)));
  } catch { /* private windows have no service workers: the page works, but not without a network */ }
}

async function start() {
  wireTheme();
  wireTabs();
  wireDrop();
  const work = { ask, draw, edit };
  for (const kind of FORMS) {
    $(kind).addEventListener("submit", (e) => {
      e.preventDefault();
      busy(work[kind]);
    });
  }
  $("stop").addEventListener("click", () => worker.postMessage({ call: "stop" }));
  $("step").addEventListener("input", (e) => showStep(Number(e.target.value)));
  await keepForOffline();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = listen;
  worker.onerror = (e) => ($("status").textContent = `The model cannot be loaded: ${e.message ?? "this browser is too old"}`);
  try {
    state.config = await call("open", {}, ({ loaded }) => ($("progress").value = loaded));
  } catch (e) {
    $("status").textContent = `The model cannot be loaded: ${e.message}`;
    return;
  }
  reads = new Reads(state.config.grid);
  $("who").replaceChildren(...state.config.concepts.map((c, i) => card(c, i === 0)));
  await choose({ folder: state.config.concepts[0].folder }, state.config.concepts[0]);
  $("loading").hidden = true;
  document.documentElement.dataset.ready = "true";
}

start();
