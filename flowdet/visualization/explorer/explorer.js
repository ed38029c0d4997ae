"use strict";
// Shows one image at a time. The data of the page and of every image are JSON in script elements,
// which flowdet/inference/explorer_entry.py describes. An image is parsed when it is shown.

const SVG = "http://www.w3.org/2000/svg";
const LABEL_SIZE = 13; // of the text at boxes, in pixels of the screen
const LETTER_WIDTH = 0.56; // of a mean letter, as a fraction of the text size
const FRAME_MS = 120;
const LEAST_SIDE = 48; // of a picture, in pixels of the screen

const byId = (id) => document.getElementById(id);
const page = JSON.parse(byId("page-data").textContent);
const entries = [...document.querySelectorAll("script.image-data")];
const controls = Object.fromEntries(
  ["image", "time", "score", "seed", "truth", "estimates", "states", "others", "ensemble", "agreement",
    "stability"].map((id) => [id, byId(id)]),
);
const blockBoxes = [];
const shown = { image: null, run: null, timer: null };

// --- what is shown at a time

function percent(value) {
  return `${Math.round(100 * value)}\u00a0%`;
}

function position() {
  return Number(controls.time.value);
}

// The index of the step whose prediction is shown. At t = 1 it is the last step.
function stepIndex() {
  return shown.run.starts.findLastIndex((start) => start <= position());
}

function detection(row) {
  const [query, label, score, x1, y1, x2, y2, agreement, spread, stability] = row;
  const box = [x1, y1, x2, y2];
  return { query, name: page.classes[label], score, box, agreement, spread, stability };
}

function aboveThreshold(rows) {
  return rows.map(detection).filter((x) => x.score >= Number(controls.score.value));
}

// The rows of the estimate of a step. The scores of the last one can be multiplied by the stability.
function estimateRows(step) {
  const last = step === shown.run.steps.length - 1;
  const stable = controls.stability.checked ? shown.run.stable : null;
  return (last && stable) || shown.run.steps[step].estimate;
}

function finalQueries() {
  return new Set(aboveThreshold(estimateRows(shown.run.steps.length - 1)).map((x) => x.query));
}

function stateBoxes() {
  const numbers = shown.run.states[position()];
  return shown.run.queries.map((query, i) => ({ query, box: numbers.slice(4 * i, 4 * i + 4) }));
}

function estimateLabel(x) {
  const spread = controls.agreement.checked && x.agreement != null;
  return `${x.name} ${percent(x.score)}${spread ? ` ±${x.spread}\u00a0px` : ""}`;
}

// All boxes to draw, those on top last: {kind, box, query, label}.
function visibleBoxes() {
  const step = stepIndex();
  const predictions = shown.run.steps[step];
  const boxes = [];
  const add = (kind, list, label) =>
    boxes.push(...list.map((x) => ({ kind, box: x.box, query: x.query, label: label(x) })));
  const final = finalQueries();
  if (controls.others.checked) {
    add("other", stateBoxes().filter((x) => !final.has(x.query)), () => "");
  }
  if (controls.states.checked) {
    add("state", stateBoxes().filter((x) => final.has(x.query)), () => "");
  }
  if (controls.truth.checked) {
    const truth = (shown.image.truth ?? []).map(([name, ...rest]) => (
      { box: rest.slice(0, 4), label: rest[4] ? `${name} (ignored)` : name }));
    add("truth", truth, (x) => x.label);
  }
  blockBoxes.forEach((checkbox, k) => {
    if (checkbox.checked) {
      add("block", aboveThreshold(predictions.blocks[k]), (x) => `b${k} ${x.name} ${percent(x.score)}`);
    }
  });
  if (controls.ensemble.checked && predictions.ensemble) {
    add("ensemble", aboveThreshold(predictions.ensemble), (x) => `mean ${x.name} ${percent(x.score)}`);
  }
  if (controls.estimates.checked) {
    add("estimate", aboveThreshold(estimateRows(step)), estimateLabel);
  }
  return boxes;
}

// --- drawing

