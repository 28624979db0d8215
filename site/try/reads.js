// What each patch of a drawing reads of the concept's tokens: bars for a patch, and a map for a token.

const $ = (id) => document.getElementById(id);
const percent = (x) => `${(100 * x).toFixed(x < 0.0995 ? 1 : 0)}%`;

export class Reads {
  constructor(grid) {
    this.grid = grid;
    this.at = Math.floor(grid[0] / 2) * grid[1] + Math.floor(grid[1] / 2);
    this.steps = [];
    this.step = 0;
    const stage = $("stage");
    stage.addEventListener("pointermove", (e) => this.point(e));
    stage.addEventListener("pointerdown", (e) => this.point(e));
    stage.addEventListener("keydown", (e) => this.key(e));
    $("layer").addEventListener("change", () => this.show());
    $("token").addEventListener("change", () => this.show());
  }

  // A new drawing, of a concept with these tokens.
  begin(concept, layers) {
    Object.assign(this, { concept, layers, steps: [], step: 0 });
    this.experts = ["name", ...Array(concept.nUnd).fill("und"), ...Array(concept.nGen).fill("gen")];
    const old = [$("layer").value, $("token").value];
    const option = (text, value) => new Option(text, value);
    const numbers = Array.from({ length: layers }, (_, i) => option(`layer ${i}`, String(i)));
    $("layer").replaceChildren(option("all, mean", ""), ...numbers);
    const groups = [option("nothing", ""), option("und tokens", "und"), option("gen tokens", "gen")];
    $("token").replaceChildren(...groups, ...concept.labels.map((label, i) => option(label, String(i))));
    if ([...$("layer").options].some((o) => o.value === old[0])) $("layer").value = old[0];
    if ([...$("token").options].some((o) => o.value === old[1])) $("token").value = old[1];
    const bars = concept.labels.map((label, i) => {
      const bar = document.createElement("i");
      bar.className = this.experts[i];
      bar.title = label;
      bar.addEventListener("pointerenter", () => this.map(this.column(i)));
      bar.addEventListener("pointerleave", () => this.show());
      bar.addEventListener("click", () => {
        $("token").value = $("token").value === String(i) ? "" : String(i);
        this.show();
      });
      return bar;
    });
    $("bars").replaceChildren(...bars);
  }

  add(reads) {
    this.steps.push(reads);
  }

  // Attention of patch `n` to token `k` at the chosen step, of one layer or the mean of all.
  value(n, k) {
    const reads = this.steps[this.step], tokens = this.concept.labels.length, cells = this.grid[0] * this.grid[1];
    if (!reads || !reads.length) return 0;
    const chosen = $("layer").value;
    if (chosen !== "") return reads[(Number(chosen) * cells + n) * tokens + k];
    let sum = 0;
    for (let l = 0; l < this.layers; l++) sum += reads[(l * cells + n) * tokens + k];
    return sum / this.layers;
  }

  column(which) {
    const cells = this.grid[0] * this.grid[1];
    const tokens = this.experts.flatMap((e, i) => (e === which || i === which ? [i] : []));
    return Float32Array.from({ length: cells }, (_, n) => tokens.reduce((sum, k) => sum + this.value(n, k), 0));
  }

  point(e) {
    const box = $("stage").getBoundingClientRect(), [rows, columns] = this.grid;
    const row = Math.floor(((e.clientY - box.top) / box.height) * rows);
    const column = Math.floor(((e.clientX - box.left) / box.width) * columns);
    this.move(row, column);
  }

  key(e) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
    if (!step) return;
    e.preventDefault();
    this.move(Math.floor(this.at / this.grid[1]) + step[0], (this.at % this.grid[1]) + step[1]);
  }

  move(row, column) {
    const [rows, columns] = this.grid, inside = (x, n) => Math.min(n - 1, Math.max(0, x));
    this.at = inside(row, rows) * columns + inside(column, columns);
    this.show();
  }

  show() {
    const [rows, columns] = this.grid, row = Math.floor(this.at / columns), column = this.at % columns;
    Object.assign($("patch").style, {
      left: `${(100 * column) / columns}%`,
      top: `${(100 * row) / rows}%`,
      width: `${100 / columns}%`,
      height: `${100 / rows}%`,
    });
    if (!this.concept) return;
    const values = this.concept.labels.map((_, k) => this.value(this.at, k)), top = Math.max(...values, 1e-9);
    const chosen = $("token").value;
    [...$("bars").children].forEach((bar, k) => {
      bar.style.height = `${(100 * values[k]) / top}%`;
      bar.title = `${this.concept.labels[k]}: ${percent(values[k])}`;
      bar.classList.toggle("on", chosen === String(k));
    });
    this.sums(values, row, column, top);
    this.map(chosen === "" ? null : this.column(/^\d+$/.test(chosen) ? Number(chosen) : chosen));
  }

  sums(values, row, column, top) {
    const sum = (expert) => values.reduce((s, v, k) => s + (this.experts[k] === expert ? v : 0), 0);
    const line = $("reads"), parts = [`Row ${row + 1}, column ${column + 1} reads `];
    for (const [expert, text] of [["name", "the name"], ["und", "und tokens"], ["gen", "gen tokens"]]) {
      const em = document.createElement("em");
      em.className = expert;
      em.textContent = `${text} ${percent(sum(expert))}`;
      parts.push(em, expert === "gen" ? "." : ", ");
    }
    const best = this.concept.labels[values.indexOf(top)];
    parts.push(best ? ` Most of one: ${best}, ${percent(top)}.` : " This request names no concept.");
    line.replaceChildren(...parts);
    $("bars").setAttribute("aria-label", line.textContent);
  }

  // A map over the picture, dark where little is read.
  map(values) {
    const canvas = $("heat"), [rows, columns] = this.grid;
    canvas.hidden = !values;
    if (!values) return;
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d"), image = context.createImageData(columns, rows), top = Math.max(...values, 1e-9);
    values.forEach((v, n) => {
      const x = v / top;
      image.data.set([255 * Math.min(1, 1.6 * x), 255 * Math.max(0, 1.35 * x - 0.2), 255 * Math.max(0, 2.4 * x - 1.5), 130 + 90 * x], 4 * n);
    });
    context.putImageData(image, 0, 0);
  }
}
