const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, content = [], attributes = {}) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && typeof value !== "string") made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...[content].flat());
  return made;
}

// What the table can show: a title, whether it is there from the start, a run's text, and what it sorts by.
const columns = [
  ...data.fields.map(({ field, shown }, index) => ({
    title: field, shown, help: data.columns[field],
    text: (run) => run.fields[index][1], key: (run) => run.fields[index][0],
  })),
  { title: "bits/weight", shown: true, number: true, help: data.columns.bits_per_weight,
    text: (run) => run.bits_per_weight.toPrecision(4), key: (run) => run.bits_per_weight },
  { title: "MB", shown: false, number: true, help: data.columns.model_bytes,
    text: (run) => run.megabytes.toPrecision(4), key: (run) => run.megabytes },
  ...data.metrics.map(({ metric, task, shown }, index) => ({
    title: `${metric}, ${task}`, shown, number: true, help: "hover a value for its 95 % interval",
    text: (run) => run.values[index]?.text ?? "", key: (run) => run.values[index] && Number(run.values[index].value),
    hover: (run) => run.values[index]?.interval && `95 %: ${run.values[index].interval}`,
  })),
  { title: "seconds", shown: false, number: true, help: data.columns.seconds,
    text: (run) => run.seconds.toFixed(1), key: (run) => run.seconds },
];
const nameColumn = data.fields.findIndex(({ field }) => field === "method");
const state = { sorted: null, descending: false, ticked: [] };
const rows = new Map();

function summary() {
  const shared = data.constant.filter(([, value]) => value !== "none").map(([field, value]) => `${field} ${value}`);
  byId("summary").textContent = `${data.runs.length} runs; all: ${shared.join("; ")}`;
}

function head() {
  const cells = columns.map((column, index) => element("th",
    element("button", column.title, { type: "button", title: column.help ?? "", onclick: () => sortBy(index) }),
    { scope: "col", class: column.number ? "number" : "", hidden: !column.shown }));
  byId("runs").tHead.replaceChildren(element("tr", [element("th", "", { class: "tick", "aria-label": "tick" }), ...cells]));
}

function rowOf(run) {
  const tick = element("input", [], {
    type: "checkbox", "aria-label": `compare ${run.id}`, onchange: (event) => toggle(run, event.target.checked) });
  const cells = columns.map((column, index) => {
    const text = column.text(run);
    const content = index === nameColumn
      ? element("button", text, { type: "button", class: "name", onclick: () => showIdentity(run) }) : text;
    return element("td", content,
      { class: column.number ? "number" : "", title: column.hover?.(run) || "", hidden: !column.shown });
  });
  return element("tr", [element("td", tick, { class: "tick" }), ...cells], { "data-run": run.id });
}

