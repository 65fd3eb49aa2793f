// The episode: unpacks the data into what every thing was at every step.

const data = JSON.parse(document.getElementById("data").textContent);
const { steps, width, height } = data;
const agents = data.things.map((thing, index) => ({ ...thing, index })).filter((thing) => "agent" in thing)
  .sort((a, b) => a.agent - b.agent);

function unpackCells(thing, index) {
  const cells = new Int32Array(steps + 1).fill(thing.cell);
  const codes = data.moves[index] || "";
  for (let step = 1; step <= steps; step++) {
    const way = step <= codes.length ? data.ways[data.code.indexOf(codes[step - 1])] : 0;
    cells[step] = cells[step - 1] + way;
  }
  return cells;
}

// [resource][step] amounts, or null where the thing never holds anything.
function unpackItems(index) {
  const events = data.items[index];
  if (!events) return null;
  const amounts = data.resources.map(() => new Int32Array(steps + 1));
  let step = 0;
  for (let at = 0; at < events.length; at += 3) {
    step += events[at];
    amounts[events[at + 1]].fill(events[at + 2], step);
  }
  return amounts;
}

function unpackRewards(events) {
  const rewards = new Float64Array(steps + 1);
  let step = 0;
  for (let at = 0; at < events.length; at += 2) rewards[step += events[at]] = events[at + 1];
  return rewards;
}

function sums(values) {
  let sum = 0;
  return values.map((value) => sum += value);
}

const cells = data.things.map(unpackCells);
const items = data.things.map((_, index) => unpackItems(index));
const rewards = data.rewards.map(unpackRewards);
const returns = rewards.map(sums);
const total = Float64Array.from({ length: steps + 1 }, (_, step) => returns.reduce((sum, r) => sum + r[step], 0));
const holders = new Set(data.things.filter((thing, index) => items[index]).map((thing) => thing.type));
const facings = agents.map(({ index, agent }) => {
  const ways = Array(steps + 1).fill([1, 0]);
  const named = { north: [-1, 0], south: [1, 0], west: [0, -1], east: [0, 1] };
  for (let step = 1; step <= steps; step++) {
    ways[step] = named[actionName(agent, step).split(" ").pop()] || ways[step - 1];
  }
  return ways;
});

function actionName(agent, step) {
  const code = data.code.indexOf(data.actions[agent][step - 1]);
  return step > 0 ? data.action_names[code].replaceAll("_", " ") : "none yet";
}

const amount = (index, resource, step) => items[index] ? items[index][resource][step] : 0;
const isDark = (thing, index, step) =>
  holders.has(thing.type) && !data.resources.some((_, resource) => amount(index, resource, step));
const rewardText = (value) => value.toFixed(2);
