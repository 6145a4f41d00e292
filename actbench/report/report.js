"use strict";
// What the page does: draw its figures, choose arms, sort tables, and offer downloads.

const json = (id) => JSON.parse(document.getElementById(`data-${id}`).textContent);
const every = (selector, within = document) => [...within.querySelectorAll(selector)];
const style = json("style");
const records = json("records");
const arms = json("arms");
const NARROW = 560; // pixels below which a figure omits the numbers beside its rows
const PRINTED = 640; // pixels, the width of a figure on paper
const LABEL = 0.4; // largest share of a figure's width for the names of its rows
const HEIGHT = 300; // pixels, of a figure without rows

// --- columns, which store repeated values once ---

function values(column, row) {
  return column.levels ? column.levels[column.codes[row]] : column.values[row];
}

function size(column) {
  return (column.codes ?? column.values).length;
}

function rows(columns) {
  const names = Object.keys(columns);
  const length = names.length ? size(columns[names[0]]) : 0;
  return Array.from({ length }, (_, row) => Object.fromEntries(names.map((name) => [name, values(columns[name], row)])));
}

// --- figures ---

function params(figure) {
  const section = figure.closest("section");
  const checked = every("[data-arm]", section).filter((box) => box.checked).map((box) => box.value);
  return {
    arms: checked,
    along: section.querySelector("[name=along]:checked")?.value,
    range: section.querySelector("[name=range]:checked")?.value,
    hover: true,
  };
}

// The curves of all seeds of the chosen arm.
function singleSeeds(figure) {
  const section = figure.closest("section");
  const number = section.querySelector(".seeds select")?.value ?? "";
  const { score, dataset, network } = figure.dataset;
  if (number === "" || !score) return [];
  const arm = section.querySelector(`[data-arm="${number}"]`).value;
  const scale = score.endsWith("accuracy") ? 100 : 1;
  const mean = figure.rows.find((row) => row.arm === arm);
  const points = [];
  for (let row = 0; row < size(records.seed); row++) {
    const curve = values(records[score], row);
    const matches = values(records.arm, row) === arms[Number(number)] && values(records.dataset_name, row) === dataset
      && values(records.network_name, row) === network;
    if (!matches || !curve) continue;
    curve.forEach((value, epoch) => points.push({
      arm, seed: values(records.seed, row), epoch: epoch + 1, mean: value === null ? null : scale * value,
      seconds: mean?.seconds == null ? null : (epoch + 1) * mean.seconds / mean.epoch,
    }));
  }
  return points;
}

// Vega can change an axis title, which Vega-Lite cannot. The page needs no note on the initial arms: a reader sees them.
const TIME = { signal: "along === 'seconds' ? 'seconds of training' : 'epochs'" };
function patch(spec) {
  spec.axes.filter((axis) => axis.title === "epochs").forEach((axis) => { axis.title = TIME; });
  const choice = spec.signals.find((signal) => signal.name === "choice")?.value;
  for (const legend of spec.legends ?? []) {
    const lines = [legend.title ?? []].flat().filter((line) => line !== choice);
    legend.title = lines.length ? lines : null;
  }
  return spec;
}

// Draw a figure from scratch at a width.
async function build(figure, width) {
  const { spec, columns } = JSON.parse(figure.querySelector("script").textContent);
  figure.rows = rows(columns);
  figure.width = width;
  figure.settings = undefined;
  figure.params = new Set(spec.params.map((param) => param.name));
  spec.datasets[figure.id] = figure.rows;
  spec.params.find((param) => param.name === "room").value = width;
  const config = {
    ...style,
    axisY: { labelLimit: LABEL * width },
    legend: { ...style.legend, labelLimit: Math.min(style.legend.labelLimit, (0.9 - LABEL) * width) },
    axisX: { titleLimit: (figure.params.has("names") ? 0.9 - LABEL : 0.8) * width },
    axisRight: { labels: width >= NARROW },
  };
  const sized = { height: HEIGHT, ...spec, width, autosize: { type: "fit-x", contains: "padding" }, config };
  const options = { mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, tooltip: showTip, logLevel: 1, patch };
  figure.view?.finalize();
  figure.view = (await vegaEmbed(figure.querySelector(".plot"), sized, options)).view;
  if (figure.dataset.score) figure.view.addEventListener("mouseover", (_, item) => hovered(figure, item?.datum?.arm));
}

