// The chart: stacked areas over time, the limit, the peak, and the strip of stages under it.

const MARGIN = { left: 54, right: 8, top: 22, bottom: 46 }, ROW = 20, NARROWEST = 0.004, FONT = "12px system-ui, sans-serif";
const canvas = el("canvas"), pen = canvas.getContext("2d"), hidden = new Set();
let view = { left: 0, right: 1 }, kept = data.peak, now = data.peak; // places in view; the moment kept, and the one shown
let box, highest, total, held, shown; // the chart's frame, top of its scale, bytes shown and reserved, moment of each pixel
if (context > Math.max(...reserved) / 2) hidden.add(CONTEXT); // else there is little to see of a small run

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const toX = (place) => box.left + ((place - view.left) / (view.right - view.left)) * box.width;
const toPlace = (x) => view.left + ((x - box.left) / box.width) * (view.right - view.left);
const toY = (bytes) => box.top + box.height * (1 - bytes / highest);
const below = () => (hidden.has(CONTEXT) ? context : 0); // bytes of the card under the foot of the chart
const whole = () => ![...hidden].some((k) => k !== CONTEXT && k !== RESERVED); // else limit and reserved mean nothing

function frame() {
  const { clientWidth: width, clientHeight: height } = canvas, ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  const { left, right, top, bottom } = MARGIN;
  box = { left, top, width: Math.max(1, Math.floor(width - left - right)), height: height - top - bottom };
}

// The limit belongs to the picture unless it is far above.
function scale() {
  total = moments.map((_, i) => parts.reduce((sum, part, k) => sum + (hidden.has(k) ? 0 : part[i]), 0));
  held = whole() && !hidden.has(RESERVED) ? reserved.map((bytes) => bytes - below()) : null;
  const most = Math.max(1, ...(held || total)), limit = whole() ? data.limit[1] - below() : 0;
  highest = 1.06 * (limit < 2.5 * most ? Math.max(most, limit) : most);
}

// For every pixel the moment with most memory in it, or the last one before it.
function choose() {
  let next = places.findIndex((place) => place >= view.left);
  if (next < 0) next = places.length;
  shown = Array.from({ length: box.width }, (_, column) => {
    const end = toPlace(box.left + column + 1), first = next;
    let best = first;
    for (; next <= LAST && places[next] < end; next++) if (total[next] > total[best]) best = next;
    return next > first ? best : Math.max(0, next - 1);
  });
}

function trace(values, foot) {
  pen.beginPath();
  if (foot !== undefined) pen.moveTo(box.left, foot);
  shown.forEach((i, column) => {
    const y = toY(values[i]);
    pen.lineTo(box.left + column, y);
    pen.lineTo(box.left + column + 1, y);
  });
  if (foot !== undefined) pen.lineTo(box.left + box.width, foot);
}

function stroke(ink, width, dash = []) {
  pen.strokeStyle = color(ink);
  pen.lineWidth = width;
  pen.setLineDash(dash);
  pen.stroke();
  pen.setLineDash([]);
}
function area(x0, y0, x1, y1, fill, alpha = 1) {
  pen.globalAlpha = alpha;
  pen.fillStyle = color(fill);
  pen.fillRect(x0, y0, x1 - x0, y1 - y0);
  pen.globalAlpha = 1;
}
function text(words, x, y, align = "left", fill = "ink", plate = false) {
  [pen.font, pen.textBaseline] = [FONT, "middle"];
  const width = pen.measureText(words).width;
  const start = { left: x, right: x - width, center: x - width / 2 }[align];
  if (plate) area(start - 4, y - 9, start + width + 4, y + 9, "paper", 0.85);
  pen.fillStyle = color(fill);
  pen.fillText(words, start, y);
}

