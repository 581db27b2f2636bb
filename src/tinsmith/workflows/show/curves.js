// Elements, and text that stays text: characters that are not seen, or steer what is, are spelled out.

const STEERING = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}/gu;

function escaped(c) {
  if (c === "\n") return "↵";
  if (c === "\t") return "⇥";
  const code = c.codePointAt(0);
  return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : code < 65536 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\u{${code.toString(16)}}`;
}

const visible = (text) => text.replace(STEERING, escaped);

// `lines`: a line break is also made.
function put(element, text, lines = false) {
  let at = 0;
  for (const found of text.matchAll(STEERING)) {
    if (found.index > at) element.append(text.slice(at, found.index));
    const mark = document.createElement("span");
    mark.className = "esc";
    mark.textContent = escaped(found[0]);
    element.append(mark);
    if (lines && found[0] === "\n") element.append("\n");
    at = found.index + found[0].length;
  }
  if (at < text.length) element.append(text.slice(at));
  return element;
}

// `kind` is "tag" or "tag.class.class", always a word of this program's own.
function make(kind, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const child of children) {
    if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined) put(element, String(child));
  }
  return element;
}

function draw(tag, attributes, parent) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  if (parent) parent.append(element);
  return element;
}

function shown(value) {
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "-∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  return Math.abs(value) >= 1e4 && Math.abs(value) < 1e15 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function table(columns, rows) {
  return make("table", make("thead", make("tr", ...columns.map((c) => make("th", c)))), make("tbody", ...rows.map((row) => make("tr", ...row.map((cell) => make("td", cell))))));
}

function choice(label, options, changed) {
  const select = make("select");
  options.forEach((text, i) => {
    const option = make("option", text);
    option.value = String(i);
    select.append(option);
  });
  select.addEventListener("change", changed);
  return [make("label", label, " ", select), select];
}

function entry(label, type, changed) {
  const input = make("input");
  input.type = type;
  if (type === "number") input.step = "any";
  input.addEventListener(type === "checkbox" ? "change" : "input", changed);
  return [make("label", label, " ", input), input];
}

// Curves of metrics: small charts, chosen from a list, that share the step under the pointer.

const WIDTH = 340, HEIGHT = 150, LEFT = 6, TOP = 8, BOTTOM = 18;

function familyOf(name) {
  const cut = name.lastIndexOf("/");
  return cut > 0 ? name.slice(0, cut) : name.includes(":") ? "loss" : "general";
}

function curves(metrics) {
  const root = make("section.curves"), list = make("div.names"), charts = make("div.charts");
  const { steps, names, values } = metrics;
  if (!names.length) return make("section", make("p", "no metrics were recorded yet"));
  const families = new Map();
  names.forEach((name, i) => {
    const family = familyOf(name);
    if (!families.has(family)) families.set(family, []);
    families.get(family).push(i);
  });
  const chosen = new Set();
  names.forEach((name, i) => {
    if (metrics.first.includes(name) || name === "time/step" || /^(test|env)\/(.*\/)?all\/(reward\/total|correct)$/.test(name)) chosen.add(i);
  });
  for (let i = 0; i < names.length && chosen.size < 3; i++) chosen.add(i);
  const boxes = [], made = new Map();
  let logarithmic = false;
  const point = (step) => made.forEach((chart) => chart.point(step));
  function refresh() {
    charts.replaceChildren();
    for (const i of [...chosen].sort((a, b) => a - b)) {
      if (!made.has(i)) made.set(i, chart(names[i], steps, values[i], logarithmic, point));
      charts.append(made.get(i).element);
    }
    boxes.forEach((box, i) => { if (box) box.checked = chosen.has(i); });
  }
  const rows = [];
  const [find, sought] = entry("find", "search", () => {
    for (const [row, name] of rows) row.hidden = !name.toLowerCase().includes(sought.value.toLowerCase());
  });
  const [scale, scaled] = entry("log scale", "checkbox", () => {
    logarithmic = scaled.checked;
    made.clear();
    refresh();
  });
  list.append(find, scale);
  for (const [family, members] of families) {
    const all = make("button.family", family);
    all.addEventListener("click", () => {
      const on = members.some((i) => !chosen.has(i));
      members.forEach((i) => (on ? chosen.add(i) : chosen.delete(i)));
      refresh();
    });
    list.append(all);
    for (const i of members) {
      const box = make("input");
      box.type = "checkbox";
      boxes[i] = box;
      box.addEventListener("change", () => {
        box.checked ? chosen.add(i) : chosen.delete(i);
        refresh();
      });
      const row = make("label.name", box, names[i].slice(family === familyOf(names[i]) && names[i].startsWith(`${family}/`) ? family.length + 1 : 0));
      rows.push([row, names[i]]);
      list.append(row);
    }
  }
  root.append(list, charts);
  refresh();
  return root;
}

function chart(name, steps, column, logarithmic, point) {
  const points = [], odd = [];
  column.forEach((value, i) => {
    if (value === null) return;
    if (typeof value === "number" && (!logarithmic || value > 0)) points.push([steps[i], value]);
    else if (typeof value === "string") odd.push(steps[i]);
  });
  const heading = make("h3", name), said = make("p.said");
  const element = make("figure", heading, said);
  if (odd.length) element.append(make("p.warning", `not finite at ${odd.length} steps, first at step ${odd[0]}`));
  const usual = points.length ? `last: ${shown(points[points.length - 1][1])}` : "nothing to draw";
  put(said, usual);
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  element.append(svg);
  const at = (v) => (logarithmic ? Math.log(v) : v);
  let low = Infinity, high = -Infinity;
  for (const [, v] of points) { low = Math.min(low, v); high = Math.max(high, v); }
  const first = steps[0], last = steps[steps.length - 1];
  const x = (s) => LEFT + ((WIDTH - 2 * LEFT) * (s - first)) / (last - first || 1);
  const y = (v) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (high > low ? (at(v) - at(low)) / (at(high) - at(low)) : 0.5));
  draw("path", { class: "axis", d: `M${LEFT} ${HEIGHT - BOTTOM}H${WIDTH - LEFT}` }, svg);
  if (points.length) {
    const d = points.map(([s, v], i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join("");
    draw("path", { class: "curve", d }, svg);
    if (points.length <= 60) draw("path", { class: "dots", d: points.map(([s, v]) => `M${x(s).toFixed(1)} ${y(v).toFixed(1)}h0`).join("") }, svg);
    const label = (text, lx, ly, anchor) => { draw("text", { x: lx, y: ly, "text-anchor": anchor }, svg).textContent = text; };
    label(shown(high), LEFT, TOP + 4, "start");
    if (high > low) label(shown(low), LEFT, HEIGHT - BOTTOM - 3, "start");
    label(`step ${first}`, LEFT, HEIGHT - 4, "start");
    label(String(last), WIDTH - LEFT, HEIGHT - 4, "end");
  }
  const line = draw("path", { class: "pointer", d: "" }, svg);
  const nearest = (step) => {
    let a = 0, b = points.length - 1;
    while (b - a > 1) { const c = (a + b) >> 1; points[c][0] <= step ? (a = c) : (b = c); }
    return Math.abs(points[b][0] - step) < Math.abs(points[a][0] - step) ? points[b] : points[a];
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    point(first + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - 2 * LEFT) * (last - first));
  });
  svg.addEventListener("pointerleave", () => point(null));
  return {
    element,
    point(step) {
      said.replaceChildren();
      if (step === null || !points.length) {
        line.setAttribute("d", "");
        put(said, usual);
        return;
      }
      const [s, v] = nearest(step);
      line.setAttribute("d", `M${x(s).toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}`);
      put(said, `step ${s}: ${shown(v)}`);
    },
  };
}
