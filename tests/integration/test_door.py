"""The front door of real nodes: keys from real clients, and pages in a real browser."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

from crowd.tools.local_cluster import NotReadyError
from tests.integration.cluster import Nodes, eventually, free_ports
from tests.integration.pages import CHROMIUM, Pages

KEY, OTHER = "crowd_one", "crowd_two"
BODY = '{"message": "this is a lead message"}'


def route(path="/leads", **policy):
    return {"path": path, "methods": ["POST"], **policy}


def keys(**named):
    return [
        {"name": name, "sha256": [sha256(key.encode()).hexdigest()]} for name, key in named.items()
    ]


def sent(nodes):
    """Return what the consumer of one node has got."""
    return [json.loads(line) for line in Path(nodes.sinks[0]).read_text("utf-8").splitlines()]


@pytest.fixture
def pages(tmp_path):
    served = Pages(tmp_path / "browser")
    yield served
    served.close()


@pytest.fixture
def open_node(tmp_path):
    """Return what starts one node with these routes, and a consumer that records."""
    opened = []

    def start(*routes):
        consumer = free_ports(1) + 5
        nodes = Nodes(
            tmp_path, size=1, upstream=f"http://127.0.0.1:{consumer}", extra={"route": [*routes]}
        )
        opened.append(nodes)
        nodes.sink(consumer)
        return nodes

    yield start
    for nodes in opened:
        nodes.close()


def curl(url, *arguments):
    words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--data", BODY]
    done = subprocess.run([*words, *arguments, url], capture_output=True, check=True, timeout=30)
    return int(done.stdout)


def node_fetch(url, headers):
    script = (
        f"fetch({json.dumps(url)}, {{method: 'POST', body: {json.dumps(BODY)}, "
        f"headers: {json.dumps(headers)}}}).then(answer => console.log(answer.status))"
    )
    done = subprocess.run(["node", "-e", script], capture_output=True, check=True, timeout=30)
    return int(done.stdout)


async def with_aiohttp(url, headers):
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=BODY, headers=headers) as answer,
    ):
        await answer.read()
        return answer.status


def test_keys_from_real_clients(open_node):
    """Each client posts as it would anywhere, is refused with another key, and none is delivered."""
    nodes = open_node(
        route(key=keys(shop=KEY, other=OTHER), key_from=["bearer", "basic", "header:X-Api-Key"])
    )
    url = nodes.nodes["a"].http + "/leads"

    def statuses(key):
        bearer, own = {"Authorization": f"Bearer {key}"}, {"X-Api-Key": key}
        found = [
            curl(url, "-H", f"Authorization: Bearer {key}"),
            curl(url, "-u", f"shop:{key}"),
            requests.post(url, BODY, headers=bearer, timeout=20).status_code,
            requests.post(url, BODY, auth=("shop", key), timeout=20).status_code,
            httpx.post(url, content=BODY, headers=own).status_code,
            httpx.post(url, content=BODY, auth=("shop", key)).status_code,
            asyncio.run(with_aiohttp(url, own)),
            asyncio.run(with_aiohttp(url, bearer)),
        ]
        if shutil.which("node"):
            found.append(node_fetch(url, bearer))
        return found

    taken = statuses(KEY)
    assert set(taken) == {200}
    assert set(statuses("crowd_unknown")) == {401}
    assert requests.post(url, BODY, timeout=20).status_code == 401
    assert requests.post(url, BODY, auth=("shop", OTHER), timeout=20).status_code == 401
    large = requests.post(url, "x" * 900_000, timeout=20, headers={"Expect": "100-continue"})
    assert large.status_code == 401
    eventually("all are delivered", lambda: len(sent(nodes)) == len(taken))
    for request in sent(nodes):
        names = {name.lower() for name, _ in request["headers"]}
        assert not names & {"authorization", "x-api-key"}
    assert KEY not in nodes.log("a")


def test_a_key_that_is_taken_away_opens_nothing_a_signal_later(open_node):
    """SIGHUP is enough; and `crowd check` says what a file asks for."""
    nodes = open_node(route(key=keys(shop=KEY, other=OTHER)))
    node = nodes.nodes["a"]
    url, file = node.http + "/leads", Path(node.config)
    assert curl(url, "-H", f"Authorization: Bearer {OTHER}") == 200
    text = file.read_text("utf-8")
    file.write_text(text.replace(keys(other=OTHER)[0]["sha256"][0], "0" * 64))
    os.kill(node.pid, signal.SIGHUP)
    eventually("it is refused", lambda: curl(url, "-H", f"Authorization: Bearer {OTHER}") == 401)
    assert curl(url, "-H", f"Authorization: Bearer {KEY}") == 200
    assert "route /leads has another policy" in nodes.log("a")
    command = [sys.executable, "-m", "crowd.cli", "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert 'route[/leads].key[shop].name = "shop"' in done.stdout


def test_requests_signed_by_a_provider(open_node, tmp_path):
    """With a secret from a file, which is replaced while the node runs."""
    secret = tmp_path / "github"
    secret.write_text("It's a Secret to Everybody\n")
    nodes = open_node(route(signature={"form": "github", "secrets": [f"file:{secret}"]}))
    node = nodes.nodes["a"]
    own = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

    def post(signature):
        headers = {"X-Hub-Signature-256": f"sha256={signature}"}
        return requests.post(node.http + "/leads", "Hello, World!", headers=headers, timeout=20)

    assert post(own).status_code == 200
    assert post("0" * 64).json()["type"] == "/problems/wrong-signature"
    secret.write_text("another one")
    os.kill(node.pid, signal.SIGHUP)
    eventually("the old one holds no more", lambda: post(own).status_code == 403)
    assert post(hmac.digest(b"another one", b"Hello, World!", "sha256").hex()).status_code == 200
    secret.write_text("")
    os.kill(node.pid, signal.SIGHUP)
    eventually("it is told", lambda: "found no secret that can be used" in nodes.log("a"))
    assert post(own).status_code == 403  # a reload that cannot be used changes nothing
    log = nodes.log("a")
    assert "Everybody" not in log
    assert "another one" not in log
    nodes.term("a")
    with pytest.raises(NotReadyError, match="github: found no secret that can be used"):
        nodes.up()
    eventually("the signed are delivered", lambda: len(sent(nodes)) == 2)
    names = [{name for name, _ in request["headers"]} for request in sent(nodes)]
    assert all("X-Hub-Signature-256" in each for each in names)


def test_what_is_no_lead_is_refused_before_it_is_stored(open_node, tmp_path):
    """JSON with a schema, too large a body, too many of them: by real clients."""
    schema = tmp_path / "lead.json"
    schema.write_text('{"required": ["message"], "properties": {"message": {"type": "string"}}}')
    content = {"types": ["application/json"], "schema": str(schema), "body": "64 KiB"}
    nodes = open_node(
        route(content=content), route("/slow", rate={"limit": "1/min", "by": "address"})
    )
    url = nodes.nodes["a"].http

    def post(body, kind="application/json", path="/leads"):
        return requests.post(url + path, body, headers={"Content-Type": kind}, timeout=20)

    assert post(BODY).status_code == 200
    assert post("{", "text/plain").status_code == 415
    malformed = post('{"message": "x",}')
    assert (malformed.status_code, malformed.json()["offset"]) == (400, 16)
    other = post('{"message": 5}')
    assert (other.status_code, other.json()["pointer"]) == (422, "/message")
    assert post("x" * 70_000).status_code == 413
    assert curl(url + "/leads", "-H", "Content-Type: application/json") == 200
    early = [post(BODY, path="/slow") for _ in range(2)]
    assert [answer.status_code for answer in early] == [200, 429]
    assert 0 < int(early[1].headers["Retry-After"]) <= 60
    metrics = requests.get(nodes.nodes["a"].admin + "/metrics", timeout=20).text
    for reason in ("unsupported-type", "malformed-body", "schema-mismatch", "body-too-large"):
        assert f'crowd_door_refused_total{{reason="{reason}"}} 1.0' in metrics
    eventually("only the good ones are delivered", lambda: len(sent(nodes)) == 3)


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

SCRIPT = """
const url = "%s";
const json = {"Content-Type": "application/json", "Authorization": "Bearer %s"};
async function post(options, way = "/leads") {
    try {
        const answer = await fetch(url + way, {method: "POST", ...options});
        const words = await answer.json();
        return [answer.status, words.type || words.status, answer.headers.has("Crowd-Message-Id")];
    } catch (error) {
        return [0, error.name, false];
    }
}
async function found() {
    const form = new FormData();
    form.append("a", "b");
    return {
        json: await post({headers: json, body: '{"a": 1}'}),
        stranger: await post({headers: {"Content-Type": "application/json"}, body: "{}"}),
        method: await post({headers: json, method: "PUT", body: "{}"}),
        open: await post({body: form}, "/open"),
        alive: await post({body: "kept", keepalive: true}, "/open"),
        closed: await post({body: "{}"}, "/closed"),
        beacon: navigator.sendBeacon(url + "/open", "from a beacon"),
    };
}
"""


@needs_browser
def test_a_page_posts_from_a_browser(open_node, pages):
    """A page with leave posts, and reads answers and errors; others do not."""
    cors = {"origins": [f"http://127.0.0.1:{pages.port}"], "headers": ["*"]}
    nodes = open_node(
        route(cors=cors, key=keys(shop=KEY)), route("/open", cors=cors), route("/closed")
    )
    url = nodes.nodes["a"].http
    mine = pages.run(SCRIPT % (url, KEY))
    assert mine == {
        "json": [200, "OK", True],
        "stranger": [401, "/problems/no-credential", False],
        "method": [0, "TypeError", False],  # the browser asks first, and hears that it may not
        "open": [200, "OK", True],
        "alive": [200, "OK", True],
        "closed": [0, "TypeError", False],  # it is accepted: such a post needs no leave
        "beacon": True,
    }
    eventually("the beacon's is there", lambda: len(sent(nodes)) == 5)
    theirs = pages.run(SCRIPT % (url, KEY), host="localhost")
    assert theirs.pop("beacon")  # sent, and refused
    assert {status for status, _, _ in theirs.values()} == {0}
    eventually("only the route without leave took it", lambda: len(sent(nodes)) == 6)
