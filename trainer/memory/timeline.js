"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const canvas = el("canvas"), pen = canvas.getContext("2d");
const MARGIN = { left: 54, right: 8, top: 22, bottom: 46 }, ROW = 20, NARROWEST = 0.004;

// The moments: everything was sent as differences to the one before.
const summed = (steps) => { let sum = 0; return Float64Array.from(steps, (step) => (sum += step)); };
const moments = summed(data.moments), parts = data.parts.map(summed), reserved = summed(data.reserved);
const places = Float64Array.from(moments, place);
const CONTEXT = 0, RESERVED = parts.length;
const hidden = new Set();
let view = { left: 0, right: 1 }, box, top_ = 1, total, shown = [], kept = data.peak, now = data.peak;

function place(event) {
  const after = data.stages.findIndex((stage) => stage[0] > event);
  const at = after < 0 ? data.stages.length - 1 : after - 1;
  const [start, left] = data.stages[at], [end, right] = data.stages[at + 1] || [data.events, 1];
  return left + ((right - left) * (event - start)) / (end - start);
}
const stageAt = (where) => data.stages.findLast((stage) => stage[1] <= where) || data.stages[0];
const spoken = ([, , phase, name]) => (name ? `${phase}: ${name}` : phase);
const span = (list) => ({ left: list[0][1], right: (data.stages[data.stages.indexOf(list.at(-1)) + 1] || [0, 1])[1] });
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function size(bytes) {
  let value = bytes, unit = 0;
  while (unit < 3 && Math.abs(value) >= (unit ? 999.5 : 1024)) { value /= 1024; unit++; }
  return `${unit ? value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0) : value} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}
function inUnit(bytes) {
  const text = (bytes / data.unit).toFixed(2);
  return bytes > 0 && text === "0.00" ? "<0.01" : text;
}
const percent = (bytes) => `${((100 * bytes) / data.limit[0]).toFixed(1)} %`;

// ---- drawing

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const toX = (where) => box.left + ((where - view.left) / (view.right - view.left)) * box.width;
const toPlace = (x) => view.left + ((x - box.left) / box.width) * (view.right - view.left);
const toY = (bytes) => box.top + box.height * (1 - bytes / top_);
const limits = () => data.limit.map((bytes) => bytes - (hidden.has(CONTEXT) ? parts[CONTEXT][0] : 0));

function fitCanvas() {
  const { clientWidth: width, clientHeight: height } = canvas, ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  box = { left: MARGIN.left, top: MARGIN.top, width: Math.floor(width - MARGIN.left - MARGIN.right), height: height - MARGIN.top - MARGIN.bottom };
}

// Totals of what is visible, and the top of the scale: the limit belongs to the picture unless it is far above.
function restack() {
  total = new Float64Array(moments.length);
  parts.forEach((part, k) => { if (!hidden.has(k)) part.forEach((bytes, i) => (total[i] += bytes)); });
  const most = Math.max(1, ...(hidden.has(RESERVED) ? total : reservedLine()));
  top_ = 1.06 * (limits()[1] < 2.5 * most ? Math.max(most, limits()[1]) : most);
}
const reservedLine = () => reserved.map((bytes) => bytes - (hidden.has(CONTEXT) ? parts[CONTEXT][0] : 0));

// For every pixel the moment with most memory in it, or the last one before it.
function choose() {
  let i = places.findIndex((where) => where >= view.left);
  if (i < 0) i = places.length;
  let last = Math.max(0, i - 1);
  shown = Array.from({ length: box.width }, (_, column) => {
    const end = toPlace(box.left + column + 1);
    let best = -1;
    for (; i < places.length && places[i] < end; i++) {
      if (best < 0 || total[i] > total[best]) best = i;
      last = i;
    }
    return best < 0 ? last : best;
  });
}

function steps(values, close) {
  pen.beginPath();
  if (close) pen.moveTo(box.left, toY(0));
  shown.forEach((i, column) => {
    const y = toY(values[i]);
    pen.lineTo(box.left + column, y);
    pen.lineTo(box.left + column + 1, y);
  });
  if (close) pen.lineTo(box.left + box.width, toY(0));
}

function text(words, x, y, { align = "left", fill = "ink", font = "12px system-ui, sans-serif", plate = false } = {}) {
  pen.font = font;
  pen.textAlign = align;
  pen.textBaseline = "middle";
  const width = pen.measureText(words).width, start = align === "right" ? x - width : align === "center" ? x - width / 2 : x;
  if (plate) {
    pen.globalAlpha = 0.85;
    pen.fillStyle = color("paper");
    pen.fillRect(start - 4, y - 9, width + 8, 18);
    pen.globalAlpha = 1;
  }
  pen.fillStyle = color(fill);
  pen.fillText(words, x, y);
}

function rule(x0, y0, x1, y1, stroke, dash = [], width = 1) {
  pen.beginPath();
  pen.setLineDash(dash);
  pen.lineWidth = width;
  pen.strokeStyle = stroke;
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
  pen.setLineDash([]);
}

const phases = data.stages.reduce((runs, stage) => {
  if (runs.length && runs.at(-1)[0][2] === stage[2]) runs.at(-1).push(stage);
  else runs.push([stage]);
  return runs;
}, []);

// A block of the strip under the chart with the longest of `labels` that has room in it.
function block({ left, right }, row, fill, labels) {
  const x0 = clamp(toX(left), box.left, box.left + box.width), x1 = clamp(toX(right), box.left, box.left + box.width);
  if (x1 - x0 < 1) return;
  const y = box.top + box.height + 4 + row * ROW;
  pen.fillStyle = color(fill);
  pen.fillRect(x0 + 0.5, y, x1 - x0 - 1, ROW - 2);
  pen.font = "12px system-ui, sans-serif";
  const label = labels.find((words) => pen.measureText(words).width < x1 - x0 - 4);
  if (label) text(label, (x0 + x1) / 2, y + ROW / 2 - 1, { align: "center" });
}

function drawGround() {
  phases.forEach((run, k) => {
    const { left, right } = span(run);
    pen.fillStyle = color(k % 2 ? "band" : "paper");
    const x0 = Math.max(toX(left), box.left);
    pen.fillRect(x0, box.top, Math.min(toX(right), box.left + box.width) - x0, box.height);
    block({ left, right }, 1, "other", [run[0][2], run[0][2].replace(" step", ""), run[0][2].slice(0, 4) + "."]);
    run.forEach((stage) => {
      const [, , , name] = stage, kind = name.split(" ")[0], number = name.slice(kind.length).trim();
      const known = ["forward", "backward", "update"].includes(kind);
      if (name) block(span([stage]), 0, known ? kind : "other", [name, kind.slice(0, 3) + ". " + number, kind[0].toUpperCase() + number]);
    });
  });
  const exact = top_ / data.unit / 6, power = 10 ** Math.floor(Math.log10(exact));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= exact) * power;
  for (let k = 0; k * step * data.unit <= top_; k++) {
    const y = Math.round(toY(k * step * data.unit)) + 0.5;
    rule(box.left, y, box.left + box.width, y, color("line"));
    text(String(+(k * step).toFixed(4)), box.left - 7, y, { align: "right", fill: "quiet" });
  }
  text(data.unitName, box.left - 7, box.top - 12, { align: "right", fill: "quiet" });
}

function drawAreas() {
  const sum = Float64Array.from(total);
  for (let k = parts.length - 1; k >= 0; k--) {
    if (hidden.has(k)) continue;
    steps(sum, true);
    pen.fillStyle = data.names[k][1];
    pen.fill();
    parts[k].forEach((bytes, i) => (sum[i] -= bytes));
  }
  if (hidden.has(RESERVED)) return;
  steps(reservedLine(), false);
  pen.lineWidth = 1.5;
  pen.strokeStyle = color("quiet");
  pen.stroke();
}

function drawMarks() {
  const [low, high] = limits(), right = box.left + box.width, name = `${data.card}: ${size(data.limit[0])}`;
  if (low <= top_) {
    pen.globalAlpha = 0.25;
    pen.fillStyle = color("limit");
    pen.fillRect(box.left, toY(high), box.width, toY(low) - toY(high));
    pen.globalAlpha = 1;
    rule(box.left, toY(low), right, toY(low), color("limit"), [7, 4], 1.5);
    text(name, box.left + 6, Math.max(toY(high) - 11, 10), { fill: "limit", plate: true });
  } else text(`↑ ${name}, far above`, box.left + 6, box.top - 11, { fill: "limit" });
  if (data.oom !== null && toX(place(data.oom)) >= box.left && toX(place(data.oom)) <= right) {
    const x = toX(place(data.oom)), align = x > box.left + box.width / 2 ? "right" : "left";
    rule(x, box.top, x, box.top + box.height, color("limit"), [2, 3], 2);
    text(data.oomText, x + (align === "left" ? 7 : -7), box.top + box.height - 14, { align, fill: "limit", plate: true });
  }
  const x = toX(places[data.peak]), y = toY(total[data.peak]);
  if (x < box.left || x > right) return;
  pen.beginPath();
  pen.arc(x, y, 4.5, 0, 7);
  pen.fillStyle = color("paper");
  pen.fill();
  pen.lineWidth = 2;
  pen.strokeStyle = color("ink");
  pen.stroke();
}

function draw() {
  fitCanvas();
  restack();
  choose();
  pen.clearRect(0, 0, canvas.width, canvas.height);
  drawGround();
  drawAreas();
  drawMarks();
  show(now);
}

// ---- one moment

const cell = (kind, words) => Object.assign(document.createElement(kind), { textContent: words });
const rows = [...data.names.map((_, k) => k).reverse(), RESERVED].map((k) => {
  const [name, fill] = data.names[k] || ["reserved", "transparent"];
  const row = document.createElement("tr"), head = cell("th", ""), button = cell("button", ""), swatch = cell("span", "");
  swatch.className = "swatch";
  swatch.style.background = fill;
  swatch.style.borderColor = k === RESERVED ? "var(--quiet)" : fill;
  button.append(swatch, name);
  button.type = "button";
  button.onclick = () => { if (!hidden.delete(k)) hidden.add(k); draw(); };
  head.scope = "row";
  head.append(button);
  row.append(head, cell("td", ""), cell("td", ""));
  el(k === RESERVED ? "sums" : "parts").append(row);
  return { k, row, button };
});

function fill(row, bytes) {
  row.cells[1].textContent = inUnit(bytes);
  row.cells[2].textContent = percent(bytes);
}

const shape = (sides) => sides.join(" × ") || "scalar";
function show(i) {
  now = clamp(i, 0, moments.length - 1);
  const where = places[now], words = data.words, [bytes, category, module, op] = data.acts[now];
  const inside = words[module] ? ` in ${words[module]}` : "";
  el("when").textContent = spoken(stageAt(where)) + (now === data.peak ? " (the peak)" : "");
  el("number").textContent = `event ${(moments[now] + 1).toLocaleString("en")} of ${data.events.toLocaleString("en")}`;
  el("act").textContent = bytes > 0
    ? `${words[op]}${inside} takes ${size(bytes)} of ${data.names[category][0]}.`
    : `${size(-bytes)} of ${data.names[category][0]} are given back, made by ${words[op]}${inside}.`;
  rows.forEach(({ k, row, button }) => {
    fill(row, k === RESERVED ? reserved[now] : parts[k][now]);
    button.setAttribute("aria-pressed", String(!hidden.has(k)));
  });
  const all = parts.reduce((sum, part) => sum + part[now], 0);
  fill(el("all"), all);
  const items = data.held[now].map(([kind, count]) => {
    const [category, module, op, sides, dtype, nbytes] = data.kinds[kind], item = document.createElement("li");
    item.append(`${size(nbytes * count)}: ${count > 1 ? `${count} of ` : ""}${shape(sides)} ${dtype}`);
    item.append(cell("small", `${data.names[category][0]}, ${words[op]}${words[module] ? ` in ${words[module]}` : ""}`));
    return item;
  });
  el("largest").replaceChildren(...items);
  canvas.setAttribute("aria-valuemax", data.events - 1);
  canvas.setAttribute("aria-valuenow", moments[now]);
  canvas.setAttribute("aria-valuetext", `${el("when").textContent}, ${size(all)}, ${percent(all)} of the card`);
  const x = toX(where), cursor = el("cursor");
  cursor.hidden = x < box.left || x > box.left + box.width;
  cursor.style.transform = `translate(${Math.round(x)}px, ${box.top}px)`;
  cursor.style.height = `${box.height}px`;
}

function keep(i) {
  show(i);
  kept = now;
  try { history.replaceState(null, "", `#at=${moments[now]}`); } catch { /* a page without an address */ }
}

