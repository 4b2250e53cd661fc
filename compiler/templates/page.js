"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const start = new URLSearchParams(location.hash.slice(1));
const changed = data.passes.findLastIndex(each => each.changes || each.failed);
/** Why layers are refused, by their name and kind as nodes say where they are from. */
const refused = new Map(data.ledger.filter(each => each.fate === "refused").map(each => [`${each.source} ${each.was}`, each.into]));
const state = {
  pass: Math.min(+(start.get("pass") ?? Math.max(changed, 0)), data.passes.length - 1),
  node: start.get("node"), tab: start.get("tab") ?? (start.get("node") ? "node" : "pass"),
  part: [], both: start.get("both") === "1", find: start.get("find") ?? "",
};
let panes = [];

/** Makes an element; an attribute of null is left out, texts become text. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null) made.setAttribute(name, value);
  made.append(...children.filter(child => child !== null));
  return made;
}

const recordsOf = index => data.graphs[data.passes[index].graph];
const recordOf = (index, node) => index < 0 ? undefined : data.records[recordsOf(index)[node]];
const whyRefused = record => record?.from.map(source => refused.get(source)).find(Boolean);
const texts = (node, record) => [node, record.kind, ...record.from].join("\n").toLowerCase();
/** The names of the nodes that a box stands for: one, or those of a part of a large graph. */
const membersOf = box => box.dataset.members?.split(" ") ?? [box.dataset.node];

/** Says of a node what the chosen pass has done to it, or that it stands for a layer that is refused. */
function markOf(node) {
  if (whyRefused(recordOf(state.pass, node))) return "refused";
  const [before, after] = [state.pass ? recordsOf(state.pass - 1)[node] : undefined, recordsOf(state.pass)[node]];
  if (!state.pass || before === after) return null;
  if (before === undefined) return "added";
  if (after === undefined) return "removed";
  return "changed";
}

/** Says of a box what the chosen pass has done to the nodes in it. */
function markOfBox(box) {
  const marks = new Set(membersOf(box).map(markOf));
  return marks.size === 1 ? [...marks][0] : "changed";
}

