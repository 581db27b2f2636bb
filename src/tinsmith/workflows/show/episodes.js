// Episodes: filters, a list of groups, and the episodes of one group side by side, token by token.

const LISTED = 200, TOKENS = 3000;
const COLOURS = ["weight", "logprob", "advantage", "nothing"];
const ORDERS = ["as logged", "lowest reward first", "highest reward first", "largest spread first"];
const LIMITS = [0.01, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8];

function episodesView(episodes) {
  if (!episodes.count) return make("section", make("p", "no rollouts were logged: neither by a supervised recipe, nor with log_rollouts=false"));
  const vocabulary = episodes.vocabulary;
  let lowest = Infinity, highest = -Infinity;
  for (const r of episodes.reward) if (Number.isFinite(r)) { lowest = Math.min(lowest, r); highest = Math.max(highest, r); }
  const found = new Uint8Array(episodes.count);
  let listed = [], position = -1, shownRows = 0, searched = 0, needle = "";

  const tagNames = [...new Set(episodes.tagLists.flat())];
  const later = debounced(() => filter());
  const [fileBox, file] = choice("of", ["all files", ...episodes.files], () => filter());
  const [fromBox, from] = entry("steps from", "number", later);
  const [toBox, to] = entry("to", "number", later);
  const [tagBox, tag] = choice("tag", ["any", ...tagNames], () => filter());
  const [stopBox, stop] = choice("stop reason", ["any", ...episodes.stops], () => filter());
  const [lowBox, low] = entry("reward from", "number", later);
  const [highBox, high] = entry("to", "number", later);
  const [textBox, text] = entry("text", "search", later);
  const [orderBox, order] = choice("order", ORDERS, () => filter());
  const [colourBox, colour] = choice("colour by", COLOURS, () => open(position));
  const said = make("p.said"), list = make("ol.groups"), more = make("button", "more"), view = make("div.group");
  more.addEventListener("click", fill);
  const root = make("section.episodes", make("form.filters", fileBox, fromBox, toBox, tagBox, stopBox, lowBox, highBox, textBox, orderBox, colourBox), said, make("div.two", make("nav", list, more), view));
  root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());

  const bound = (input, otherwise) => (input.value === "" || Number.isNaN(Number(input.value)) ? otherwise : Number(input.value));

  async function filter() {
    const mine = ++searched;
    const first = bound(from, -Infinity), end = bound(to, Infinity), least = bound(low, -Infinity), most = bound(high, Infinity);
    const bounded = low.value !== "" || high.value !== "";
    const wanted = tagNames[tag.value - 1];
    const tagged = episodes.tagLists.map((tags) => tag.value === "0" || tags.includes(wanted));
    let matching = 0;
    for (let i = 0; i < episodes.count; i++) {
      const ok = (file.value === "0" || episodes.file[i] === file.value - 1) && episodes.step[i] >= first && episodes.step[i] <= end &&
        tagged[episodes.tags[i]] && (stop.value === "0" || episodes.stop[i] === stop.value - 1) &&
        (!bounded || (episodes.reward[i] >= least && episodes.reward[i] <= most));
      found[i] = ok ? 1 : 0;
      matching += found[i];
    }
    needle = text.value.toLowerCase();
    if (needle) {
      matching = 0;
      for (let i = 0, chunk = -1; i < episodes.count; i++) {
        if (episodes.chunk[i] !== chunk) {
          chunk = episodes.chunk[i];
          said.replaceChildren(`searched ${i} of ${episodes.count} episodes, ${matching} found`);
          await new Promise((go) => setTimeout(go));
          if (mine !== searched) return;
        }
        if (!found[i]) continue;
        const episode = await episodes.get(i);
        if (mine !== searched) return;
        found[i] = episodes.text(episode).toLowerCase().includes(needle) || episodes.problems[episodes.problem[i]].toLowerCase().includes(needle) ? 1 : 0;
        matching += found[i];
      }
    }
    listed = [];
    episodes.groups.forEach(([a, b], g) => { if (found.subarray(a, b).includes(1)) listed.push(g); });
    sort();
    said.replaceChildren(`${matching} of ${episodes.count} episodes, in ${listed.length} of ${episodes.groups.length} groups`);
    list.replaceChildren();
    shownRows = 0;
    fill();
    await open(listed.length ? 0 : -1);
    root.classList.remove("busy");
  }

  function sort() {
    if (order.value === "0") return;
    const value = (g) => {
      const rewards = episodes.reward.slice(...episodes.groups[g]).filter(Number.isFinite);
      const mean = rewards.reduce((a, b) => a + b, 0) / (rewards.length || 1);
      return order.value === "1" ? mean : order.value === "2" ? -mean : rewards.length ? Math.min(...rewards) - Math.max(...rewards) : 0;
    };
    const values = new Map(listed.map((g) => [g, value(g)]));
    listed.sort((a, b) => values.get(a) - values.get(b) || a - b);
  }

  function fill() {
    const end = Math.min(listed.length, shownRows + LISTED);
    for (; shownRows < end; shownRows++) {
      const at = shownRows, [a, b] = episodes.groups[listed[at]];
      const squares = make("span.rewards");
      for (let i = a; i < Math.min(b, a + 32); i++) squares.append(make(`i.r${level(episodes.reward[i])}`));
      const button = make("button", make("b", `${episodes.files[episodes.file[a]]} ${episodes.step[a]}`), squares, make("bdi", episodes.problems[episodes.problem[a]].slice(0, 80)));
      button.addEventListener("click", () => open(at));
      list.append(make("li", button));
    }
    more.hidden = shownRows >= listed.length;
  }

  const level = (reward) => (!Number.isFinite(reward) ? "x" : highest > lowest ? Math.round((9 * (reward - lowest)) / (highest - lowest)) : 9);

  async function open(at) {
    position = at;
    view.replaceChildren();
    list.querySelectorAll(".open").forEach((row) => row.classList.remove("open"));
    if (at < 0) {
      view.append(make("p", "no episode is like that"));
      return;
    }
    if (list.children[at]) list.children[at].classList.add("open");
    const [a, b] = episodes.groups[listed[at]];
    const members = await Promise.all(Array.from({ length: b - a }, (_, i) => episodes.get(a + i)));
    if (position !== at) return;
    const back = make("button", "← before"), on = make("button", "next →");
    back.disabled = at === 0;
    on.disabled = at + 1 >= listed.length;
    back.addEventListener("click", () => open(at - 1));
    on.addEventListener("click", () => open(at + 1));
    const rewards = episodes.reward.slice(a, b);
    const tags = episodes.tagLists[episodes.tags[a]];
    view.replaceChildren(
      make("p", back, " ", on, " ", `${episodes.files[episodes.file[a]]}, step ${episodes.step[a]}, ${b - a} episodes, mean reward ${shown(rewards.reduce((x, y) => x + y, 0) / rewards.length)}`),
      make("h3", episodes.problems[episodes.problem[a]]),
      make("p.tags", tags.length ? "tags: " : null, ...tags.map((name) => make("span.tag", name))),
      legend(COLOURS[colour.value]),
    );
    const scale = Math.max(...members.flatMap((m) => m.turns.map((t) => largest(t.advantages))), 1e-9);
    const shared = vocabulary.known && members.length > 1 && members.every((m) => m.turns.length && same(m.turns[0].observation, members[0].turns[0].observation));
    if (shared) view.append(make("h4", "prompt"), sequence(members[0].turns[0].observation, null, scale));
    const side = make("div.side");
    const some = found.subarray(a, b).includes(0); // else all of them are what was asked for
    members.forEach((member, i) => side.append(episodeView(member, a + i, shared, scale, some)));
    view.append(side);
  }

  function episodeView(episode, i, shared, scale, some) {
    const box = make(some && found[i] ? "article.found" : "article");
    box.append(make("h4", `episode ${episodes.member[i]}: reward `, make("b", shown(episodes.reward[i])), ", ", make("span.stop", episodes.stops[episodes.stop[i]])));
    const parts = [];
    if (episode.turns.length > 1 || episode.final) {
      episode.turns.forEach((turn, t) => parts.push([`reward of turn ${t + 1}`, shown(turn.reward)]));
      parts.push(["reward of the group", shown(episode.final)]);
    }
    for (const [name, value] of episode.metrics) parts.push([name, shown(Number(value))]);
    if (episode.turns.length === 1) for (const [name, value] of episode.turns[0].metrics) parts.push([name, shown(Number(value))]);
    if (parts.length) box.append(table(["component", "value"], parts));
    episode.turns.forEach((turn, t) => {
      const words = [`turn ${t + 1}`, turn.policy >= 0 ? `policy of step ${turn.policy}` : "start policy"];
      if (turn.truncated) words.push("cut at a token limit");
      if (turn.masked) words.push("masked: not trained");
      if (t > 0 && !turn.joined) words.push("a new context");
      box.append(make("h5", words.join(", ")));
      if (episode.turns.length > 1 && turn.metrics.length) box.append(table(["component", "value"], turn.metrics.map(([name, value]) => [name, shown(Number(value))])));
      if (!vocabulary.known) {
        const [read, said] = turn.logged.map((logged) => put(make("pre.logged"), logged, true));
        box.append(read, make("h5", "said"), said, make("h5", "token ids"));
      }
      if (turn.observation.length && !(shared && t === 0)) box.append(sequence(turn.observation, null, scale));
      if (turn.action.length) box.append(sequence(turn.action, turn, scale));
      else box.append(make("p", "nothing was sampled"));
    });
    if (!episode.turns.length) box.append(make("p", "no turn was taken"));
    return box;
  }

  // Tokens in a row; `turn` has their columns, null for tokens that were only read.
  function sequence(ids, turn, scale) {
    const box = make(turn ? "pre.tokens.acted" : "pre.tokens.read");
    const words = vocabulary.spell(ids), hits = marks(words);
    const by = COLOURS[colour.value];
    function write(a, b) {
      for (let i = a; i < b; i++) {
        const token = document.createElement("span");
        const control = vocabulary.words.get(ids[i]).control;
        token.className = `t ${turn ? shade(turn, i, by, scale) : "seen"}${control ? " control" : ""}${hits && hits[i] ? " hit" : ""}`;
        put(token, words[i], true);
        details.set(token, [ids, i, words, turn]);
        box.append(token, vocabulary.known ? "" : " ");
      }
      if (b < ids.length) {
        const rest = make("button", `${ids.length - b} more tokens`);
        rest.addEventListener("click", () => { rest.remove(); write(b, ids.length); });
        box.append(rest);
      }
    }
    write(0, Math.min(ids.length, TOKENS));
    return box;
  }

  // Which tokens what is sought lies in.
  function marks(words) {
    if (!needle || !vocabulary.known) return null;
    const small = words.map((word) => word.toLowerCase()), all = small.join(""), out = new Uint8Array(words.length);
    let token = 0, start = 0;
    for (let at = all.indexOf(needle); at >= 0; at = all.indexOf(needle, at + needle.length)) {
      while (start + small[token].length <= at) start += small[token++].length;
      for (let t = token, s = start; t < words.length && s < at + needle.length; s += small[t++].length) out[t] = 1;
    }
    return out;
  }

  const details = new WeakMap(), tip = make("div.tip");
  tip.hidden = true;
  root.append(tip);
  view.addEventListener("pointerover", (event) => {
    const token = event.target instanceof Element ? event.target.closest(".t") : null;
    tip.hidden = token === null;
    if (token === null) return;
    const [ids, i, words, turn] = details.get(token), word = vocabulary.words.get(ids[i]);
    const lines = [`token ${i + 1} of ${ids.length}: id ${ids[i]}${word.control ? ", a control token" : ""}`];
    if (vocabulary.known) lines.push(`"${words[i]}", bytes ${Array.from(word.bytes.subarray(0, 32), (x) => x.toString(16).padStart(2, "0")).join(" ")}`);
    if (turn) {
      const logprob = HALF[turn.logprobs[i]], three = (v) => (Number.isFinite(v) ? String(Number(v.toPrecision(3))) : shown(v));
      lines.push(`logprob ${three(logprob)}, probability ${three(Math.exp(logprob))}`);
      for (const name of ["advantages", "weights"]) {
        const value = HALF[turn[name][i]];
        lines.push(`${name.slice(0, -1)} ${Number.isNaN(value) ? "not logged" : three(value)}`);
      }
    } else lines.push("read, not sampled");
    tip.replaceChildren(...lines.map((line) => make("div", line)));
  });
  root.classList.add("busy");
  filter();
  return root;
}

