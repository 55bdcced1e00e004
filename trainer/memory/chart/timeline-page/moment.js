// One moment as numbers: what happened, the bytes of every category, and the largest tensors.

const made = (kind, words, more = {}) => Object.assign(document.createElement(kind), { textContent: words }, more);
function addRow(parent, head) {
  const row = made("tr", ""), name = made("th", "", { scope: "row" });
  name.append(head);
  row.append(name, made("td", ""), made("td", ""));
  el(parent).append(row);
  return (bytes) => [inUnit(bytes), percent(bytes)].forEach((words, k) => (row.cells[k + 1].textContent = words));
}
const together = addRow("sums", "together");
const rows = [RESERVED, ...data.names.keys()].reverse().map((k) => {
  const [name, fill] = data.names[k] || ["reserved", "transparent"], swatch = made("span", "", { className: "swatch" });
  Object.assign(swatch.style, { background: fill, borderColor: k === RESERVED ? "var(--quiet)" : fill });
  const button = made("button", "", { type: "button", className: "key", title: "show or hide in the chart" });
  button.append(swatch, name);
  button.onclick = () => { if (!hidden.delete(k)) hidden.add(k); draw(); };
  return { k, button, tell: addRow(k === RESERVED ? "sums" : "parts", button) };
});

const origin = (...words) => words.filter(Boolean).join(" in ");
function show(i) {
  now = i;
  const { phase, name } = holding(stages, places[i]), [bytes, category, module, op] = data.acts[i];
  const maker = origin(data.words[op], data.words[module]), all = parts.reduce((sum, part) => sum + part[i], 0);
  el("when").textContent = [phase, name].filter(Boolean).join(": ") + (i === data.peak ? " (peak)" : "");
  el("number").textContent = `event ${(moments[i] + 1).toLocaleString("en")} of ${data.events.toLocaleString("en")}`;
  el("act").textContent = `${bytes > 0 ? "takes" : "gives back"} ${size(Math.abs(bytes))}: ${data.names[category][0]}${maker && `, ${maker}`}`;
  rows.forEach(({ k, button, tell }) => {
    tell(k === RESERVED ? reserved[i] : parts[k][i]);
    button.setAttribute("aria-pressed", !hidden.has(k));
  });
  together(all);
  el("largest").replaceChildren(...data.held[i].map(([kind, count]) => {
    const [category, module, op, sides, dtype, nbytes] = data.kinds[kind], many = count > 1 ? `${count} of ` : "";
    const item = made("li", `${size(nbytes * count)}: ${many}${sides.join(" × ") || "scalar"} ${dtype}`);
    item.append(made("small", [data.names[category][0], origin(data.words[op], data.words[module])].filter(Boolean).join(", ")));
    return item;
  }));
  canvas.setAttribute("aria-valuemax", data.events - 1);
  canvas.setAttribute("aria-valuenow", moments[i]);
  canvas.setAttribute("aria-valuetext", `${el("when").textContent}, ${size(all)}, ${percent(all)} of the card`);
  const x = Math.round(toX(places[i]));
  el("cursor").hidden = x < box.left || x > box.left + box.width;
  lay("cursor", x, 1);
}
function lay(id, left, width) {
  Object.entries({ left, top: box.top, width, height: box.height }).forEach(([side, at]) => (el(id).style[side] = `${at}px`));
}
