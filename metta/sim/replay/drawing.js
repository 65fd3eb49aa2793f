// How things look: functions that draw one thing into a cell of `size` pixels with its top left corner at (x, y).

const RESOURCE_COLORS = { ore: "#c27c3e", battery: "#2fa36b", heart: "#e2476f", flame: "#f0a92b" };
const OTHER_COLORS = ["#5b8def", "#a56ce0", "#2bb3b3", "#d98a1f", "#8a9a3b"];
const BOX_COLORS = { mine: "#7a5638", generator: "#3f6fd1", altar: "#7d4bb0" };

function resourceColor(name, index) {
  return RESOURCE_COLORS[name] || OTHER_COLORS[index % OTHER_COLORS.length];
}

// Hues as far apart as they get for any number of agents.
function agentColor(agent, theme) {
  return `hsl(${(agent * 137.508 + 205) % 360} ${theme.saturation} ${theme.lightness})`;
}

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["card", "text", "quiet", "accent", "floor", "grid", "wall", "wall-top", "curve", "line", "saturation",
    "lightness"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
}

function roundBox(ctx, x, y, size, inset, radius) {
  ctx.beginPath();
  ctx.roundRect(x + size * inset, y + size * inset, size * (1 - 2 * inset), size * (1 - 2 * inset), size * radius);
}

// front: no wall stands before it, so that its front is seen.
function drawWall(ctx, x, y, size, theme, front) {
  ctx.fillStyle = theme["wall-top"];
  ctx.fillRect(x, y, size, size);
  ctx.fillStyle = theme.wall;
  if (front) ctx.fillRect(x, y + size * 0.7, size, size * 0.3);
}

function polygon(ctx, x, y, size, points) {
  ctx.beginPath();
  for (const [px, py] of points) ctx.lineTo(x + px * size, y + py * size);
  ctx.closePath();
  ctx.fill();
}

function drawHeart(ctx, x, y, size) {
  const at = (px, py) => [x + px * size, y + py * size];
  ctx.beginPath();
  ctx.moveTo(...at(0.5, 0.76));
  ctx.bezierCurveTo(...at(0.12, 0.5), ...at(0.22, 0.22), ...at(0.38, 0.24));
  ctx.bezierCurveTo(...at(0.45, 0.25), ...at(0.49, 0.3), ...at(0.5, 0.36));
  ctx.bezierCurveTo(...at(0.51, 0.3), ...at(0.55, 0.25), ...at(0.62, 0.24));
  ctx.bezierCurveTo(...at(0.78, 0.22), ...at(0.88, 0.5), ...at(0.5, 0.76));
  ctx.fill();
}

const SYMBOLS = {
  mine(ctx, x, y, size) {
    ctx.fillStyle = RESOURCE_COLORS.ore;
    for (const [px, py, r] of [[0.36, 0.6, 0.14], [0.63, 0.62, 0.12], [0.5, 0.38, 0.13]]) {
      polygon(ctx, x, y, size, [[px - r, py], [px, py - r], [px + r, py], [px, py + r]]);
    }
  },
  generator(ctx, x, y, size) {
    ctx.fillStyle = "#ffe08a";
    polygon(ctx, x, y, size, [[0.56, 0.2], [0.3, 0.56], [0.47, 0.56], [0.42, 0.8], [0.7, 0.42], [0.52, 0.42]]);
  },
  altar(ctx, x, y, size, dark) {
    ctx.fillStyle = dark ? "#00000055" : "#ffc7d6";
    drawHeart(ctx, x, y, size);
  },
};

// dark: things of this type hold something at times, and this one holds nothing now.
function drawThing(ctx, type, x, y, size, theme, dark) {
  if (!dark && type === "altar") {
    ctx.fillStyle = RESOURCE_COLORS.heart + "2e";
    roundBox(ctx, x, y, size, -0.08, 0.34);
    ctx.fill();
  }
  ctx.fillStyle = dark ? theme.wall : BOX_COLORS[type] || data.colors[type] || theme.quiet;
  roundBox(ctx, x, y, size, 0.07, 0.2);
  ctx.fill();
  if (SYMBOLS[type]) {
    SYMBOLS[type](ctx, x, y, size, dark);
  } else {
    ctx.fillStyle = "#fff";
    ctx.font = `600 ${size * 0.55}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.fillText(type[0].toUpperCase(), x + size / 2, y + size / 2);
  }
}

// facing: [rows, columns] it went last; held: colours of what it carries.
function drawAgent(ctx, x, y, size, color, facing, held) {
  const cx = x + size / 2, cy = y + size / 2, r = size * 0.38;
  ctx.fillStyle = color;
  ctx.beginPath();
  ctx.arc(cx, cy, r, 0, 7);
  ctx.fill();
  const [dy, dx] = facing;
  for (const side of [-1, 1]) {
    const ex = cx + dx * r * 0.38 + (dx === 0 ? side * r * 0.4 : 0) + (dx ? 0.12 * r * dx : 0);
    const ey = cy + dy * r * 0.38 + (dx === 0 ? 0 : side * r * 0.34) - (dx === 0 && dy === 0 ? r * 0.1 : 0);
    ctx.fillStyle = "#fff";
    ctx.beginPath();
    ctx.arc(ex, ey, r * 0.27, 0, 7);
    ctx.fill();
    ctx.fillStyle = "#1c2230";
    ctx.beginPath();
    ctx.arc(ex + dx * r * 0.1, ey + dy * r * 0.1, r * 0.14, 0, 7);
    ctx.fill();
  }
  held.slice(0, 4).forEach((held_color, place) => {
    const hx = x + size * (0.84 - 0.28 * place), hy = y + size * 0.83;
    ctx.fillStyle = held_color;
    ctx.strokeStyle = "#fff";
    ctx.lineWidth = size * 0.05;
    ctx.beginPath();
    ctx.arc(hx, hy, size * 0.16, 0, 7);
    ctx.fill();
    if (size > 18) ctx.stroke();
  });
}