function shade(turn, i, by, scale) {
  if (by === "weight") {
    const w = HALF[turn.weights[i]];
    return Number.isNaN(w) ? "unknown" : w > 0 ? "trained" : w < 0 ? "against" : "unused";
  }
  if (by === "logprob") {
    const below = -HALF[turn.logprobs[i]];
    return Number.isNaN(below) ? "unknown" : `l${LIMITS.filter((limit) => below >= limit).length}`;
  }
  if (by === "advantage") {
    const a = HALF[turn.advantages[i]];
    if (Number.isNaN(a)) return "unknown";
    const size = Math.min(5, Math.ceil((5 * Math.abs(a)) / scale));
    return a === 0 ? "a0" : `${a > 0 ? "ap" : "an"}${size}`;
  }
  return "plain";
}

function legend(by) {
  const of = {
    weight: [["trained", "trained"], ["against", "trained against"], ["unused", "sampled, weight 0"], ["unknown", "weight not logged"]],
    logprob: [["l0", "certain"], ["l3", "p < 0.78"], ["l5", "p < 0.37"], ["l7", "p < 0.05"], ["l9", "p < 0.0004"]],
    advantage: [["ap5", "better than the group"], ["a0", "0"], ["an5", "worse"], ["unknown", "not logged"]],
    nothing: [["plain", "sampled"]],
  }[by];
  return make("p.legend", ...of.map(([kind, text]) => make(`span.t.${kind}`, text)), make("span.t.seen", "read"), make("span.t.control", "control token"));
}

const largest = (halves) => {
  let most = 0;
  for (const half of halves) { const a = Math.abs(HALF[half]); if (a > most && a < Infinity) most = a; }
  return most;
};

const same = (a, b) => a.length === b.length && a.every((id, i) => id === b[i]);

function debounced(work) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(work, 250); };
}
