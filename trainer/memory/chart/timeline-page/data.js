// What was sent: moments, bytes by category, stages; and how sizes are written.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Moments, bytes by category and reserved bytes were sent as differences to the one before.
const summed = (steps) => { let sum = 0; return Float64Array.from(steps, (step) => (sum += step)); };
const moments = summed(data.moments), parts = data.parts.map(summed), reserved = summed(data.reserved);
const LAST = moments.length - 1, CONTEXT = 0, RESERVED = parts.length, context = parts[CONTEXT][0];

// Stages with their places on the axis from 0 to 1, and the phases that they make up.
const stages = data.stages.map(([start, left, phase, name], k) => {
  const [end, right] = data.stages[k + 1] || [data.events, 1];
  return { start, end, left, right, phase, name };
});
const phases = stages.reduce((found, { phase, left, right }) => {
  if (found.at(-1)?.phase === phase) found.at(-1).right = right;
  else found.push({ phase, left, right });
  return found;
}, []);
const holding = (list, place) => list.findLast((each) => each.left <= place) || list[0];
function placeOf(event) {
  const { start, end, left, right } = stages.findLast((stage) => stage.start <= event);
  return left + ((right - left) * (event - start)) / (end - start);
}
const places = Float64Array.from(moments, placeOf);

function size(bytes) {
  let value = bytes, unit = 0;
  while (unit < 3 && value >= (unit ? 999.5 : 1024)) { value /= 1024; unit++; }
  return `${unit ? value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0) : value} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}
const inUnit = (bytes) => (bytes > 0 && bytes < data.unit / 200 ? "<0.01" : (bytes / data.unit).toFixed(2));
const percent = (bytes) => `${((100 * bytes) / data.limit[0]).toFixed(1)} %`;