class Pane {
  constructor(index, title) {
    this.index = index;
    const drawing = byId(`drawing-${data.passes[index].graph}`).content.firstElementChild.cloneNode(true);
    this.svg = drawing;
    this.boxes = new Map([...this.nodes()].flatMap(box => membersOf(box).map(name => [name, box])));
    this.box = make("div", { class: "pane", role: "group", "aria-label": title }, make("h2", {}, title, drawing.dataset.note ? make("small", {}, drawing.dataset.note) : null), drawing);
    [this.x, this.y, this.zoom] = [0, 0, 1];
    for (const node of this.nodes()) {
      const members = membersOf(node), name = node.dataset.node, mark = markOfBox(node);
      if (mark) node.classList.add(mark);
      node.setAttribute("tabindex", "-1");
      node.setAttribute("role", "button");
      node.setAttribute("aria-label", node.querySelector("title").textContent + (mark ? `, ${mark}` : ""));
      node.addEventListener("click", () => this.dragged || choose(name, members));
      node.addEventListener("keydown", event => {
        const to = this.neighbour(node, event.key);
        if (!to && event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        if (to) this.enter(to).focus();
        else choose(name, members);
      });
      node.addEventListener("focus", () => node.matches(":focus-visible") && this.centre(name));
    }
    this.box.addEventListener("wheel", event => {
      event.preventDefault();
      const at = this.box.getBoundingClientRect();
      this.scale(Math.exp(-event.deltaY / 400), event.clientX - at.left, event.clientY - at.top);
    }, { passive: false });
    this.box.addEventListener("pointerdown", event => {
      this.from = [event.clientX - this.x, event.clientY - this.y];
      this.dragged = false;
    });
    this.box.addEventListener("pointermove", event => {
      if (!event.buttons || !this.from) return;
      const [x, y] = [event.clientX - this.from[0], event.clientY - this.from[1]];
      if (Math.abs(x - this.x) + Math.abs(y - this.y) > 3) this.dragged = true;
      if (this.dragged) this.move(x, y);
    });
  }
  nodes() { return this.svg.querySelectorAll(".node"); }
  find(name) { return this.boxes.get(name); }
  /** The names of the nodes that are searched for. */
  hits() {
    const wanted = state.find.trim().toLowerCase();
    return wanted === "" ? [] : [...this.boxes.keys()].filter(name => texts(name, recordOf(this.index, name)).includes(wanted));
  }
  /** Makes a box the one that the tab key leads to. */
  enter(box) {
    for (const each of this.nodes()) each.setAttribute("tabindex", each === box ? "0" : "-1");
    return box;
  }
  /** The box that an arrow key leads to: up to what feeds this one, down to what it feeds, left and right in order. */
  neighbour(box, key) {
    const boxes = [...this.nodes()], at = boxes.indexOf(box), records = recordsOf(this.index);
    const operands = of => membersOf(of).flatMap(name => data.records[records[name]].operands.map(each => this.find(each.slice(1))));
    const found = {
      ArrowLeft: () => boxes[at - 1], ArrowRight: () => boxes[at + 1],
      ArrowUp: () => operands(box).find(each => each !== box),
      ArrowDown: () => boxes.find(each => each !== box && operands(each).includes(box)),
    }[key];
    return found?.();
  }
  move(x, y) {
    [this.x, this.y] = [x, y];
    this.svg.style.transform = `translate(${x}px, ${y}px) scale(${this.zoom})`;
  }
  scale(by, x = this.box.clientWidth / 2, y = this.box.clientHeight / 2) {
    const zoom = Math.min(Math.max(this.zoom * by, 0.02), 6);
    by = zoom / this.zoom;
    this.zoom = zoom;
    this.move(x - (x - this.x) * by, y - (y - this.y) * by);
  }
  fit() {
    const [width, height] = [this.svg.width.baseVal.value, this.svg.height.baseVal.value];
    this.zoom = Math.min(this.box.clientWidth / width, this.box.clientHeight / height, 1.5);
    this.move((this.box.clientWidth - width * this.zoom) / 2, 0);
  }
  /** The zoom at which the graph is as wide as there is room. */
  reach() { return Math.min(this.box.clientWidth / this.svg.width.baseVal.value, 1); }
  top(zoom) {
    this.zoom = zoom;
    this.move((this.box.clientWidth - this.svg.width.baseVal.value * zoom) / 2, 30);
  }
  centre(name) {
    const rect = this.find(name)?.querySelector("rect");
    if (!rect) return;
    this.zoom = Math.max(this.zoom, 0.6);
    const x = rect.x.baseVal.value + rect.width.baseVal.value / 2, y = rect.y.baseVal.value + rect.height.baseVal.value / 2;
    const lowest = Math.min(this.box.clientHeight - this.svg.height.baseVal.value * this.zoom, 30);  // nothing is below its end
    this.move(this.box.clientWidth / 2 - x * this.zoom, Math.min(Math.max(this.box.clientHeight / 2 - y * this.zoom, lowest), 30));
  }
}

function remember() {
  const kept = { pass: state.pass, tab: state.tab, ...(state.node && { node: state.node }), ...(state.both && { both: 1 }), ...(state.find && { find: state.find }) };
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
}

function showPasses() {
  byId("passes").replaceChildren(...data.passes.map((each, index) => {
    const changes = each.failed ? "failed" : index ? `${each.changes} change${each.changes === 1 ? "" : "s"}, ${each.seconds.toFixed(3)} s` : `${Object.keys(recordsOf(0)).length} ops`;
    const button = make("button", { "aria-current": index === state.pass ? "true" : null, class: each.failed ? "failed" : index && !each.changes ? "idle" : null },
      `${String(index).padStart(2, "0")} ${each.name}`, make("small", {}, changes));
    button.addEventListener("click", () => { state.pass = index; state.tab = "pass"; show(); byId("passes").children[index].firstChild.focus(); });
    button.addEventListener("keydown", event => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const next = step && byId("passes").children[index + step];
      if (next) { event.preventDefault(); next.firstChild.click(); }
    });
    return make("li", {}, button);
  }));
}

