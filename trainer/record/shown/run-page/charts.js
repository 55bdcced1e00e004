// Charts of one or several runs: lines over steps, tokens or time, held-out marks, a stack for what holds the memory.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const hidden = new Set(), MARGIN = { left: 58, right: 12, top: 8, bottom: 24 }, HEIGHT = 240;
let axis = "step", at = null; // what is from left to right, and the place that is read, from 0 to 1

function svg(name, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}
function make(name, parent, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return parent.appendChild(made);
}

const known = (value) => value !== null && value !== undefined;
const runsShown = () => data.runs.filter((run) => !hidden.has(run.name));
// A chart with held-out losses has those of one unit.
const runsOf = (chart) => runsShown().filter((run) => !chart.held || run.loss_unit === chart.unit);
const words = (value, chart) => (chart.small && value ? value.toExponential(2) : value.toLocaleString("en", { maximumFractionDigits: chart.digits }));
const clock = (seconds) => (seconds < 120 ? `${+seconds.toFixed(1)} s` : seconds < 7200 ? `${+(seconds / 60).toFixed(1)} min` : `${+(seconds / 3600).toFixed(1)} h`);
const short = (value) => (axis === "time" ? clock(value) : Intl.NumberFormat("en", { notation: "compact" }).format(value));

// Round numbers between two ends.
function ticks(low, high, most) {
  const rough = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= rough) * power, first = Math.ceil(low / step) * step;
  // Counted: a step below the last place of what it is added to would never get there.
  const count = Math.min(most + 2, Math.floor((high - first) / step + 1e-6) + 1);
  return Array.from({ length: Math.max(0, count) || 0 }, (_, k) => +(first + k * step).toPrecision(12));
}

function scales(chart, width) {
  const runs = runsOf(chart), xs = runsShown().flatMap((run) => [run.x[axis].at(-1) ?? 0, run.held.x[axis].at(-1) ?? 0]);
  const ys = runs.flatMap((run) => (chart.stack ? tops(run, chart) : [...(run.y[chart.key] || []), ...(chart.held ? run.held.y : [])])).filter(known).sort((a, b) => a - b);
  const right = Math.max(...xs, 1e-9), last = ys[Math.floor((ys.length - 1) * (chart.key === "loss" ? 0.995 : 1))] ?? 1;
  let low = chart.zero ? 0 : (ys[0] ?? 0), high = Math.max(last, low + 1e-6 * Math.abs(low) + 1e-12);
  const room = 0.06 * (high - low) || Math.abs(high) * 0.1 || 1;
  [low, high] = [chart.zero ? 0 : low - room, high + room];
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  return {
    low, high, right, inner,
    x: (value) => MARGIN.left + (value / right) * inner.width,
    y: (value) => MARGIN.top + inner.height * (1 - (value - low) / (high - low)),
  };
}

// A path through the points that are known.
function path(xs, ys, scale) {
  let open = false, text = "";
  xs.forEach((x, i) => {
    if (known(ys[i])) text += `${open ? "L" : "M"}${scale.x(x).toFixed(1)} ${scale.y(ys[i]).toFixed(1)}`;
    open = known(ys[i]);
  });
  return text;
}
function band(xs, low, high, scale) {
  const points = xs.map((x, i) => [scale.x(x), low[i], high[i]]).filter(([, a, b]) => known(a) && known(b));
  const there = points.map(([x, , top]) => `${x.toFixed(1)} ${scale.y(top).toFixed(1)}`);
  const back = points.reverse().map(([x, foot]) => `${x.toFixed(1)} ${scale.y(foot).toFixed(1)}`);
  return there.length ? `M${[...there, ...back].join("L")}Z` : "";
}
function tops(run, chart) {
  return run.x.step.map((_, i) => chart.stack.reduce((sum, [name]) => sum + (run.y[name][i] ?? 0), 0));
}

function ground(chart, scale, box) {
  for (const value of ticks(scale.low, scale.high, 5)) {
    const y = scale.y(value);
    svg("line", { class: "grid", x1: MARGIN.left, x2: MARGIN.left + scale.inner.width, y1: y, y2: y }, box);
    svg("text", { x: MARGIN.left - 7, y: y + 4, "text-anchor": "end" }, box, words(value, chart));
  }
  const marks = ticks(0, scale.right, Math.max(2, scale.inner.width / 110));
  for (const value of marks) svg("text", { x: scale.x(value), y: HEIGHT - 6, "text-anchor": "middle" }, box, short(value));
}

function stack(run, chart, scale, box) {
  let foot = run.x.step.map(() => 0);
  for (const [name, color] of chart.stack) {
    const top = foot.map((sum, i) => sum + (run.y[name][i] ?? 0));
    svg("path", { d: band(run.x[axis], foot, top, scale), fill: color }, box);
    foot = top;
  }
}

