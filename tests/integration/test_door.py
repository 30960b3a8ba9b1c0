"""The front door of real nodes: keys from real clients, and pages in a real browser."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

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
