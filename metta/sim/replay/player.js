// The player: words beside the map, and what the reader does.

const rows = agents.map(({ agent }) => {
  const row = byId("agents").insertRow();
  const name = row.insertCell();
  name.innerHTML = `<span class="dot"></span>${agent}`;
  const reward = row.insertCell();
  reward.innerHTML = `<span></span><i class="bar"></i>`;
  row.append(...data.resources.filter(isCarried).map(() => document.createElement("td")));
  row.onpointerenter = () => { hovered = agent; draw(); };
  row.onpointerleave = () => { hovered = -1; draw(); };
  row.onclick = () => select(agent);
  return row;
});

function isCarried(name) {
  const resource = data.resources.indexOf(name);
  return agents.some(({ index }) => items[index] && items[index][resource].some((value) => value > 0));
}

const carried = data.resources.map((name, resource) => ({ name, resource })).filter(({ name }) => isCarried(name));
const best = Math.max(1e-9, ...returns.map((values) => values.reduce((a, b) => Math.max(a, b), 0)));

function updateText(step) {
  byId("step").textContent = `step ${step} of ${steps} · reward ${rewardText(total[step])}`;
  scrubber.value = step;
  agents.forEach(({ index, agent }, place) => {
    const row = rows[place], [name, reward, ...held] = row.children;
    name.firstChild.style.background = agentColor(agent, theme);
    reward.firstChild.textContent = rewardText(returns[agent][step]);
    reward.lastChild.style.width = Math.max(0, returns[agent][step]) / best * 100 + "%";
    reward.lastChild.style.background = agentColor(agent, theme);
    held.forEach((box, column) => {
      const count = amount(index, carried[column].resource, step);
      box.textContent = count || "·";
      box.className = count ? "" : "none";
    });
    row.className = (agent === selected ? "selected " : "") + (agent === hovered ? "hovered" : "");
  });
  updateTip(step);
}