function fromAddress() {
  const asked = /^#at=(\d+)$/.exec(location.hash);
  if (!asked) return;
  const after = moments.findIndex((event) => event > Number(asked[1]));
  kept = now = after < 0 ? moments.length - 1 : Math.max(0, after - 1);
}

// ---- zoom

function zoom(left, right) {
  const width = clamp(right - left, NARROWEST, 1), start = clamp((left + right - width) / 2, 0, 1 - width);
  view = { left: start, right: start + width };
  draw();
}
function zoomBy(factor, around = clamp(places[now], view.left, view.right)) {
  zoom(around - (around - view.left) * factor, around + (view.right - around) * factor);
}
function move(by) {
  const there = clamp(Math.floor(toX(places[now]) - box.left), 0, box.width - 1);
  let column = there + by;
  while (shown[column] === now) column += Math.sign(by);
  if (column >= 0 && column < box.width) return keep(shown[column]);
  const shift = (Math.sign(by) * (view.right - view.left)) / 2;
  if ((by < 0 && view.left > 0) || (by > 0 && view.right < 1)) zoom(view.left + shift, view.right + shift);
  return keep(clamp(now + Math.sign(by), 0, moments.length - 1));
}
function toPeak() {
  if (places[data.peak] < view.left || places[data.peak] > view.right) zoom(places[data.peak] - 0.1, places[data.peak] + 0.1);
  keep(data.peak);
}

