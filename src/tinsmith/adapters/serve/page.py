"""The page at /: what the server holds and does."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinsmith.adapters.serve.hub import Hub

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; width: 100% }
th, td { text-align: left; padding: 0.2em 1em 0.2em 0; border-bottom: 1px solid #ddd }
td.n { text-align: right; font-variant-numeric: tabular-nums }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } th, td { border-color: #444 } }
"""


def page(hub: Hub) -> str:
    """HTML; every word that came from a client is text in it."""
    models, total = hub.store.models(50, 0)
    rows = []
    for model in models:
        run = hub.runs.get(model.id)
        state = "on disk" if run is None or not run.is_open else "working" if run.queued else "in memory"
        checkpoints = len(hub.store.checkpoints(model.id))
        cells = (model.id, model.base_model, f"rank {model.lora.rank}", state)
        numbers = (model.last_seq, 0 if run is None else run.queued, checkpoints)
        rows.append(
            "<tr>"
            + "".join(f"<td>{escape(c)}</td>" for c in cells)
            + "".join(f'<td class="n">{n:,}</td>' for n in numbers)
            + f"<td>{_ago(model.last_request)}</td></tr>"
        )
    served = ", ".join(f"{escape(name)} (context {engine.context:,})" for name, engine in hub.engines.items())
    heads = ("model", "base", "adapters", "state", "requests", "queued", "checkpoints", "last request")
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>tinsmith serve</title>
<meta http-equiv="refresh" content="5"><style>{_STYLE}</style>
<h1>tinsmith serve</h1>
<p>Serves {served}. Up for {_span(time.time() - hub.started)}.</p>
<p>Completions asked for: {hub.sampling.sequences:,}; samplers open: {hub.open_samplers}; results waited for:
{hub.futures.waiting:,}. Over the last minute, {hub.sampled.rate():,.0f} tokens a second were
sampled and {hub.trained.rate():,.0f} trained.</p>
<h2>Models: {total:,}</h2>
<table><tr>{"".join(f"<th>{h}</th>" for h in heads)}</tr>{"".join(rows)}</table>
</html>"""


def _ago(when: float) -> str:
    return f"{_span(time.time() - when)} ago"


def _span(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