function updateTip(step) {
  const found = pointer && thingAt(...pointer);
  tip.hidden = !found;
  if (!found) return;
  const { thing, index } = found, at = cells[index][step];
  const lines = [["row, column", `${Math.floor(at / width)}, ${at % width}`]];
  if ("agent" in thing) {
    lines.unshift(["reward", rewardText(returns[thing.agent][step])]);
    lines.push(["action", actionName(thing.agent, step)]);
  }
  data.resources.forEach((name, resource) => {
    if (amount(index, resource, step)) lines.push([name, amount(index, resource, step)]);
  });
  const title = document.createElement("b");
  title.textContent = "agent" in thing ? `agent ${thing.agent}` : (isDark(thing, index, step) ? "dark " : "") + thing.type;
  tip.replaceChildren(title, ...lines.map(([key, value]) => {
    const line = document.createElement("div");
    line.className = "row";
    line.append(...[key, value].map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    return line;
  }));
  const frame = byId("frame"), [x, y] = place(index);
  const left = map.offsetLeft + (x + 1.3) * cell, flipped = map.offsetLeft + (x - 0.3) * cell - tip.offsetWidth;
  tip.style.left = Math.max(0, left + tip.offsetWidth > frame.clientWidth ? flipped : left) + "px";
  tip.style.top = Math.min(Math.max(0, (y - 0.5) * cell), Math.max(0, frame.clientHeight - tip.offsetHeight)) + "px";
}

// The thing under a point of the map given in cells; agents before others.
function thingAt(x, y) {
  const hits = data.things.map((thing, index) => ({ thing, index })).filter(({ index }) => {
    const [left, top] = place(index);
    return x >= left && x < left + 1 && y >= top && y < top + 1;
  });
  return hits.find(({ thing }) => "agent" in thing) || hits[0] || null;
}

// ---- controls ----

function seek(step) {
  position = Math.min(Math.max(step, 0), steps);
  draw();
}

function setPlaying(value) {
  if (value && position >= steps) position = 0;
  playing = value;
  lastTime = performance.now();
  byId("play").innerHTML = icon(playing ? "M3 2h4v12H3zM9 2h4v12H9z" : "M4 2l10 6-10 6z");
  byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  if (playing) requestAnimationFrame(tick);
  else seek(now());
}

function tick(time) {
  if (!playing) return;
  position = Math.min(steps, position + Math.max(0, time - lastTime) / 1000 * Number(byId("speed").value));
  lastTime = time;
  if (position >= steps) setPlaying(false);
  else {
    draw();
    requestAnimationFrame(tick);
  }
}

function stepBy(count) {
  setPlaying(false);
  seek(now() + count);
}

function select(agent) {
  selected = selected === agent ? -1 : agent;
  draw();
}

const icon = (path) => `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${path}"/></svg>`;

function point(event) {
  const box = map.getBoundingClientRect();
  pointer = [(event.clientX - box.left) / cell, (event.clientY - box.top) / cell];
  const found = thingAt(...pointer);
  hovered = found && "agent" in found.thing ? found.thing.agent : -1;
  draw();
}

const KEYS = {
  " ": () => setPlaying(!playing),
  ArrowLeft: () => stepBy(-1),
  ArrowRight: () => stepBy(1),
  Home: () => seek(0),
  End: () => seek(steps),
  "+": () => changeSpeed(1),
  "-": () => changeSpeed(-1),
};

function changeSpeed(by) {
  const speed = byId("speed");
  speed.selectedIndex = Math.min(Math.max(speed.selectedIndex + by, 0), speed.length - 1);
}

function start() {
  document.title = `${data.run} epoch ${data.epoch}, ${data.env}, seed ${data.seed}`;
  byId("title").textContent = data.run;
  const count = agents.length === 1 ? "1 agent" : `${agents.length} agents`;
  byId("about").textContent = `epoch ${data.epoch} · ${data.env} · seed ${data.seed} · ${count}`;
  if (data.difference) {
    byId("difference").textContent = `This is not the episode that was recorded: ${data.difference}.`;
    byId("difference").hidden = false;
  }
  scrubber.max = steps;
  byId("back").innerHTML = icon("M3 2h2v12H3zM14 2v12L6 8z");
  byId("forward").innerHTML = icon("M11 2h2v12h-2zM2 2v12l8-6z");
  for (const speed of [1, 2, 5, 10, 20, 50, 100]) byId("speed").add(new Option(`${speed} steps/s`, speed, speed === 10, speed === 10));
  const headings = ["agent", "reward", ...carried.map(({ name }) => name)];
  byId("head").insertRow().append(...headings.map((text) => Object.assign(document.createElement("th"), { textContent: text })));
  byId("play").onclick = () => setPlaying(!playing);
  byId("back").onclick = () => stepBy(-1);
  byId("forward").onclick = () => stepBy(1);
  scrubber.oninput = () => seek(Number(scrubber.value));
  map.onpointermove = point;
  map.onpointerdown = point;
  map.onpointerleave = () => { pointer = null; hovered = -1; draw(); };
  map.onclick = () => { if (hovered >= 0) select(hovered); };
  addEventListener("keydown", (event) => {
    const tag = event.target.tagName; // what an element does with a key by itself, it keeps
    const own = tag === "SELECT" || (tag === "BUTTON" && event.key === " ") || (tag === "INPUT" && event.key !== " ");
    if (own || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  addEventListener("resize", resize);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { theme = readTheme(); legend(); resize(); });
  const asked = new URLSearchParams(location.hash.slice(1)).get("step");
  position = Math.min(Math.max(Math.floor(Number(asked)) || 0, 0), steps);
  legend();
  setPlaying(false);
  resize();
}

function legend() {
  const kinds = [...new Set(data.things.map((thing) => thing.type))].filter((type) => type !== "agent");
  const entries = kinds.flatMap((type) => {
    const both = holders.has(type) ? [[`dark ${type}`, true]] : [];
    return [[type, false], ...both].map(([name, dark]) => [name, (ctx) => drawThing(ctx, type, 4, 4, 32, theme, dark)]);
  });
  for (const { name, resource } of carried) {
    if (name === "heart") continue;
    entries.push([`carries ${name}`, (ctx) => drawAgent(ctx, 2, 2, 36, theme.quiet, [1, 0], [resourceColor(name, resource)])]);
  }
  byId("legend").replaceChildren(...entries.map(([name, drawIt]) => {
    const entry = document.createElement("span"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = 40;
    drawIt(canvas.getContext("2d"));
    entry.append(canvas, name);
    return entry;
  }));
}

start();
window.replay = { seek, play: () => setPlaying(true), pause: () => setPlaying(false), get step() { return now(); }, data };
