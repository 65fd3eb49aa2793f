"use strict";
// Three kinds of plot as SVG, drawn anew for every width: lines with bands, intervals, a matrix of probabilities.

const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 4", "2 4", "9 3 2 3"];
const HUES = 8;
const STEPS = "agent steps";
const tip = document.getElementById("tip");

function add(parent, tag, attributes, text) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

function draw(parent, tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

const colour = (group) => `var(--s${group % HUES})`;
const dash = (group) => DASHES[Math.floor(group / HUES) % DASHES.length];

function swatch(parent, group) {
  const svg = draw(parent, "svg", { width: 22, height: 10, class: "swatch", "aria-hidden": "true" });
  draw(svg, "line", { x1: 1, x2: 21, y1: 5, y2: 5, stroke: colour(group), "stroke-width": 3, "stroke-dasharray": dash(group) });
}

// A number as people write it: 4 digits that count, k and M for large ones on axes.
function number(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return value.toExponential(2).replace("-", "\u2212").replace("e+", "e");
  const decimals = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : size >= 0.1 ? 3 : 4;
  const text = value.toLocaleString("en-US", { maximumFractionDigits: decimals, minimumFractionDigits: Number.isInteger(value) ? 0 : decimals });
  return text.replace("-", "\u2212");
}

function ticks(low, high, most) {
  const raw = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= raw * 0.75);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found.map((value) => ({ value, label: tickLabel(value, step, Math.max(Math.abs(low), Math.abs(high))) }));
}

function tickLabel(value, step, largest) {
  if (Math.abs(value) < step * 1e-6) return "0";
  const [unit, suffix] = largest >= 1e9 ? [1e9, "G"] : largest >= 1e6 ? [1e6, "M"] : largest >= 1e4 ? [1e3, "k"] : [1, ""];
  const decimals = Math.max(0, -Math.floor(Math.log10(step / unit) + 1e-9));
  const text = decimals > 4 ? value.toExponential(1).replace("e+", "e") : (value / unit).toFixed(decimals) + suffix;
  return text.replace(/-/g, "\u2212");
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const list of values) for (const value of list) { if (value < low) low = value; if (value > high) high = value; }
  if (low > high) return null;
  const none = high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high));
  return none ? [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)] : [low, high];
}

const padded = ([low, high], share) => [low - (high - low) * share, high + (high - low) * share];
const scale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);

// The running mean that TensorBoard shows: weight 0 is the values themselves.
function smoothed(values, weight) {
  if (!values || weight === 0) return values;
  let last = 0, debias = 1;
  return values.map((value) => {
    last = last * weight + (1 - weight) * value;
    debias *= weight;
    return last / (1 - debias);
  });
}