function element(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function drawnBox({ kind, box: [x1, y1, x2, y2], query, label }, unit) {
  const group = element("g", { class: kind });
  if (query !== undefined) group.dataset.query = query;
  const shape = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
  group.append(element("rect", { class: "halo", ...shape }), element("rect", { class: "line", ...shape }));
  if (label) group.append(drawnLabel(kind, x1, y1, x2, y2, label, unit));
  return group;
}

// Labels of different kinds are at different sides of the box, and inside the image.
function drawnLabel(kind, x1, y1, x2, y2, label, unit) {
  const size = LABEL_SIZE * unit;
  const width = LETTER_WIDTH * size * label.length;
  const below = kind === "truth" || kind === "block";
  const start = kind === "truth" ? x2 - width : x1;
  const x = Math.max(Math.min(start, shown.image.width - width), 0);
  const y = below ? Math.min(y2 + size, shown.image.height - 2 * unit) : Math.max(y1 - 4 * unit, size);
  return element("text", { x, y, "font-size": size, "stroke-width": 3 * unit }, label);
}

// A line from the center of every drawn state to the center of its estimate.
function arrows(boxes) {
  const center = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2];
  const states = new Map(boxes.filter((x) => x.kind === "state").map((x) => [x.query, center(x.box)]));
  return boxes.filter((x) => x.kind === "estimate" && states.has(x.query)).map((x) => {
    const [[x1, y1], [x2, y2]] = [states.get(x.query), center(x.box)];
    return element("line", { class: "arrow", x1, y1, x2, y2 });
  });
}

function draw() {
  const picture = byId("picture");
  const boxes = visibleBoxes();
  // pixels of the image per pixel of the screen
  const unit = Math.max(
    shown.image.width / (picture.clientWidth || shown.image.width),
    shown.image.height / (picture.clientHeight || shown.image.height),
  );
  byId("boxes").replaceChildren(...arrows(boxes), ...boxes.map((x) => drawnBox(x, unit)));
  const t = shown.run.times[position()];
  const step = stepIndex();
  const time = `t = ${t.toFixed(2)}, step ${step + 1} of ${shown.run.steps.length}`;
  byId("time-text").textContent = time;
  controls.time.setAttribute("aria-valuetext", time);
  byId("score-text").textContent = percent(controls.score.value);
  controls.score.setAttribute("aria-valuetext", percent(controls.score.value));
  describe(time, aboveThreshold(estimateRows(step)));
}

// The text alternative of the picture, and the table.
function describe(time, estimates) {
  const count = `${estimates.length} ${estimates.length === 1 ? "detection" : "detections"}`;
  const list = estimates.map((x) => `${x.name} ${percent(x.score)}`).join(", ");
  byId("summary").textContent = `${time}: ${count} of at least ${percent(controls.score.value)}`;
  byId("picture").setAttribute("aria-label", `${shown.image.name}, ${time}: ${count}${list && ": "}${list}`);
  const value = (x, show) => (x == null ? "–" : show(x));
  byId("rows").replaceChildren(...estimates.map((x) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = x.name;
    row.append(head);
    const cells = [percent(x.score), x.box.map((c) => Math.round(c)).join(", "), value(x.agreement, percent),
      value(x.spread, (s) => `${s}\u00a0px`), value(x.stability, percent)];
    cells.forEach((text, i) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      cell.className = ["", "", "agreement", "agreement", "stability"][i];
      row.append(cell);
    });
    return row;
  }));
  byId("detections").classList.toggle("no-agreement", !controls.agreement.checked);
  byId("detections").classList.toggle("no-stability", !controls.stability.checked);
}

// --- choices

function chooseRun(index) {
  const ratio = shown.run ? position() / (shown.run.times.length - 1) : 1;
  shown.run = shown.image.runs[index];
  controls.time.max = shown.run.times.length - 1;
  controls.time.value = Math.round(ratio * controls.time.max);
  draw();
}

// A panorama would be a line on a narrow screen: the shorter side of a picture has a least length,
// and the reader scrolls along the other one.
function sizePicture({ width, height }) {
  const scale = Math.min(LEAST_SIDE / Math.min(width, height), 2);
  const { style } = byId("picture");
  style.minWidth = `${Math.round(width * scale)}px`;
  style.minHeight = `${Math.round(height * scale)}px`;
}