async function redraw(figure) {
  const width = figure.querySelector(".plot").clientWidth;
  if (figure.hidden) return;
  if (figure.width !== width) await build(figure, width);
  const chosen = params(figure), settings = JSON.stringify(chosen);
  for (const [name, value] of Object.entries(chosen)) if (figure.params.has(name)) figure.view.signal(name, value);
  if (figure.settings !== settings) figure.view.resize(); // for a legend that may have grown
  figure.settings = settings;
  if (figure.dataset.score) figure.view.data("seeds", singleSeeds(figure));
  await figure.view.runAsync();
}

// Redraw a figure after all earlier redraws of it are done.
function draw(figure) {
  figure.drawn = (figure.drawn ?? Promise.resolve()).then(() => redraw(figure));
  return figure.drawn;
}

function hovered(figure, label) {
  const section = figure.closest("section");
  const number = every("[data-arm]", section).find((box) => box.value === label)?.dataset.arm;
  const select = section.querySelector(".seeds select");
  if (number === undefined || select.value === number) return;
  select.value = number;
  select.dispatchEvent(new Event("change"));
}

// The text of the mark under the pointer.
const tip = document.body.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));
function showTip(_, event, item, value) {
  tip.hidden = !value;
  if (!value) return;
  tip.textContent = Object.entries(value).map(([name, text]) => `${name}: ${text}`).join("\n");
  const { clientWidth, clientHeight } = document.documentElement;
  tip.style.left = `${Math.max(0, Math.min(event.clientX + 12, clientWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(0, Math.min(event.clientY + 12, clientHeight - tip.offsetHeight - 4))}px`;
}

// Draw figures one after another, so that the page can respond in between; data-drawn marks the end.
let drawing = 0;
async function drawAll(figures = every("figure")) {
  drawing += 1;
  delete document.documentElement.dataset.drawn;
  for (const figure of figures) {
    await draw(figure);
    await new Promise((done) => setTimeout(done));
  }
  drawing -= 1;
  if (!drawing) document.documentElement.dataset.drawn = "true";
}

for (const section of every(".story")) {
  const figures = () => every("figure", section);
  every("[data-arm], [name=along], [name=range], .seeds select", section).forEach((control) =>
    control.addEventListener("change", () => drawAll(figures())));
  section.querySelector(".seeds select")?.addEventListener("change", (event) => {
    const box = section.querySelector(`[data-arm="${event.target.value}"]`);
    if (box && !box.checked) box.click(); // single seeds without their mean would puzzle
  });
  every("[data-arms]", section).forEach((button) => button.addEventListener("click", () => {
    every("[data-arm]", section).forEach((box) => { box.checked = button.dataset.arms === "all"; });
    drawAll(figures());
  }));
  every("[name=score]", section).forEach((radio) => radio.addEventListener("change", () => {
    figures().forEach((figure) => { figure.hidden = figure.dataset.score !== radio.value; });
    drawAll(figures());
  }));
}

// --- sorting ---

function sorted(table, index, descending) {
  const rows = every("tbody tr", table);
  const key = (row) => row.cells[index].dataset.value;
  const numbers = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
  const order = (a, b) => numbers ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b));
  const known = rows.filter((row) => key(row) !== "").sort(order);
  return [...(descending ? known.reverse() : known), ...rows.filter((row) => key(row) === "")];
}

for (const table of every("table")) {
  every("thead th", table).forEach((heading, index) => heading.querySelector("button").addEventListener("click", () => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    every("thead th", table).forEach((column) => column.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    table.tBodies[0].append(...sorted(table, index, descending));
  }));
}

// --- downloads ---

function csv() {
  const quoted = (value) => {
    const shown = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${shown}` : shown; // no formula to a spreadsheet
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const names = Object.keys(records);
  const rows = Array.from({ length: size(records.seed) }, (_, row) => names.map((name) => quoted(values(records[name], row))));
  return [names, ...rows].map((row) => row.join(",")).join("\n") + "\n";
}

every("[data-download]").forEach((button) => button.addEventListener("click", () => {
  const kind = button.dataset.download;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([kind === "csv" ? csv() : json("texts")[kind]], { type: "text/plain;charset=utf-8" }));
  link.download = kind === "csv" ? "records.csv" : `table.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}));

// --- printing ---

addEventListener("beforeprint", () => {
  every("details.more").forEach((more) => { more.open = true; });
  every("figure").forEach((figure) => figure.view?.width(PRINTED).run()); // at once, for the printer does not wait
});
addEventListener("afterprint", () => {
  every("figure").forEach((figure) => { figure.width = undefined; });
  drawAll();
});
addEventListener("resize", () => drawAll());

drawAll();