function showPanes() {
  const name = data.passes[state.pass].name;
  panes = state.both && state.pass ? [new Pane(state.pass - 1, `before ${name}`), new Pane(state.pass, `after ${name}`)] : [new Pane(state.pass, state.pass ? `after ${name}` : name)];
  byId("panes").replaceChildren(...panes.map(pane => pane.box));
  const first = [...panes.at(-1).nodes()].find(markOfBox), zoom = Math.min(...panes.map(pane => pane.reach()));
  for (const pane of panes) {
    pane.top(zoom);  // the same before and after, to be compared
    pane.enter(pane.find(state.node) ?? pane.find(first?.dataset.node) ?? pane.nodes()[0]);
    const hit = pane.hits()[0];
    if (state.node && pane.find(state.node)) pane.centre(state.node);
    else if (hit) pane.centre(hit);
    else if (first) pane.centre(first.dataset.node);
  }
}

function mark() {
  for (const pane of panes) {
    const hits = pane.hits(), boxes = new Set(hits.map(name => pane.find(name)));
    pane.svg.classList.toggle("finding", state.find.trim() !== "");
    for (const box of pane.nodes()) {
      box.classList.toggle("hit", boxes.has(box));
      box.classList.toggle("chosen", membersOf(box).includes(state.node) || state.part[0] === box.dataset.node);
    }
    byId("hits").textContent = state.find.trim() ? `${hits.length} found` : "";
  }
}

const row = (name, value, was, more) => make("tr", {}, make("th", { scope: "row" }, name),
  make("td", { class: value === "refused" ? "refused" : null }, was !== undefined && was !== value ? make("span", { class: "was", "aria-label": "before" }, was) : null, value ?? "", more ? ` ${more}` : ""));

const facts = numbers => ({ range: `${numbers.min} to ${numbers.max}`, "mean, std": `${numbers.mean}, ${numbers.std}`, zeros: `${numbers.zeros} %` });

function histogram(name, numbers, was) {
  const most = Math.max(...numbers.counts, 1), bars = make("svg", { class: "bars", viewBox: `0 0 ${numbers.counts.length} 1`, preserveAspectRatio: "none", role: "img", "aria-label": `histogram of ${name}` });
  bars.append(...numbers.counts.map((count, index) => make("rect", { x: index + 0.05, width: 0.9, y: 1 - count / most, height: count / most })));
  return make("div", {}, make("h3", {}, `${name}, ${numbers.shape.join("x")}`), bars,
    make("table", {}, ...Object.entries(facts(numbers)).map(([fact, value]) => row(fact, value, was && facts(was)[fact]))));
}

/** A button with the name of a node, which chooses it. */
function nodeButton(name) {
  const button = make("button", { class: "link" }, `%${name}`);
  button.addEventListener("click", () => { choose(name); panes.forEach(pane => pane.centre(name)); });
  return button;
}

/** A text in which the nodes of the graph that is shown are buttons. */
const linked = text => make("span", {}, ...text.split(/(%[\w.]+)/).map(part => recordsOf(state.pass)[part.slice(1)] !== undefined && part[0] === "%" ? nodeButton(part.slice(1)) : part));

/** A list of nodes, each with what the pass has done to it, to choose from. */
const nodesToChoose = names => make("table", {}, ...names.map(name => {
  const record = recordOf(state.pass, name) ?? recordOf(state.pass - 1, name);
  return row(markOf(name) ?? "", nodeButton(name), undefined, `${record.kind} ${record.from.join(", ")}`);
}));

function aboutNode() {
  if (!state.node && state.part.length) return [make("h3", {}, `${state.part.length} ops`), nodesToChoose(state.part)];
  const after = state.node && recordOf(state.pass, state.node), before = state.node && recordOf(state.pass - 1, state.node);
  const shown = after ?? before;
  if (!shown) return [make("p", {}, state.node ? `%${state.node} is not in this graph.` : "Choose a node of the graph.")];
  const was = after && before ? before : undefined, keys = new Set([...Object.keys(shown.attributes), ...Object.keys(was?.attributes ?? {})]);
  return [
    make("h3", {}, `%${state.node}${after ? "" : ", removed by this pass"}`),
    ...(whyRefused(shown) ? [make("p", { class: "refused" }, `refused: ${whyRefused(shown)}`)] : []),
    make("table", {}, row("op", shown.kind, was?.kind), row("operands", shown.operands.join(" "), was?.operands.join(" ")), row("type", shown.type, was?.type),
      row("from", shown.from.join(", "), was?.from.join(", ")), ...[...keys].map(key => row(key, shown.attributes[key] ?? "not set", was ? was.attributes[key] ?? "not set" : undefined))),
    ...(data.why[state.node] ? [make("h3", {}, "what passes say of it"), make("ul", {}, ...data.why[state.node].map(note => make("li", {}, note)))] : []),
    ...Object.entries(shown.numbers).map(([name, numbers]) => histogram(name, numbers, was?.numbers[name])),
  ];
}

