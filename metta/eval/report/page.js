// The page around the plots: table, legend, sections, checkpoints.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const state = { hidden: new Set(), smoothing: 0, overSteps: false, names: data.groups.map((group) => group.name) };
const figures = [], switches = [];

const interval = (low, high) => `[${number(low)}, ${number(high)}]`;

function row(table, cells, tag, texts) {
  const line = add(table, "tr");
  for (const [i, cell] of cells.entries()) add(line, tag, i < texts ? { class: "text" } : {}, cell);
  return line;
}

// Which settings differ, and folded away all of each run.
function settings() {
  const { runs, differing } = data.settings, names = Object.keys(runs);
  const rows = Object.entries(differing);
  add(main, "h2", { id: "settings" }, "Settings that differ");
  if (rows.length) {
    const table = add(add(main, "div", { class: "scroll" }), "table");
    row(table, ["setting", ...data.groups.map((group) => group.name)], "th", 1);
    for (const [key, cells] of rows) row(table, [key, ...cells], "td", 1);
  } else add(main, "p", { class: "muted" }, data.runs.length > 1 ? "None, but the seed and what may change as a run goes on." : "One run has nothing to differ from.");
  const fold = add(main, "details", { class: "settings" });
  add(fold, "summary", {}, names.length === 1 ? "The whole configuration" : `The whole configuration of each run`);
  const table = add(add(fold, "div", { class: "scroll" }), "table");
  row(table, ["setting", ...names], "th", 1);
  const keys = [...new Set(names.flatMap((name) => Object.keys(runs[name])))];
  for (const key of keys) {
    const line = row(table, [key, ...names.map((name) => runs[name][key] ?? "-")], "td", 1);
    if (key in differing) line.className = "best";
  }
}

function summary() {
  const table = add(add(main, "div", { class: "scroll", style: "margin-top: 18px" }), "table", { class: "wide", id: "summary" });
  row(table, ["runs", "environment", "epoch", "mean reward", "95% interval", "interquartile mean", "95% interval", "best epoch", "episodes", "interval over"], "th", 2);
  let env = null;
  for (const one of data.summary) {
    const cells = [data.groups[one.group].name, one.env, one.epochs, number(one.mean[0]), interval(one.mean[1], one.mean[2]), number(one.iqm[0]), interval(one.iqm[1], one.iqm[2]), one.best === null ? "" : one.best, one.episodes, one.over];
    const line = row(table, cells, "td", 2);
    if (env !== null && env !== one.env) line.className = "first";
    env = one.env;
    const name = line.firstChild;
    name.textContent = "";
    swatch(name, one.group);
    name.append(data.groups[one.group].name);
    name.title = data.groups[one.group].runs.join(", ");
  }
}

function legend() {
  const bar = document.getElementById("legend");
  bar.hidden = data.groups.length < 2;
  for (const [group, { name, runs }] of data.groups.entries()) {
    const button = add(bar, "button", { type: "button", "aria-pressed": "true", title: runs.join(", ") });
    swatch(button, group);
    add(button, "span", {}, name);
    button.addEventListener("click", () => {
      const hide = !state.hidden.delete(group);
      if (hide) state.hidden.add(group);
      button.setAttribute("aria-pressed", String(!hide));
      figures.forEach(redraw);
    });
    button.addEventListener("pointerenter", () => highlight(state.hidden.has(group) ? null : group));
    button.addEventListener("pointerleave", () => highlight(null));
  }
}

// One group's curves and points stand out while its name is pointed at.
const spotlight = add(document.head, "style");
function highlight(group) {
  spotlight.textContent = group === null ? "" : `figure [data-group]:not([data-group="${group}"]) { opacity: 0.06; } figure .band[data-group="${group}"] { opacity: 0.25; }`;
}

function figure(parent, plot, size) {
  const made = add(parent, "figure", { id: plot.id, class: size });
  const caption = add(made, "figcaption");
  add(caption, "h3", {}, plot.title);
  if (plot.caption) add(caption, "p", {}, plot.caption);
  if (plot.pace && plot.pace.some(Boolean)) overSwitch(caption);
  const one = { made, plot, width: 0 };
  figures.push(one);
  widths.observe(made);
  return one;
}

// Scores over epochs, or over agent steps as the training curves are: one switch for all of them.
function overSwitch(parent) {
  const button = add(parent, "button", { type: "button", class: "over" });
  const label = () => { button.textContent = state.overSteps ? "over epochs" : "over agent steps"; };
  button.addEventListener("click", () => {
    state.overSteps = !state.overSteps;
    figures.filter(({ plot }) => plot.x === "epoch" || plot.x === STEPS).forEach(redraw);
    switches.forEach((one) => one());
  });
  switches.push(label);
  label();
}

function redraw(one) {
  if (!one.width) return; // folded away: drawn when its width is known
  while (one.made.children.length > 1) one.made.lastChild.remove();
  const plot = state.overSteps && one.plot.pace ? overSteps(one.plot) : one.plot;
  one.made.querySelector("h3").textContent = plot.title;
  KINDS[plot.kind](one.made, plot, one.width, state);
}

