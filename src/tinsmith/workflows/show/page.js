// The page: opened when its index is inflated; each part is made when it is first looked at.

const when = (seconds) => new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC";

function size(bytes) {
  return bytes === null ? "" : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

async function openPage() {
  const page = document.getElementById("page");
  if (typeof DecompressionStream === "undefined") {
    page.replaceChildren(make("p", "this page needs a browser with DecompressionStream: Chrome 80, Firefox 113, Safari 16.4 or later"));
    return;
  }
  const index = JSON.parse(utf8.decode(await inflated("index")));
  const run = index.run;
  document.title = visible(run.name);
  const facts = [run.recipe, run.model, run.total === null ? `${run.steps} ${run.unit}` : `${run.steps} of ${run.total} ${run.unit}`, `began ${when(run.began)}`, `last record ${when(run.changed)}`, `page made ${when(index.made)}`];
  page.replaceChildren(make("h1", run.name), make("p.facts", make("span.state", run.state), ...facts.map((fact) => make("bdi", fact))));
  if (run.reason) page.append(make("p", `${run.state}: ${run.reason}`));
  if (index.notes.length) page.append(make("ul.notes", ...index.notes.map((note) => make("li", note))));
  const episodes = new Episodes(index.episodes, new Vocabulary(index.vocabulary));
  const parts = [
    ["curves", () => curves(index.metrics)],
    [`episodes (${shown(episodes.count)})`, () => episodesView(episodes)],
    ["config", () => make("section", make("p", run.path), table(["option", "value"], index.config))],
    ["history", () => history(index)],
  ];
  const tabs = make("nav.tabs"), body = make("div");
  parts.forEach(([name, build], i) => {
    const tab = make("button", name);
    let made = null;
    tab.addEventListener("click", () => {
      tabs.querySelectorAll(".open").forEach((other) => other.classList.remove("open"));
      tab.classList.add("open");
      made = made || build();
      body.replaceChildren(made);
    });
    tabs.append(tab);
    if (i === 0) tab.click();
  });
  page.append(tabs, body);
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

function history(index) {
  return make("section",
    make("h2", "checkpoints"),
    index.checkpoints.length ? table(["name", "kept", "after steps", "at", "size", "state"], index.checkpoints.map(([name, keep, step, time, bytes, handle]) => [name, keep, String(step), when(time), size(bytes), handle])) : make("p", "none is there"),
    make("h2", "beginnings and ends"),
    table(["at", "what", "after steps", "said"], index.events.map(([time, what, step, texts]) => [when(time), what, String(step), texts.join("; ")])));
}

openPage().catch((error) => {
  document.getElementById("page").replaceChildren(make("p.warning", `the page could not be opened: ${error}`));
});