function axes(svg, plot, box, xs, ys, x, y) {
  for (const tick of ys) {
    draw(svg, "line", { x1: box.left, x2: box.right, y1: y(tick.value), y2: y(tick.value), class: "gridline" });
    draw(svg, "text", { x: box.left - 8, y: y(tick.value) + 4, "text-anchor": "end" }, tick.label);
  }
  for (const tick of xs) draw(svg, "text", { x: x(tick.value), y: box.bottom + 18, "text-anchor": "middle" }, tick.label);
  draw(svg, "line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "axis" });
  draw(svg, "text", { x: box.right, y: box.bottom + 36, "text-anchor": "end" }, plot.x);
  if (plot.y) draw(svg, "text", { x: 0, y: 12 }, plot.y);
}

// The end of every axis of agent steps, so that plots below each other are of the same steps.
function stepsTaken(state) {
  const ends = figures.flatMap(({ plot }) => (plot.x === STEPS ? plot : plot.pace ? overSteps(plot) : { curves: [] }).curves.map((curve, group) => (curve && curve.x.length && !state.hidden.has(group) ? curve.x[curve.x.length - 1] : 0)));
  return Math.max(1, ...ends);
}

// A plot over epochs as one over agent steps; a group without a known length of its epochs is left out.
function overSteps(plot) {
  const curves = plot.curves.map((curve, group) => (curve && plot.pace[group] ? { ...curve, x: curve.x.map((epoch) => plot.pace[group][0] + epoch * plot.pace[group][1]) } : null));
  return { ...plot, title: plot.title.replace("epochs", STEPS), x: STEPS, curves };
}

function drawLines(figure, plot, width, state) {
  const shown = plot.curves.map((curve, group) => ({ curve, group })).filter(({ curve, group }) => curve && curve.x.length && !state.hidden.has(group));
  if (!shown.length) return void add(figure, "p", { class: "empty" }, "Nothing to show for these runs.");
  const curves = shown.map(({ curve, group }) => {
    const weight = plot.smooth ? state.smoothing : 0;
    return { group, x: curve.x, y: smoothed(curve.y, weight), low: smoothed(curve.low, weight), high: smoothed(curve.high, weight) };
  });
  const height = figure.classList.contains("small") ? 210 : 320;
  const xRange = plot.x === STEPS ? [0, stepsTaken(state)] : range(curves.map((curve) => curve.x));
  const yRange = padded(plot.focus || range(curves.flatMap((curve) => [curve.y, curve.low || [], curve.high || []])), 0.04);
  const wide = width > 520; // names fit beside the ends of the curves, else above them
  const named = plot.ends && curves.length > 1 && curves.length <= 5 && (wide || !figure.classList.contains("small"));
  const longest = Math.max(...curves.map((curve) => short(state.names[curve.group]).length));
  const box = { left: 0, right: width - (named && wide ? 16 + longest * 7.6 : 20), top: 24, bottom: height - 44 };
  const ys = ticks(...yRange, (box.bottom - box.top) / 46);
  box.left = 14 + Math.max(...ys.map((tick) => tick.label.length)) * 7;
  const x = scale(xRange, box.left, box.right), y = scale(yRange, box.bottom, box.top);
  let xs = ticks(...xRange, (box.right - box.left) / 90);
  if (plot.x === "epoch") { // the last one is the epoch that the scores are of
    xs = xs.filter((tick) => box.right - x(tick.value) > 40);
    xs.push({ value: xRange[1], label: tickLabel(xRange[1], 1, xRange[1]) });
  }
  const svg = draw(figure, "svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `${plot.title}: ${plot.caption}` });
  Object.assign(svg.dataset, { xRange: JSON.stringify(xRange), yRange: JSON.stringify(yRange), box: JSON.stringify(box) });
  axes(svg, plot, box, xs, ys, x, y);
  const many = curves.length > 6, faint = many || !plot.ends;
  let layer = svg;
  if (plot.focus) {
    const frame = { x: box.left - 4, width: box.right - box.left + 8, y: box.top, height: box.bottom - box.top };
    draw(draw(svg, "clipPath", { id: `clip-${plot.id}` }), "rect", frame);
    layer = draw(svg, "g", { "clip-path": `url(#clip-${plot.id})` });
  }
  for (const curve of curves) if (curve.low) {
    const there = curve.x.map((at, i) => `${x(at).toFixed(1)},${y(curve.high[i]).toFixed(1)}`);
    const back = curve.x.map((at, i) => `${x(at).toFixed(1)},${y(curve.low[i]).toFixed(1)}`).reverse();
    draw(layer, "path", { class: faint ? "band faint" : "band", "data-group": curve.group, fill: colour(curve.group), d: `M${there.concat(back).join("L")}Z` });
  }
  for (const curve of curves) {
    const points = curve.x.map((at, i) => `${x(at).toFixed(1)},${y(curve.y[i]).toFixed(1)}`);
    draw(layer, "path", { class: many ? "curve thin" : "curve", "data-group": curve.group, stroke: colour(curve.group), "stroke-dasharray": dash(curve.group), d: `M${points.join("L")}` });
    if (plot.dots && points.length <= 30) for (const [i, at] of curve.x.entries()) draw(layer, "circle", { cx: x(at), cy: y(curve.y[i]), r: 3, fill: colour(curve.group), "data-group": curve.group });
  }
  if (named) nameEnds(svg, curves, state, x, y, box, wide);
  readOut(svg, plot, curves, state, x, y, box);
}

const short = (name) => (name.length > 18 ? name.slice(0, 17) + "\u2026" : name);

function nameEnds(svg, curves, state, x, y, box, wide) {
  const ends = curves.map((curve) => ({ group: curve.group, at: y(curve.y[curve.y.length - 1]) - (wide ? 0 : 14) })).sort((a, b) => a.at - b.at);
  for (const [i, end] of ends.entries()) if (i) end.at = Math.max(end.at, ends[i - 1].at + 15);
  const over = ends[ends.length - 1].at - box.bottom;
  for (const end of ends) draw(svg, "text", { class: "end", "data-group": end.group, x: box.right + (wide ? 8 : 0), "text-anchor": wide ? "start" : "end", y: end.at + 4 - Math.max(0, over), style: `fill: ${colour(end.group)}` }, short(state.names[end.group]));
}

// The values under the pointer, or at the place that the arrow keys moved to.
function readOut(svg, plot, curves, state, x, y, box) {
  const places = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  const marks = draw(svg, "g", { "pointer-events": "none" });
  let at = -1;
  const show = (index) => {
    at = Math.min(places.length - 1, Math.max(0, index));
    const place = places[at], rows = [];
    marks.replaceChildren();
    draw(marks, "line", { class: "cross", x1: x(place), x2: x(place), y1: box.top, y2: box.bottom });
    for (const curve of curves) {
      const i = nearest(curve.x, place);
      if (Math.abs(x(curve.x[i]) - x(place)) > 6) continue;
      draw(marks, "circle", { cx: x(curve.x[i]), cy: y(curve.y[i]), r: 4, fill: colour(curve.group), stroke: "var(--paper)", "stroke-width": 1.5 });
      rows.push({ group: curve.group, name: state.names[curve.group], value: curve.y[i], low: curve.low && curve.low[i], high: curve.high && curve.high[i] });
    }
    rows.sort((a, b) => b.value - a.value);
    showTip(svg, x(place), y(rows[0].value), `${plot.x} ${number(place)}`, rows);
  };
  const hide = () => { at = -1; marks.replaceChildren(); tip.hidden = true; };
  const follow = (event) => {
    const bounds = svg.getBoundingClientRect();
    const place = ((event.clientX - bounds.left - box.left) / (box.right - box.left)) * (places[places.length - 1] - places[0]) + places[0];
    show(nearest(places, place));
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); show(at < 0 ? (by > 0 ? 0 : places.length - 1) : at + by); }
  });
}