function compareKeys(a, b) {
  const missing = (key) => key === null || key === undefined || Number.isNaN(key);
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function sortBy(index) {
  state.descending = state.sorted === index && !state.descending;
  state.sorted = index;
  const { key } = columns[index], empty = (run) => [null, undefined].includes(key(run)) || Number.isNaN(key(run));
  // What a run does not have comes last in either direction.
  const ordered = [...data.runs].sort((a, b) =>
    compareKeys(key(a), key(b)) * (state.descending && !empty(a) && !empty(b) ? -1 : 1));
  byId("runs").tBodies[0].append(...ordered.map((run) => rows.get(run)));
  [...byId("runs").tHead.rows[0].cells].forEach((cell, place) => {
    if (place === index + 1) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

const searchText = new Map();
function matches(run, word) {
  const [field, value] = word.split("=", 2);
  if (value !== undefined && field in run.identity) {
    const stored = run.identity[field];
    return value.split(",").some((option) => String(stored ?? "none").toLowerCase() === option.toLowerCase());
  }
  if (!searchText.has(run)) searchText.set(run, JSON.stringify(run.identity).toLowerCase());
  return searchText.get(run).includes(word.toLowerCase());
}

function filter() {
  const words = byId("filter").value.split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const run of data.runs) {
    const kept = words.every((word) => matches(run, word));
    rows.get(run).hidden = !kept;
    shown += kept;
  }
  byId("count").textContent = `${shown} of ${data.runs.length}`;
}

function chooseColumns() {
  byId("column-choice").append(...columns.map((column, index) => element("label", [
    element("input", [], { type: "checkbox", checked: column.shown, onchange: (event) => {
      column.shown = event.target.checked;
      for (const row of byId("runs").rows) row.cells[index + 1].hidden = !column.shown;
    } }), ` ${column.title}`])));
}

function table(lines, header) {
  const head = header ? [element("thead", element("tr", header.map((title) => element("th", title, { scope: "col" }))))] : [];
  const body = lines.map(([name, ...cells]) =>
    element("tr", [element("th", name, { scope: "row" }), ...cells.map((cell) => element("td", cell))]));
  return element("table", [...head, element("tbody", body)]);
}

const written = (value) => (value !== null && typeof value === "object")
  ? element("pre", JSON.stringify(value, null, 1)) : String(value ?? "none");

function showIdentity(run) {
  byId("identity-title").textContent = `${nameOf(run)} (${run.id})`;
  const measured = data.metrics.flatMap(({ metric, task }, index) => {
    const value = run.values[index];
    return value ? [[`${metric}, ${task}`, `${value.text} ${value.unit}`, value.interval,
      value.baseline === null ? "" : String(Number(value.baseline).toPrecision(6)), String(value.count)]] : [];
  });
  byId("identity-body").replaceChildren(
    table(measured, ["metric", "value", "95 % interval", "full precision", "samples"]),
    element("h2", "Identity"),
    table(Object.entries(run.identity).map(([field, value]) => [element("span", field, { title: data.columns[field] ?? "" }), written(value)])));
  byId("identity").showModal();
}

function nameOf(run) {
  const { method, bits, group_size: group, variant, seed } = run.identity;
  if (run.reference) return `${method}, full precision`;
  return [method, `${bits} bit`, group === null ? "whole row" : `group ${group}`, variant, `seed ${seed}`].filter(Boolean).join(", ");
}

function toggle(run, ticked) {
  state.ticked = state.ticked.filter((other) => other !== run);
  if (ticked) state.ticked.push(run);
  if (state.ticked.length > 2) state.ticked.shift();
  for (const [other, row] of rows) {
    const chosen = state.ticked.includes(other);
    row.classList.toggle("ticked", chosen);
    row.cells[0].firstChild.checked = chosen;
  }
  byId("compare").disabled = state.ticked.length !== 2;
}

// The ratio is perplexity's own comparison, and the floor belongs to the text.
const NOT_COMPARED = ["perplexity_ratio", "entropy_floor"];
const digits = (value) => Number(value).toPrecision(4);
const pText = (p) => p === null ? "" : p < 1e-6 ? "p < 1e-6" : `p ${p.toPrecision(2)}`;

// What can be said of a and b on one metric: of the samples they share where there are any, else both values alone.
function difference(a, b, set) {
  const { metric, answers, weights, count } = data.samples[set];
  const [left, right] = [a, b].map(({ samples }) =>
    answers ? decodeAnswers(samples[set], count) : decode(samples[set]));
  if (answers) {
    const better = left.filter((value, index) => value > right[index]).length;
    const worse = left.filter((value, index) => value < right[index]).length;
    return { estimate: (better - worse) / count, p: mcnemar(better, worse), better, worse, count };
  }
  const found = pairedDifference(left, right, decode(weights), true);
  if (metric !== "perplexity" || found.low === null) return found;
  return { ...found, ratio: Math.exp(found.estimate), ratioLow: Math.exp(found.low), ratioHigh: Math.exp(found.high) };
}

function inWords(found) {
  if ("better" in found) {
    const { better, worse, count } = found;
    return `difference ${digits(found.estimate)}: ${better + worse} of ${count} answers differ, ${better} for A and ${worse} for B`;
  }
  if (found.low === null) return `difference ${digits(found.estimate)}, no interval`;
  const [what, value, low, high] = "ratio" in found
    ? ["ratio", found.ratio, found.ratioLow, found.ratioHigh] : ["difference", found.estimate, found.low, found.high];
  return `${what} ${digits(value)} (95 % ${digits(low)} to ${digits(high)})`;
}

function showDifference() {
  const [a, b] = state.ticked;
  const lines = data.metrics.flatMap(({ metric, task }, index) => {
    if (!a.values[index] || !b.values[index] || NOT_COMPARED.includes(metric)) return [];
    const set = data.samples.findIndex((one, place) =>
      one.metric === metric && one.task === task && place in a.samples && place in b.samples);
    const found = set < 0 ? null : difference(a, b, set);
    const cells = [a.values[index].text, b.values[index].text];
    if (!found) return [[`${metric}, ${task}`, ...cells, "no samples in common are kept here", ""]];
    return [[`${metric}, ${task}`, ...cells, inWords(found), pText(found.p)]];
  });
  const skipped = new Set(["run_id", "created", "seconds", "peak_memory", "notes", "quantized_bytes", "model_bytes"]);
  const fields = Object.keys(a.identity).filter((field) => !skipped.has(field)
    && JSON.stringify(a.identity[field]) !== JSON.stringify(b.identity[field]));
  byId("difference-body").replaceChildren(
    table(lines, ["metric", `A: ${nameOf(a)}`, `B: ${nameOf(b)}`, "A against B, paired", "of no difference"]),
    element("p", "Student's t intervals over windows, neighbours' correlation counted; McNemar's exact test for answers. "
      + `python -m quantbench compare ${a.id} ${b.id} resamples and corrects for several metrics.`, { class: "hint" }),
    element("h2", "Settings that differ"),
    table(fields.map((field) => [field, written(a.identity[field]), written(b.identity[field])]), ["field", "A", "B"]));
  byId("difference").hidden = false;
  byId("difference").scrollIntoView({ block: "nearest" });
}

summary();
head();
for (const run of data.runs) rows.set(run, rowOf(run));
byId("runs").tBodies[0].append(...rows.values());
chooseColumns();
filter();
byId("filter").addEventListener("input", filter);
byId("compare").addEventListener("click", showDifference);
