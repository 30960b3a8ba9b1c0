"""The dashboard: one page without anything from elsewhere, that asks for /api/status.

Decides only how it looks. It works with scripts from this page alone; what it shows is set as
text, never as markup, so a consumer's name cannot become a script.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
       padding: 0 1rem; color: #222; background: #fdfdfb; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
#state { font-weight: bold; } .bad { color: #a00; } .good { color: #070; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; } th, td { border-color: #444; }
  .bad { color: #f77; } .good { color: #7d7; }
}
"""

_SCRIPT: Final = """
const byId = (id) => document.getElementById(id);
const NODE = ["role", "term", "leader", "commit_index", "applied_index", "durable_index",
              "first_index", "released_index", "position", "backlog_bytes", "stored_bytes",
              "producers_waiting", "connections", "damaged_entries", "mended_entries"];
const PEER = ["connected", "match_index"];
function state(consumer) {
  if (consumer.paused) return "paused";
  const delivery = consumer.delivery || {};
  return delivery.held || (delivery.silent ? "does not answer" : "delivering");
}
function consumer_row(consumer) {
  const letters = consumer.letters || {};
  return row([consumer.name, state(consumer), consumer.backlog, consumer.watermark, letters.dead,
    letters.parked, letters.skipped, consumer.url]);
}
function text(value) {
  if (value === null || value === undefined) return "-";
  return typeof value === "number" ? value.toLocaleString("en") : String(value);
}
function row(cells) {
  const line = document.createElement("tr");
  for (const value of cells) {
    const cell = document.createElement("td");
    cell.textContent = text(value);
    if (typeof value === "number") cell.className = "number";
    line.append(cell);
  }
  return line;
}
function show(status) {
  document.title = "crowd " + status.name;
  byId("name").textContent = status.name;
  byId("state").textContent = status.ready ? "ready" : "not ready";
  byId("state").className = status.ready ? "good" : "bad";
  byId("node").replaceChildren(...NODE.map((key) => row([key.replaceAll("_", " "), status[key]])));
  const peers = status.peers || {};
  const own = {connected: true, match_index: status.durable_index};
  byId("members").replaceChildren(...Object.entries(status.members || {}).map(
    ([name, member]) => row([name, member.votes ? "voter" : "learner", member.address,
      ...PEER.map((key) => (name === status.name ? own : peers[name] || {})[key])])));
  const bad = [...(status.damaged_checkpoints || [])];
  if (status.damaged_entries) bad.unshift(text(status.damaged_entries) +
    " damaged entries, asked of the other members");
  byId("damage").textContent = bad.join("; ");
  byId("consumers").replaceChildren(...(status.consumers || []).map(
    consumer_row));
}
async function look() {
  try {
    const answer = await fetch("/api/status", {cache: "no-store"});
    if (!answer.ok) throw new Error("status " + answer.status);
    show(await answer.json());
  } catch (error) {
    byId("state").textContent = "no answer from the node (" + error.message + ")";
    byId("state").className = "bad";
  }
  setTimeout(look, 1000);
}
look();
"""

_PAGE: Final = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>crowd</title>
<style>{_STYLE}</style>
<h1>crowd: node <span id="name">?</span> is <span id="state" role="status">asked</span></h1>
<h2>This node</h2>
<table><tbody id="node"></tbody></table>
<p id="damage" class="bad" role="alert"></p>
<h2>Members</h2>
<table><thead><tr><th>name<th>role<th>address<th>connected<th>match index</thead>
<tbody id="members"></tbody></table>
<h2>Consumers</h2>
<table><thead><tr><th>name<th>state<th>backlog<th>watermark<th>dead<th>parked
<th>skipped<th>url</thead>
<tbody id="consumers"></tbody></table>
<p>More: <a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a>,
<a href="/api/status">/api/status</a></p>
<script>{_SCRIPT}</script>
</html>
"""


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


PAGE: Final = _PAGE.encode("utf-8")

POLICY: Final = (
    (
        b"Content-Security-Policy",
        f"default-src 'none'; connect-src 'self'; style-src {_source(_STYLE)}; "
        f"script-src {_source(_SCRIPT)}; frame-ancestors 'none'".encode("ascii"),
    ),
    (b"X-Content-Type-Options", b"nosniff"),
)