function chooseImage(index) {
  const image = JSON.parse(entries[index].textContent);
  const seed = Math.max(controls.seed.selectedIndex, 0);
  shown.image = image;
  controls.image.selectedIndex = index;
  byId("picture").setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  sizePicture(image);
  const { width, height } = image;
  byId("pixels").replaceChildren(element("image", { href: image.picture, width, height }));
  byId("count").textContent = `${index + 1} of ${entries.length}`;
  byId("previous").disabled = index === 0;
  byId("next").disabled = index === entries.length - 1;
  controls.truth.disabled = !image.truth;
  controls.stability.disabled = image.runs.every((run) => !run.stable);
  byId("no-truth").hidden = Boolean(image.truth);
  byId("limit").hidden = image.limit === null;
  byId("limit").textContent = `To keep this page small, at most ${image.limit} boxes of every kind, those with ` +
    "the highest scores, are stored for this image.";
  history.replaceState(null, "", `#image=${index + 1}`);
  chooseRun(seed);
}

function move(control, change) {
  control.value = Number(control.value) + change;
  draw();
}

function moveImage(change) {
  const index = controls.image.selectedIndex + change;
  if (index >= 0 && index < entries.length) chooseImage(index);
}

function stop() {
  clearInterval(shown.timer);
  shown.timer = null;
  byId("play").textContent = "Play";
}

function play() {
  if (shown.timer !== null) return stop();
  if (position() === Number(controls.time.max)) controls.time.value = 0;
  draw();
  byId("play").textContent = "Pause";
  shown.timer = setInterval(() => {
    move(controls.time, 1);
    if (position() === Number(controls.time.max)) stop();
  }, FRAME_MS);
}

function scrolls(part) {
  return part !== null && part.scrollWidth > part.clientWidth;
}

// Left and right move t, with shift the image; + and - move the threshold. A focused list handles its
// own keys; a focused slider, and a focused part that is wider than its window, the arrows without shift.
function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select")) return;
  const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const threshold = { "+": 0.05, "-": -0.05 }[event.key];
  if (direction && !event.shiftKey && (event.target.closest("input[type=range]") ||
    scrolls(event.target.closest(".scroll, #frame")))) return;
  if (direction && event.shiftKey) moveImage(direction);
  else if (direction) move(controls.time, direction);
  else if (threshold) move(controls.score, threshold);
  else return;
  event.preventDefault();
}

// --- set-up

function addBlocks() {
  for (let k = 0; k < page.blocks; k += 1) {
    const label = document.createElement("label");
    const checkbox = document.createElement("input");
    checkbox.type = "checkbox";
    checkbox.id = `block-${k}`;
    blockBoxes.push(checkbox);
    label.append(checkbox, ` block ${k}`);
    byId("blocks").append(label);
  }
  byId("blocks").hidden = page.blocks === 0;
}

function hashIndex() {
  const number = Number(/^#image=(\d+)$/.exec(location.hash)?.[1] ?? 1);
  return Math.min(Math.max(number, 1), entries.length) - 1;
}

function start() {
  addBlocks();
  controls.image.append(...page.images.map((name) => new Option(name)));
  controls.seed.append(...page.seeds.map((seed) => new Option(seed ?? "configured")));
  controls.seed.disabled = page.seeds.length < 2;
  controls.ensemble.disabled = page.blocks === 0;
  controls.agreement.disabled = page.blocks < 2;
  controls.stability.checked = page.stability;
  controls.score.min = page.leastScore;
  controls.score.value = page.threshold;
  const redraw = [controls.time, controls.score, ...document.querySelectorAll("input[type=checkbox]")];
  for (const input of redraw) input.addEventListener("input", draw);
  controls.time.addEventListener("input", stop);
  controls.image.addEventListener("input", () => chooseImage(controls.image.selectedIndex));
  controls.seed.addEventListener("input", () => chooseRun(controls.seed.selectedIndex));
  byId("previous").addEventListener("click", () => moveImage(-1));
  byId("next").addEventListener("click", () => moveImage(1));
  byId("play").addEventListener("click", play);
  document.addEventListener("keydown", onKey);
  window.addEventListener("resize", draw);
  window.addEventListener("hashchange", () => chooseImage(hashIndex()));
  chooseImage(hashIndex());
}

start();