function aboutPass() {
  const pass = data.passes[state.pass], names = new Set([...Object.keys(recordsOf(state.pass)), ...(state.pass ? Object.keys(recordsOf(state.pass - 1)) : [])]);
  const marks = [...names].map(name => [name, markOf(name)]).filter(([, what]) => what);
  return [
    make("h3", {}, pass.text),
    make("table", {}, ...(state.pass ? [row("changes", pass.failed ? "failed" : String(pass.changes)), row("seconds", pass.seconds.toFixed(3))] : []),
      row("ops", String(Object.keys(recordsOf(state.pass)).length)), ...(pass.check ? [row(pass.failed ? "error" : "check", pass.check)] : [])),
    ...(pass.notes.length ? [make("h3", {}, "what it says"), make("ul", {}, ...pass.notes.map(note => make("li", {}, note)))] : []),
    ...(marks.length ? [make("h3", {}, "nodes"), nodesToChoose(marks.map(([name]) => name))] : []),
  ];
}

const aboutLedger = () => [
  make("h3", {}, "What became of every layer"),
  make("table", {}, ...data.ledger.map(each => row(each.source, each.fate === "refused" ? "refused" : linked(`${each.fate}: ${each.into}`))).flatMap((made, index) =>
    data.ledger[index].fate === "refused" ? [made, row("", data.ledger[index].into)] : [made])),
  ...(data.notes.length ? [make("h3", {}, "notes"), make("ul", {}, ...data.notes.map(note => make("li", {}, note)))] : []),
];

function showAbout() {
  for (const name of ["node", "pass", "ledger"]) byId(`tab-${name}`).setAttribute("aria-selected", String(state.tab === name));
  for (const tab of byId("tabs").children) tab.setAttribute("tabindex", tab.getAttribute("aria-selected") === "true" ? "0" : "-1");
  byId("about").setAttribute("aria-labelledby", `tab-${state.tab}`);
  byId("about").replaceChildren(...{ node: aboutNode, pass: aboutPass, ledger: aboutLedger }[state.tab]());
}

/** Chooses a node, or a box that stands for several. */
function choose(name, members = [name]) {
  [state.node, state.part] = members.length > 1 ? [null, members] : [name, []];
  state.tab = "node";
  for (const pane of panes) if (pane.find(name)) pane.enter(pane.find(name));
  mark(); showAbout(); remember();
}

function show() {
  byId("both").setAttribute("aria-pressed", String(state.both));
  showPasses();
  showPanes(); mark(); showAbout(); remember();
  byId("passes").children[state.pass].scrollIntoView({ block: "nearest" });
}

for (const name of ["node", "pass", "ledger"]) byId(`tab-${name}`).addEventListener("click", () => { state.tab = name; showAbout(); remember(); });
byId("tabs").addEventListener("keydown", event => {
  const tabs = [...byId("tabs").children], step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const next = step && tabs[tabs.indexOf(document.activeElement) + step];
  if (next) { event.preventDefault(); next.click(); next.focus(); }
});
byId("find").value = state.find;
byId("find").addEventListener("input", event => {
  state.find = event.target.value;
  mark(); remember();
  const hit = panes.at(-1).hits()[0];
  if (hit) panes.forEach(pane => pane.centre(hit));
});
byId("find").addEventListener("keydown", event => {
  const hits = panes.at(-1).hits();
  if (event.key !== "Enter" || !hits.length) return;
  const next = hits[(hits.indexOf(state.node) + 1) % hits.length];
  panes.forEach(pane => pane.centre(next));
  choose(next);
});
const actions = {
  b: () => { state.both = !state.both; show(); }, f: () => panes.forEach(pane => pane.fit()),
  "+": () => panes.forEach(pane => pane.scale(1.25)), "-": () => panes.forEach(pane => pane.scale(0.8)), "/": () => byId("find").focus(),
};
for (const [id, key] of [["both", "b"], ["fit", "f"], ["larger", "+"], ["smaller", "-"]]) byId(id).addEventListener("click", actions[key]);
document.addEventListener("keydown", event => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});
show();
if (start.get("fit")) actions.f();
