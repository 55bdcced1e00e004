// Mouse, touch, keys, buttons, and the address: which moment is shown, and which part of the run.
function keep(i) {
  kept = i;
  show(i);
  try { history.replaceState(null, "", `#at=${moments[i]}`); } catch { /* a page without an address */ }
}
function readAddress() {
  const asked = /^#at=(\d+)$/.exec(location.hash);
  if (asked) kept = now = Math.max(0, moments.findLastIndex((event) => event <= Number(asked[1])));
  draw();
}

function zoom(left, right) {
  const width = clamp(right - left, NARROWEST, 1), start = clamp((left + right - width) / 2, 0, 1 - width);
  view = { left: start, right: start + width };
  draw();
}
function zoomBy(factor, around = clamp(places[now], view.left, view.right)) {
  zoom(around - (around - view.left) * factor, around + (view.right - around) * factor);
}
function move(by) {
  let column = clamp(Math.floor(toX(places[now]) - box.left), 0, box.width - 1) + by;
  while (shown[column] === now) column += Math.sign(by);
  keep(shown[column] ?? clamp(now + Math.sign(by), 0, LAST));
  reveal();
}
function reveal() {
  const half = (view.right - view.left) / 2, place = places[now];
  if (place < view.left || place > view.right) zoom(place - half, place + half);
}
const columnOf = (event) => clamp(Math.floor(event.offsetX - box.left), 0, box.width - 1);
let pressed = null; // the column where the mouse went down
function dragged(event) {
  const from = Math.min(pressed, columnOf(event)), to = Math.max(pressed, columnOf(event));
  const far = event.pointerType === "mouse" && to - from > 4;
  el("selection").hidden = !far;
  lay("selection", box.left + from, to - from);
  return far && [toPlace(box.left + from), toPlace(box.left + to)];
}
const hands = {
  pointerdown(event) { pressed = columnOf(event); canvas.setPointerCapture(event.pointerId); },
  pointermove(event) { if (pressed !== null) dragged(event); show(shown[columnOf(event)]); },
  pointerup(event) {
    const range = pressed !== null && dragged(event), row = Math.floor((event.offsetY - box.top - box.height - 4) / ROW);
    pressed = null;
    el("selection").hidden = true;
    const { left, right } = holding(row ? phases : stages, toPlace(box.left + columnOf(event)));
    if (range) zoom(...range);
    else if (row >= 0) zoom(left, right);
    else keep(shown[columnOf(event)]);
  },
  pointercancel() { pressed = null; },
  pointerleave() { if (pressed === null) show(kept); },
  dblclick() { zoom(0, 1); },
  wheel(event) {
    if (event.deltaY > 0 && view.right - view.left >= 1) return; // the page may scroll on
    event.preventDefault();
    const shift = (event.deltaX / box.width) * (view.right - view.left);
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) zoom(view.left + shift, view.right + shift);
    else zoomBy(Math.exp(event.deltaY / 400), toPlace(box.left + columnOf(event)));
  },
  keydown(event) {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key](event.shiftKey ? 25 : 1);
  },
};
const toPeak = () => { keep(data.peak); reveal(); };
const keys = {
  ArrowLeft: (far) => move(-far), ArrowRight: (far) => move(far), p: toPeak, Escape: () => zoom(0, 1),
  Home: () => { keep(0); reveal(); }, End: () => { keep(LAST); reveal(); }, "+": () => zoomBy(0.5), "-": () => zoomBy(2),
};
Object.entries(hands).forEach(([name, hand]) => canvas.addEventListener(name, hand, { passive: false }));
Object.entries({ peak: toPeak, closer: keys["+"], wider: keys["-"], whole: keys.Escape }).forEach(([id, call]) => (el(id).onclick = () => call()));
window.addEventListener("hashchange", readAddress);
window.addEventListener("resize", draw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
readAddress();