const widths = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const one = figures.find(({ made }) => made === entry.target), width = Math.floor(entry.contentRect.width);
    if (one.width !== width) { one.width = width; tip.hidden = true; redraw(one); }
  }
});

function sections() {
  for (const { title, plots } of data.sections) {
    add(main, "h2", {}, title);
    if (title === "Training") { training(plots); continue; }
    const grid = add(main, "div", { class: "plots" });
    for (const plot of plots) figure(grid, plot, size(plot, plots));
  }
}

// How much of the page's width: of few groups the intervals stand beside the scores, of many final score and profile.
function size(plot, plots) {
  const kind = plot.id.split("_")[0], groups = data.groups.length;
  if (plot.kind === "matrix" || plots.length === 1) return "full";
  if (groups > 8) return kind === "score" ? "full" : "";
  const few = groups <= 3; // whose intervals, one plot below the other, are as high as the scores
  return { score: few ? "large tall" : "large", final: "small", better: few ? "small" : "", profile: few ? "full" : "" }[kind];
}

function training(plots) {
  const label = add(main, "label", { class: "smooth" }, "Smoothing");
  const slider = add(label, "input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0 }), output = add(label, "output", {}, "0");
  slider.addEventListener("input", () => {
    state.smoothing = Number(slider.value);
    output.textContent = slider.value;
    figures.filter(({ plot }) => plot.smooth).forEach(redraw);
  });
  const chief = plots.filter((plot) => plot.main), rest = plots.filter((plot) => !plot.main);
  const grid = add(main, "div", { class: "plots" });
  for (const plot of chief) figure(grid, plot, chief.length === 1 ? "full" : "");
  if (!rest.length) return;
  const more = add(main, "details", { class: "curves" });
  add(more, "summary", {}, `${rest.length} more training curves`);
  const small = add(more, "div", { class: "plots" });
  for (const plot of rest) figure(small, plot, "small");
}

function checkpoints() {
  add(main, "h2", {}, "Checkpoints and replays");
  for (const run of data.runs) {
    const box = add(main, "details", { class: "run" }), head = add(box, "summary");
    swatch(head, run.group);
    head.append(` ${run.name}`);
    const best = Object.entries(run.best).map(([env, epoch]) => `best in ${env}: epoch ${epoch}, ${number(run.epochs.find((one) => one.epoch === epoch).scores[env][0])}`);
    add(head, "small", {}, [`${run.epochs.filter((one) => one.file).length} checkpoints`, ...best].join(" \u00b7 "));
    box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) listRun(box, run); });
  }
}

function listRun(box, run) {
  const table = add(add(box, "div", { class: "scroll" }), "table");
  row(table, ["epoch", "checkpoint", ...run.envs, "replays"], "th", 2).lastChild.className = "text";
  for (const one of run.epochs) {
    const line = add(table, "tr");
    add(line, "td", { class: "text" }, one.epoch);
    const file = add(line, "td", { class: "text" });
    if (one.file) link(file, run.folder + one.file, one.file.split("/").pop());
    else add(file, "small", {}, "not kept");
    for (const env of run.envs) {
      const cell = add(line, "td"), score = one.scores[env];
      if (!score) continue;
      const isBest = run.best[env] === one.epoch;
      cell.append(`${isBest ? "\u2605 " : ""}${number(score[0])} `);
      add(cell, "small", {}, `${interval(score[1], score[2])}, ${score[4]} episodes`);
      if (isBest) { line.className = "best"; cell.title = "the best checkpoint"; }
    }
    replays(add(line, "td", { class: "text" }), run, one.replays);
  }
  if (run.replays.length) replays(add(box, "p", {}, "Other files in replays: "), run, run.replays);
  if (run.epochs.some((one) => one.replays.some((name) => name.endsWith(".npz")))) {
    const epoch = run.epochs.find((one) => one.replays.some((name) => name.endsWith(".npz"))).epoch;
    const hint = add(box, "p", { class: "muted" }, "Recorded actions become something to watch with ");
    add(hint, "code", {}, `metta replay run=${run.name} epoch=${epoch} seed=0`);
  }
}

function replays(cell, run, names) {
  for (const [i, name] of names.entries()) {
    if (i) cell.append(", ");
    if (name.endsWith(".npz")) add(cell, "small", {}, "actions recorded");
    else link(cell, `${run.folder}replays/${encodeURIComponent(name)}`, name);
  }
}

const link = (parent, href, text) => add(parent, "a", { href }, text);

for (const { plots } of data.sections) for (const plot of plots) for (const curve of plot.curves || []) if (curve) curve.x = data.xs[curve.x];
document.getElementById("title").textContent = data.title;
document.getElementById("about").textContent = data.about;
legend();
settings();
add(main, "h2", {}, "Scores");
summary();
if (data.notes.length) {
  const list = add(main, "ul", { class: "notes" });
  for (const note of data.notes) add(list, "li", {}, note);
}
sections();
checkpoints();
add(main, "h2", {}, "How these numbers were made");
for (const text of data.methods) add(main, "p", { class: "muted" }, text);