function lines(run, chart, scale, box) {
  const ys = run.y[chart.key] || [];
  if (chart.key === "loss" && run.low) svg("path", { class: "band", d: band(run.x[axis], run.low, run.high, scale), fill: run.color }, box);
  svg("path", { class: "line", d: path(run.x[axis], ys, scale), stroke: run.color }, box);
  if (!chart.held) return;
  svg("path", { class: "line", "stroke-dasharray": "5 3", d: path(run.held.x[axis], run.held.y, scale), stroke: run.color }, box);
  run.held.y.forEach((value, i) => known(value) && svg("circle", { cx: scale.x(run.held.x[axis][i]), cy: scale.y(value), r: 3.5, fill: run.color }, box));
}

// The last value of a run at or before a place.
function valueAt(xs, ys, x) {
  let found = null;
  for (let i = 0; i < xs.length && xs[i] <= x + 1e-9; i++) if (known(ys[i])) found = ys[i];
  return found;
}
// What the values are at a place, or at the end, each behind the colour of its area or line where there are several.
function read(chart, scale) {
  const x = at === null ? scale.right : at * scale.right, when = at === null ? "at the end" : `${axis === "time" ? "at" : axis} ${short(x)}`;
  const found = runsOf(chart).flatMap((run) => {
    if (chart.stack) return chart.stack.map(([name, color]) => [name.replaceAll("_", " "), color, valueAt(run.x[axis], run.y[name], x)]).filter(([, , value]) => value);
    const color = data.runs.length > 1 ? run.color : "", held = chart.held ? valueAt(run.held.x[axis], run.held.y, x) : null;
    return [["", color, valueAt(run.x[axis], run.y[chart.key] || [], x)], ["held-out", color, held]].filter(([, , value]) => known(value));
  });
  chart.said.replaceChildren(`${when}: ${found.length ? "" : "–"}`);
  found.forEach(([name, color, value], k) => {
    if (k) chart.said.append(" · ");
    if (color) make("span", chart.said).className = "swatch";
    if (color) chart.said.lastChild.style.background = chart.said.lastChild.style.borderColor = color;
    chart.said.append(`${name} ${words(value, chart)}`.trim());
  });
}

function draw(chart) {
  const box = chart.box, width = box.clientWidth || 460, scale = scales(chart, width);
  box.replaceChildren();
  box.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  ground(chart, scale, box);
  runsOf(chart).forEach((run) => (chart.stack ? stack : lines)(run, chart, scale, box));
  if (at !== null) svg("line", { class: "cursor", x1: scale.x(at * scale.right), x2: scale.x(at * scale.right), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }, box);
  read(chart, scale);
}
const drawAll = () => data.charts.forEach(draw);
function readAt(place) {
  at = place === null ? null : Math.min(1, Math.max(0, place));
  drawAll();
}

for (const chart of data.charts) {
  const figure = make("figure", el("charts")), caption = make("figcaption", figure);
  make("span", caption, chart.unit ? `${chart.title}, ${chart.unit}` : chart.title);
  chart.said = make("small", caption);
  chart.box = svg("svg", { role: "img", tabindex: 0, "aria-label": chart.title }, figure);
  const place = (event) => (event.offsetX - MARGIN.left) / (chart.box.clientWidth - MARGIN.left - MARGIN.right);
  chart.box.addEventListener("pointermove", (event) => readAt(place(event)));
  chart.box.addEventListener("pointerdown", (event) => readAt(place(event)));
  chart.box.addEventListener("pointerleave", () => readAt(null));
  chart.box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.01, ArrowRight: 0.01 }[event.key];
    if (event.key === "Escape") readAt(null);
    else if (step) { event.preventDefault(); readAt((at ?? 1) + step * (event.shiftKey ? 10 : 1)); }
  });
}
for (const name of ["step", "tokens", "time"]) {
  const button = make("button", el("axes"), { step: "steps", tokens: "tokens", time: "time" }[name]);
  button.onclick = () => { axis = name; [...el("axes").children].forEach((each) => each.setAttribute("aria-pressed", each === button)); drawAll(); };
  button.setAttribute("aria-pressed", name === axis);
}
for (const run of data.runs.length > 1 ? data.runs : []) {
  const button = make("button", el("runs"), run.name), swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = swatch.style.borderColor = run.color;
  button.prepend(swatch);
  button.setAttribute("aria-pressed", true);
  button.onclick = () => { hidden.has(run.name) ? hidden.delete(run.name) : hidden.add(run.name); button.setAttribute("aria-pressed", !hidden.has(run.name)); drawAll(); };
}
window.addEventListener("resize", drawAll);
drawAll();