function nearest(sorted, value) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (sorted[middle] <= value) low = middle; else high = middle; }
  return Math.abs(sorted[low] - value) <= Math.abs(sorted[high] - value) ? low : high;
}

function showTip(svg, x, y, heading, rows) {
  tip.replaceChildren();
  add(tip, "b", {}, heading);
  const table = add(tip, "table");
  for (const row of rows.slice(0, 12)) {
    const line = add(table, "tr"), name = add(line, "td");
    if (row.group !== null) { swatch(name, row.group); name.append(" "); }
    name.append(row.name);
    add(add(line, "td"), "b", {}, number(row.value));
    add(line, "td", { class: "muted" }, row.low == null ? "" : `${number(row.low)} to ${number(row.high)}`);
  }
  if (rows.length > 12) add(tip, "div", { class: "muted" }, `and ${rows.length - 12} below`);
  tip.hidden = false;
  const bounds = svg.getBoundingClientRect(), left = bounds.left + x, wide = tip.offsetWidth;
  const fits = left + 16 + wide < document.documentElement.clientWidth;
  const placed = fits ? left + 16 : Math.max(4, left - 16 - wide);
  tip.style.left = `${placed + scrollX}px`;
  tip.style.top = `${Math.max(4, bounds.top + y - tip.offsetHeight / 2) + scrollY}px`;
}

