"use strict";

// -- Tables: a click on a heading sorts, the best first, then the other way; rows without a value stay last.
for (const table of document.querySelectorAll("table")) {
  table.tHead.addEventListener("click", (event) => {
    const heading = event.target.closest("button")?.closest("th");
    if (!heading) return;
    const before = heading.getAttribute("aria-sort");
    const rising = before ? before === "descending" : !("higher" in heading.dataset);
    for (const one of heading.parentNode.cells) one.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => Number(row.cells[heading.cellIndex]?.dataset.value ?? NaN);
    const sign = rising ? 1 : -1;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => isNaN(value(a)) - isNaN(value(b)) || sign * (value(a) - value(b)) || 0);
    table.tBodies[0].append(...rows);
  });
}

// -- Comparisons: one table for each method to compare with.
for (const select of document.querySelectorAll("[data-compare]")) {
  const show = () => {
    for (const one of select.closest("section").querySelectorAll("[data-baseline]")) {
      one.hidden = one.dataset.baseline !== select.value;
    }
  };
  select.addEventListener("change", show);
  show(); // a browser may remember what was chosen before
}

// -- Pictures
const { tasks, pictures } = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function tile(id, one, task) {
  const made = element("div", "", "tile");
  if (one.picture !== null) {
    const image = element("img");
    image.alt = `${one.title} of ${id}`;
    image.draggable = false;
    image.src = pictures[one.picture];
    const frame = element("div", "", "frame");
    frame.append(image);
    made.append(frame);
  }
  const title = element("b");
  if (one.run !== null) {
    const badge = element("span", one.run, "badge");
    badge.style.setProperty("--colour", task.colours[one.run]);
    title.append(badge, " ");
    if ([get("method").value, get("baseline").value].includes(String(one.run))) made.classList.add("chosen");
  }
  title.append(one.title);
  const told = element("dl");
  for (const [name, value] of one.told) {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value));
    told.append(pair);
  }
  made.append(title, told);
  return made;
}

function gain(row) {
  const [own, other] = ["method", "baseline"].map((id) => row.quality[get(id).value] ?? null);
  return own === null || other === null ? null : own - other;
}

function about(row, metric) {
  const parts = row.degradation ? [row.degradation] : [];
  const difference = gain(row);
  if (difference !== null && get("method").value !== get("baseline").value) {
    const size = Math.abs(difference).toFixed(metric.digits);
    const sign = difference < 0 ? "−" : "+";
    const said = difference === 0 ? "equal" : (difference > 0) === metric.higher ? "better" : "worse";
    parts.push(`${metric.heading}, ${get("method").value} minus ${get("baseline").value}: ${sign}${size}, ${said}`);
  }
  return parts.join("; ");
}

// Rows are filled as they come near the window: data URIs would all be decoded at once, however lazy their images.
const fill = new Map();
const near = new IntersectionObserver((seen) => {
  for (const one of seen) if (one.isIntersecting) filled(one.target);
}, { rootMargin: "800px" });

function filled(article) {
  near.unobserve(article);
  fill.get(article)?.();
  fill.delete(article);
}

function draw() {
  const task = tasks[get("task").value];
  const better = task.metric?.higher ? 1 : -1;
  const keys = {
    hardest: (row) => row.hardness === null ? null : -row.hardness,
    easiest: (row) => row.hardness,
    best: (row) => gain(row) === null ? null : -better * gain(row),
    worst: (row) => gain(row) === null ? null : better * gain(row),
  };
  const key = keys[get("order").value];
  const rows = [...task.rows].sort((a, b) => (key(a) === null) - (key(b) === null) || key(a) - key(b));
  get("count").textContent = `${rows.length} of ${task.kept} images with pictures.`;
  near.disconnect();
  fill.clear();
  get("rows").replaceChildren(...rows.map((row) => {
    const article = element("article");
    fill.set(article, () => {
      const tiles = element("div", "", "tiles");
      tiles.append(...row.tiles.map((one) => tile(row.id, one, task)));
      article.append(element("h3", row.id), element("p", about(row, task.metric)), tiles);
    });
    near.observe(article);
    return article;
  }));
}

function choose() {
  const { runs } = tasks[get("task").value];
  for (const id of ["method", "baseline"]) {
    get(id).replaceChildren(...runs.map(({ number, label }) => new Option(`${number}. ${label}`, number)));
  }
  if (runs.length > 1) get("method").selectedIndex = 1;
  draw();
}

// -- Zoom: x and y are the place of the picture's corner in shares of its frame; all pictures follow.
const view = { zoom: 1, x: 0, y: 0 };

function move(zoom, x, y) {
  view.zoom = Math.min(Math.max(zoom, 1), 8);
  view.x = Math.min(Math.max(x, 1 - view.zoom), 0);
  view.y = Math.min(Math.max(y, 1 - view.zoom), 0);
  for (const [name, value] of Object.entries(view)) get("rows").style.setProperty(`--${name}`, value);
  get("rows").classList.toggle("zoomed", view.zoom > 1);
  get("zoom").value = view.zoom;
}

function zoomAt(zoom, x, y) { // what lies at (x, y) stays there
  const ratio = Math.min(Math.max(zoom, 1), 8) / view.zoom;
  move(zoom, x - (x - view.x) * ratio, y - (y - view.y) * ratio);
}

function watch(rows) {
  const held = new Map(); // pointers that are down, where they were last
  let moved = 0;
  const at = (frame, event) => {
    const box = frame.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  };
  rows.addEventListener("pointerdown", (event) => {
    const frame = event.target.closest(".frame");
    if (!frame || event.button) return;
    if (!held.size) moved = 0;
    held.set(event.pointerId, { frame, ...at(frame, event) });
    frame.setPointerCapture(event.pointerId);
  });
  rows.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const now = { frame: last.frame, ...at(last.frame, event) };
    const other = [...held.entries()].find(([id]) => id !== event.pointerId)?.[1];
    moved += Math.hypot(now.x - last.x, now.y - last.y);
    if (other) {
      const spread = (one) => Math.hypot(one.x - other.x, one.y - other.y) || 1e-3;
      zoomAt(view.zoom * spread(now) / spread(last), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else {
      move(view.zoom, view.x + now.x - last.x, view.y + now.y - last.y);
    }
    held.set(event.pointerId, now);
  });
  rows.addEventListener("pointerup", (event) => {
    const last = held.get(event.pointerId);
    held.delete(event.pointerId);
    if (!last || held.size || moved > 0.03) return;
    if (view.zoom > 1) move(1, 0, 0);
    else zoomAt(3, last.x, last.y);
  });
  rows.addEventListener("pointercancel", (event) => held.delete(event.pointerId));
  rows.addEventListener("wheel", (event) => {
    const frame = event.target.closest(".frame");
    if (!frame || !(event.ctrlKey || view.zoom > 1)) return; // else the page scrolls, which is all pictures
    event.preventDefault();
    const { x, y } = at(frame, event);
    zoomAt(view.zoom * Math.exp(-event.deltaY / 300), x, y);
  }, { passive: false });
}

if (tasks.length) {
  get("task").append(...tasks.map((task, i) => new Option(task.name, i)));
  get("task").addEventListener("change", choose);
  for (const id of ["order", "method", "baseline"]) get(id).addEventListener("change", draw);
  get("zoom").addEventListener("input", () => zoomAt(Number(get("zoom").value), 0.5, 0.5));
  addEventListener("beforeprint", () => [...fill.keys()].forEach(filled));
  watch(get("rows"));
  choose();
}
