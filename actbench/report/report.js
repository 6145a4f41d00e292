"use strict";
// What the page can do: draw its pictures in the colours of the day, toggle, sort, and give its data away.

const json = (id) => JSON.parse(document.getElementById(`data-${id}`).textContent);
const every = (selector, within = document) => [...within.querySelectorAll(selector)];
const darkOf = json("dark");
const records = json("records");
const arms = json("arms");
const night = matchMedia("screen and (prefers-color-scheme: dark)");
const NARROW = 560; // pixels: a picture that is narrower does without what only a wide one has room for
const PRINTED = 640; // pixels, the width of a picture on paper
const LABEL = 0.4; // the most of a picture's width that the names of its rows may take
let paper = false;

// --- pictures ---

function recoloured(value) {
  if (typeof value === "string") return darkOf[value] ?? value;
  if (Array.isArray(value)) return value.map(recoloured);
  if (value === null || typeof value !== "object" || "bdata" in value) return value;
  return Object.fromEntries(Object.entries(value).map(([key, of]) => [key, recoloured(of)]));
}

function state(figure) {
  const section = figure.closest("section");
  const checked = every("[data-arm]", section).filter((box) => box.checked).map((box) => Number(box.dataset.arm));
  return {
    arms: new Set(checked),
    bySeconds: section.querySelector("[name=along]:checked")?.value === "seconds",
    close: section.querySelector("[name=range]:checked")?.value === "close",
    seeds: section.querySelector(".seeds select")?.value ?? "",
  };
}

function values(column, row) {
  return column.levels ? column.levels[column.codes[row]] : column.values[row];
}

function size(column) {
  return (column.codes ?? column.values).length;
}

// One trace with the curves of all seeds of an arm, one after another with gaps between.
function singleSeeds(meta, mean, arm) {
  const x = [], y = [], text = [];
  const scale = meta.column.endsWith("accuracy") ? 100 : 1;
  for (let row = 0; row < size(records.seed); row++) {
    const curve = values(records[meta.column], row);
    const own = values(records.arm, row) === arms[arm] && values(records.dataset_name, row) === meta.dataset
      && values(records.network_name, row) === meta.network;
    if (!own || !curve) continue;
    curve.forEach((value, epoch) => {
      x.push((epoch + 1) * mean.dx);
      y.push(value === null ? null : scale * value);
      text.push(`seed ${values(records.seed, row)}`);
    });
    x.push(null); y.push(null); text.push("");
  }
  return { type: "scatter", mode: "lines", x, y, text, connectgaps: false, hovertemplate: "%{text}: %{y:.4g}<extra></extra>",
    line: { ...mean.line, width: 0.8 }, opacity: 0.7, meta: { part: "seeds" } };
}

// A name whose middle is left out until it has room, which depends on the reader's fonts. An entity is one letter.
const pen = document.createElement("canvas").getContext("2d");
function fitted(name, room, font) {
  pen.font = `${font.size}px ${font.family}`;
  const letters = name.match(/&#?\w+;|./gsu) ?? [];
  for (let kept = letters.length, text = name; ; kept--) {
    if (kept < 3 || pen.measureText(text.replace(/&#?\w+;/g, "&")).width <= room) return text;
    text = [...letters.slice(0, Math.ceil(2 * kept / 3) - 1), "…", ...letters.slice(-Math.floor(kept / 3))].join("");
  }
}

function specification(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const now = state(figure), { layout } = spec;
  const meta = layout.meta ?? {};
  for (const trace of spec.data) {
    if (trace.meta?.arm !== undefined) trace.visible = now.arms.has(trace.meta.arm);
    if (now.bySeconds && trace.dx) trace.x0 = trace.dx = trace.meta.seconds ?? NaN;
  }
  if (now.bySeconds) {
    layout.xaxis.title.text = "seconds of training";
    delete layout.xaxis.dtick;
  }
  if (now.close && meta.close) layout.xaxis.range = meta.close;
  if (now.seeds !== "" && meta.column) {
    const mean = spec.data.find((of) => of.meta.part === "mean" && of.meta.arm === Number(now.seeds));
    if (mean) spec.data.unshift(singleSeeds(meta, mean, Number(now.seeds)));
  }
  if (paper) layout.width = PRINTED;
  const width = paper ? PRINTED : figure.clientWidth;
  if (layout.yaxis2) layout.yaxis2.visible = width >= NARROW;
  if (layout.yaxis.ticktext) layout.yaxis.ticktext = layout.yaxis.ticktext.map((name) => fitted(name, LABEL * width, layout.font));
  return night.matches && !paper ? recoloured(spec) : spec;
}

async function draw(figure) {
  if (figure.hidden) return;
  const plot = figure.querySelector(".plot");
  const { data, layout } = specification(figure);
  await Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true, doubleClick: false });
  if (layout.meta?.column && !plot.dataset.listens) {
    plot.dataset.listens = "true";
    plot.on("plotly_hover", (event) => hovered(figure, event));
  }
}

function hovered(figure, event) {
  const arm = event.points[0]?.data.meta?.arm;
  const select = figure.closest("section").querySelector(".seeds select");
  if (arm === undefined || select.value === String(arm)) return;
  select.value = String(arm);
  select.dispatchEvent(new Event("change"));
}

// One after another, with room for the page to answer in between; the page says when all is drawn.
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

function sorted(table, place, descending) {
  const rows = every("tbody tr", table);
  const key = (row) => row.cells[place].dataset.value;
  const numbers = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
  const order = (one, other) => numbers ? Number(key(one)) - Number(key(other)) : key(one).localeCompare(key(other));
  const known = rows.filter((row) => key(row) !== "").sort(order);
  return [...(descending ? known.reverse() : known), ...rows.filter((row) => key(row) === "")];
}

for (const table of every("table")) {
  every("thead th", table).forEach((heading, place) => heading.querySelector("button").addEventListener("click", () => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    every("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    table.tBodies[0].append(...sorted(table, place, descending));
  }));
}

// --- downloads ---

function csv() {
  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
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

// --- light, dark, paper ---

night.addEventListener("change", () => drawAll());
addEventListener("beforeprint", () => {
  paper = true;
  every("details.more").forEach((more) => { more.open = true; });
  every("figure").forEach(draw); // at once, for the printer does not wait
});
addEventListener("afterprint", () => {
  paper = false;
  drawAll();
});

drawAll();