function drawIntervals(figure, plot, width, state) {
  const rows = plot.rows.filter((row) => !state.hidden.has(row.group));
  if (!rows.length) return void add(figure, "p", { class: "empty" }, "Nothing to show for these runs.");
  const wanted = Math.max(...rows.map((row) => row.label.length)) * 7.4 + 16;
  const above = width < 460 && wanted > width * 0.32, step = above ? 46 : 32;
  const labels = Math.min(width * 0.4, wanted);
  const box = { left: above ? 8 : labels, right: width - 62, top: 8, bottom: (above ? 16 : 10) + rows.length * step };
  const xRange = plot.domain || padded(range(rows.map((row) => [row.value, row.low, row.high])), 0.08);
  const x = scale(xRange, box.left, box.right), height = box.bottom + 46;
  const svg = draw(figure, "svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${plot.title}: ${plot.caption}` });
  Object.assign(svg.dataset, { xRange: JSON.stringify(xRange), box: JSON.stringify(box) });
  const xs = ticks(...xRange, (box.right - box.left) / 70);
  for (const tick of xs) draw(svg, "line", { class: "gridline", x1: x(tick.value), x2: x(tick.value), y1: box.top, y2: box.bottom });
  axes(svg, { x: plot.x }, box, xs, [], x, null);
  if (plot.reference !== null) draw(svg, "line", { class: "reference", x1: x(plot.reference), x2: x(plot.reference), y1: box.top, y2: box.bottom });
  for (const [i, row] of rows.entries()) {
    const y = box.top + (i + (above ? 0.7 : 0.5)) * step;
    const label = draw(svg, "text", { class: "name", x: above ? 0 : box.left - 12, y: above ? y - 14 : y + 4, "text-anchor": above ? "start" : "end" }, row.label);
    while (!above && label.getComputedTextLength() > labels - 12 && label.textContent.length > 2) label.textContent = label.textContent.slice(0, -2) + "\u2026";
    draw(svg, "line", { x1: x(row.low), x2: x(row.high), y1: y, y2: y, stroke: colour(row.group), "stroke-width": 8, "stroke-linecap": "round", class: "bar", "data-group": row.group });
    draw(svg, "circle", { cx: x(row.value), cy: y, r: 5, fill: colour(row.group), "data-value": row.value, "data-group": row.group });
    draw(svg, "text", { class: "name", x: width, y: y + 4, "text-anchor": "end" }, number(row.value));
    const target = draw(svg, "rect", { x: 0, width, y: y - step / 2, height: step, fill: "transparent" });
    target.addEventListener("pointermove", () => showTip(svg, x(row.value), y, plot.x, [{ ...row, name: row.label }]));
    target.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
}

function drawMatrix(figure, plot, width, state) {
  const shown = plot.labels.map((_, group) => group).filter((group) => !state.hidden.has(group));
  if (!shown.length) return void add(figure, "p", { class: "empty" }, "Nothing to show for these runs.");
  const longest = Math.max(...shown.map((group) => short(plot.labels[group]).length)) * 7.6 + 12;
  const cell = Math.max(17, Math.min(52, (width - longest * 1.4) / shown.length));
  const full = longest * 1.4 + cell * shown.length, height = longest * 0.72 + 16 + cell * shown.length;
  const holder = add(figure, "div", { class: "scroll" });
  const svg = draw(holder, "svg", { width: full, height, viewBox: `0 0 ${full} ${height}`, style: `width: ${full}px`, role: "img", "aria-label": `${plot.title}: ${plot.caption}` });
  const top = longest * 0.72 + 12;
  for (const [i, a] of shown.entries()) {
    const middle = (i + 0.5) * cell;
    draw(svg, "text", { class: "name", x: longest - 8, y: top + middle + 4, "text-anchor": "end" }, short(plot.labels[a]));
    draw(svg, "text", { class: "name", transform: `translate(${longest + middle + 3} ${top - 6}) rotate(${cell < 24 ? -58 : -42})` }, short(plot.labels[a]));
    for (const [j, b] of shown.entries()) {
      const found = plot.cells[a][b], x = longest + j * cell, y = top + i * cell;
      if (!found) continue;
      const hue = found[0] >= 0.5 ? "--more" : "--less", weight = Math.round(Math.abs(found[0] - 0.5) * 150);
      const square = draw(svg, "rect", { x: x + 1, y: y + 1, width: cell - 2, height: cell - 2, rx: 3, "data-value": found[0], fill: `color-mix(in srgb, var(${hue}) ${weight}%, var(--soft))` });
      if (cell >= 30) draw(svg, "text", { class: "name", x: x + cell / 2, y: y + cell / 2 + 4, "text-anchor": "middle", "pointer-events": "none" }, found[0].toFixed(2).replace(/^0/, ""));
      const name = `${plot.labels[a]} > ${plot.labels[b]}`;
      square.addEventListener("pointermove", () => showTip(svg, x + cell, y + cell / 2, name, [{ group: null, name: "P", value: found[0], low: found[1], high: found[2] }]));
      square.addEventListener("pointerleave", () => { tip.hidden = true; });
    }
  }
}

const KINDS = { lines: drawLines, intervals: drawIntervals, matrix: drawMatrix };