// ---- hands

const column = (event) => clamp(Math.floor(event.clientX - canvas.getBoundingClientRect().left - box.left), 0, box.width - 1);
let pressed = null;
function dragTo(event) {
  const from = Math.min(pressed, column(event)), to = Math.max(pressed, column(event)), area = el("selection");
  area.hidden = event.pointerType !== "mouse" || to - from < 5;
  area.style.transform = `translate(${box.left + from}px, ${box.top}px)`;
  area.style.width = `${to - from}px`;
  area.style.height = `${box.height}px`;
  return area.hidden ? null : [from, to].map((x) => toPlace(box.left + x));
}
function pressStrip(event) {
  const row = Math.floor((event.clientY - canvas.getBoundingClientRect().top - box.top - box.height - 4) / ROW);
  const stage = stageAt(toPlace(box.left + column(event)));
  if (row < 0) return false;
  const { left, right } = span(row === 0 ? [stage] : phases.find((run) => run.includes(stage)));
  zoom(left, right);
  return true;
}
canvas.addEventListener("pointerdown", (event) => { pressed = column(event); canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", (event) => {
  if (pressed !== null) dragTo(event);
  show(shown[column(event)]);
});
canvas.addEventListener("pointerup", (event) => {
  const range = pressed === null ? null : dragTo(event);
  pressed = null;
  el("selection").hidden = true;
  if (range) zoom(...range);
  else if (!pressStrip(event)) keep(shown[column(event)]);
});
canvas.addEventListener("pointercancel", () => { pressed = null; });
canvas.addEventListener("pointerleave", () => { if (pressed === null) show(kept); });
canvas.addEventListener("dblclick", () => zoom(0, 1));
canvas.addEventListener("wheel", (event) => {
  if (event.deltaY > 0 && view.right - view.left >= 1) return; // the page may scroll on
  event.preventDefault();
  const shift = (event.deltaX / box.width) * (view.right - view.left);
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) zoom(view.left + shift, view.right + shift);
  else zoomBy(Math.exp(event.deltaY / 400), toPlace(box.left + column(event)));
}, { passive: false });
const keys = {
  ArrowLeft: (event) => move(event.shiftKey ? -25 : -1), ArrowRight: (event) => move(event.shiftKey ? 25 : 1),
  Home: () => keep(0), End: () => keep(moments.length - 1), p: toPeak,
  "+": () => zoomBy(0.5), "-": () => zoomBy(2), Escape: () => zoom(0, 1),
};
canvas.addEventListener("keydown", (event) => {
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key](event);
});
el("to-peak").onclick = toPeak;
el("closer").onclick = () => zoomBy(0.5);
el("wider").onclick = () => zoomBy(2);
el("whole").onclick = () => zoom(0, 1);
window.addEventListener("hashchange", () => { fromAddress(); draw(); });
window.addEventListener("resize", draw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

const sum = document.createElement("tr");
sum.id = "all";
sum.append(Object.assign(cell("th", "together"), { scope: "row" }), cell("td", ""), cell("td", ""));
el("sums").prepend(sum);
fromAddress();
draw();