// A block of the strip under the chart, with the first of `labels` that has room in it.
function block({ left, right }, row, fill, labels) {
  const x0 = Math.max(toX(left), box.left), x1 = Math.min(toX(right), box.left + box.width);
  if (x1 - x0 < 1) return;
  const y = box.top + box.height + 4 + row * ROW;
  area(x0 + 0.5, y, x1 - 0.5, y + ROW - 2, fill);
  pen.font = FONT;
  const label = labels.find((words) => pen.measureText(words).width < x1 - x0 - 4);
  if (label) text(label, (x0 + x1) / 2, y + ROW / 2 - 1, "center");
}

function drawGround() {
  const right = box.left + box.width, foot = box.top + box.height;
  phases.forEach((each, k) => {
    const x0 = clamp(toX(each.left), box.left, right), x1 = clamp(toX(each.right), box.left, right);
    area(x0, box.top, x1, foot, k % 2 ? "band" : "paper");
    block(each, 1, "other", [each.phase, each.phase.replace(" step", ""), `${each.phase.slice(0, 4)}.`]);
  });
  stages.filter((each) => each.name).forEach((each) => {
    const [kind, number = ""] = each.name.split(" ");
    const fill = ["forward", "backward", "update"].includes(kind) ? kind : "other";
    block(each, 0, fill, [each.name, kind[0].toUpperCase() + number]);
  });
  const fine = highest / data.unit / 6, power = 10 ** Math.floor(Math.log10(fine));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= fine) * power;
  for (let value = 0; value * data.unit <= highest; value += step) {
    const y = Math.round(toY(value * data.unit));
    area(box.left, y, right, y + 1, "line");
    text(String(+value.toFixed(4)), box.left - 7, y, "right", "quiet");
  }
  text(data.unitName, box.left - 7, box.top - 12, "right", "quiet");
}

function drawMemory() {
  const sum = total.slice();
  for (let k = parts.length - 1; k >= 0; k--) {
    if (hidden.has(k)) continue;
    trace(sum, toY(0));
    pen.fillStyle = data.names[k][1];
    pen.fill();
    parts[k].forEach((bytes, i) => (sum[i] -= bytes));
  }
  if (!held) return;
  trace(held);
  stroke("quiet", 1.5);
  if (box.width > 500) text("reserved", box.left + box.width - 4, toY(held[shown.at(-1)]) + 11, "right", "quiet", true);
}

function drawLimit() {
  const [low, high] = data.limit.map((bytes) => toY(bytes - below())), right = box.left + box.width;
  const name = `${data.card}: ${size(data.limit[0])}`, out = data.oom === null ? -1 : toX(placeOf(data.oom));
  if (!whole()) return;
  if (low < box.top) text(`↑ ${name}, far above`, box.left + 6, box.top - 11, "left", "limit");
  else {
    area(box.left, high, right, low, "limit", 0.25);
    border(box.left, low, right, low, [7, 4]);
    text(name, box.left + 8, Math.max(high - 12, 10), "left", "limit", true);
  }
  if (out < box.left || out > right) return;
  const side = out > box.left + box.width / 2 ? ["right", -8] : ["left", 8];
  border(out, box.top, out, box.top + box.height, [2, 3]);
  text(data.oomText, out + side[1], box.top + box.height - 14, side[0], "limit", true);
}
function border(x0, y0, x1, y1, dash) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  stroke("paper", 3.5);
  stroke("limit", 2, dash);
}

function drawPeak() {
  const x = toX(places[data.peak]), y = toY(total[data.peak]), right = box.left + box.width;
  if (x < box.left || x > right) return;
  const words = `${whole() && !hidden.has(CONTEXT) ? "at the peak, allocated and context:" : "shown at the peak:"} ${size(total[data.peak])}`;
  text(words, clamp(x, box.left + 330, right - 60), box.top - 11, "center"); // beside a limit far above
  area(x, box.top - 3, x + 1, y, "quiet", 0.6);
  pen.beginPath();
  pen.arc(x, y, 4.5, 0, 7);
  pen.fillStyle = color("paper");
  pen.fill();
  stroke("ink", 2);
}

function draw() {
  [frame, scale, choose, drawGround, drawMemory, drawLimit, drawPeak].forEach((part) => part());
  show(now);
}
