// The map and the curve: where the player is in the episode, and what that looks like.

const byId = (id) => document.getElementById(id);
let position = 0; // in steps; the fraction glides agents from one cell to the next
let playing = false, lastTime = 0, selected = -1, hovered = -1, pointer = null;
let theme = readTheme(), cell = 16, backdrop = null;
const map = byId("map"), curve = byId("curve"), scrubber = byId("scrubber"), tip = byId("tip");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const now = () => Math.floor(position);

function resize() {
  const ratio = window.devicePixelRatio || 1;
  const room = Math.max(innerHeight - 250, 320);
  cell = Math.max(4, Math.floor(Math.min(byId("frame").clientWidth / width, room / height) * ratio)) / ratio;
  for (const [canvas, w, h] of [[map, cell * width, cell * height], [curve, curve.clientWidth, curve.clientHeight]]) {
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }
  map.style.width = cell * width + "px";
  map.style.height = cell * height + "px";
  backdrop = drawBackdrop(ratio);
  draw();
}

function drawBackdrop(ratio) {
  const canvas = document.createElement("canvas");
  canvas.width = map.width;
  canvas.height = map.height;
  const ctx = canvas.getContext("2d");
  ctx.scale(ratio, ratio);
  ctx.fillStyle = theme.floor;
  ctx.fillRect(0, 0, cell * width, cell * height);
  ctx.fillStyle = theme.grid;
  for (let x = 0; x < width; x++) for (let y = x % 2; y < height; y += 2) ctx.fillRect(x * cell, y * cell, cell, cell);
  const walls = new Set(data.walls);
  for (const at of data.walls) {
    drawWall(ctx, (at % width) * cell, Math.floor(at / width) * cell, cell, theme, !walls.has(at + width));
  }
  return canvas;
}

// Where a thing is now, in cells: [column, row], gliding where it goes to a neighbouring cell.
function place(index) {
  const step = now(), from = cells[index][step], to = cells[index][Math.min(step + 1, steps)];
  const [x, y] = [from % width, Math.floor(from / width)];
  const [dx, dy] = [to % width - x, Math.floor(to / width) - y];
  const part = Math.abs(dx) + Math.abs(dy) === 1 && !still.matches ? position - step : 0;
  return [x + dx * part, y + dy * part];
}

function draw() {
  if (!backdrop) return;
  const step = now(), ctx = map.getContext("2d");
  ctx.drawImage(backdrop, 0, 0, cell * width, cell * height);
  data.things.forEach((thing, index) => {
    if ("agent" in thing) return;
    const [x, y] = place(index);
    drawThing(ctx, thing.type, x * cell, y * cell, cell, theme, isDark(thing, index, step));
  });
  if (selected >= 0) drawSelected(ctx, step);
  for (const { index, agent } of agents) {
    const [x, y] = place(index);
    drawGlow(ctx, agent, x, y, step);
    const held = data.resources.flatMap((name, r) => name !== "heart" && amount(index, r, step) ? [resourceColor(name, r)] : []);
    drawAgent(ctx, x * cell, y * cell, cell, agentColor(agent, theme), facings[agent][step], held);
    if (agent === selected || agent === hovered) {
      ctx.strokeStyle = theme.text;
      ctx.lineWidth = Math.max(1.5, cell * 0.08);
      ctx.beginPath();
      ctx.arc((x + 0.5) * cell, (y + 0.5) * cell, cell * 0.48, 0, 7);
      ctx.stroke();
    }
  }
  drawCurve();
  updateText(step);
}

// A ring that spreads and fades for three steps after a reward.
function drawGlow(ctx, agent, x, y, step) {
  for (let ago = 0; ago < 3 && step - ago > 0; ago++) {
    const reward = rewards[agent][step - ago];
    if (!reward) continue;
    const age = (ago + position - step) / 3;
    ctx.globalAlpha = 0.75 * (1 - age);
    ctx.strokeStyle = reward > 0 ? RESOURCE_COLORS.flame : RESOURCE_COLORS.heart;
    ctx.lineWidth = cell * 0.14 * (reward >= 0.5 ? 1.6 : 0.8);
    ctx.beginPath();
    ctx.arc((x + 0.5) * cell, (y + 0.5) * cell, cell * (0.42 + 0.4 * age), 0, 7);
    ctx.stroke();
    ctx.globalAlpha = 1;
    return;
  }
}

// The way the selected agent came, and the square that it sees.
function drawSelected(ctx, step) {
  const index = agents[selected].index, [x, y] = place(index), [rows, columns] = data.window;
  ctx.strokeStyle = agentColor(selected, theme);
  ctx.lineWidth = Math.max(1.5, cell * 0.12);
  ctx.lineJoin = "round";
  ctx.globalAlpha = 0.8;
  ctx.beginPath();
  for (let past = Math.max(0, step - 40); past <= step; past++) {
    const at = cells[index][past];
    ctx.lineTo((at % width + 0.5) * cell, (Math.floor(at / width) + 0.5) * cell);
  }
  ctx.lineTo((x + 0.5) * cell, (y + 0.5) * cell);
  ctx.stroke();
  ctx.setLineDash([cell * 0.3, cell * 0.2]);
  ctx.lineWidth = 1.5;
  ctx.strokeRect((x - (columns - 1) / 2) * cell, (y - (rows - 1) / 2) * cell, columns * cell, rows * cell);
  ctx.setLineDash([]);
  ctx.globalAlpha = 1;
}

function drawCurve() {
  const ctx = curve.getContext("2d"), w = curve.clientWidth, h = curve.clientHeight;
  const low = Math.min(0, ...extremes.low), high = Math.max(low + 1e-9, ...extremes.high);
  const x = (step) => step / Math.max(1, steps) * w;
  const y = (value) => h - 2 - (value - low) / (high - low) * (h - 6);
  ctx.clearRect(0, 0, w, h);
  ctx.fillStyle = theme.floor;
  ctx.fillRect(0, 0, w, h);
  const trace = (last) => {
    ctx.beginPath();
    const stride = Math.max(1, Math.floor(steps / (2 * w)));
    for (let step = 0; step < last; step += stride) ctx.lineTo(x(step), y(total[step]));
    ctx.lineTo(x(last), y(total[last]));
  };
  trace(now());
  ctx.lineTo(x(now()), h);
  ctx.lineTo(0, h);
  ctx.fillStyle = theme.curve;
  ctx.fill();
  trace(steps);
  ctx.strokeStyle = theme.accent;
  ctx.lineWidth = 1.5;
  ctx.stroke();
  ctx.fillStyle = theme.text;
  ctx.fillRect(Math.min(w - 2, Math.max(0, x(position) - 1)), 0, 2, h);
}

const extremes = { low: [total.reduce((a, b) => Math.min(a, b))], high: [total.reduce((a, b) => Math.max(a, b))] };
