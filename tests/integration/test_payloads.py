"""Real payloads, byte for byte: GitHub's webhook examples, fetched from the npm registry."""

import hashlib
import json
import shutil
import subprocess
import tarfile

import pytest

from tests.checker import lines
from tests.integration.cluster import eventually

PACKAGE = "@octokit/webhooks-examples@7.6.1"
INDEX = "/api.github.com/index.json"


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Return (event's name, body) pairs: what GitHub would post."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, so the examples cannot be fetched")
    place = tmp_path_factory.mktemp("examples")
    fetched = subprocess.run(
        [npm, "pack", "--silent", PACKAGE],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if fetched.returncode:
        pytest.skip(f"the examples could not be fetched: {fetched.stderr[-200:]}")
    with tarfile.open(place / fetched.stdout.strip().splitlines()[-1]) as package:
        (name,) = (name for name in package.getnames() if name.endswith(INDEX))
        with package.extractfile(name) as index:
            hooks = json.load(index)
    found = [
        (hook["name"], json.dumps(example, ensure_ascii=False).encode())
        for hook in hooks
        for example in hook["examples"]
    ]
    assert len(found) > 100
    return found


def test_i9_github_webhooks_arrive_as_they_were_posted(cluster, examples):
    """I9: each example, through each node in turn, with its headers and its exact body."""
    cluster.sink(cluster.consumer_port)
    names, sent = list(cluster.nodes), {}
    for turn, (event, body) in enumerate(examples):
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/044aadd",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": f"72d3162e-cc78-11e3-81ab-{turn:012d}",
            "X-Hub-Signature-256": "sha256=" + hashlib.sha256(body).hexdigest(),
        }
        path = f"/hooks/github?event={event}&n={turn}"
        status, answered, _ = cluster.post(names[turn % 3], body, path, headers)
        assert status == 200
        sent[answered["Crowd-Message-Id"]] = (path, headers, hashlib.sha256(body).hexdigest())

    def arrived():
        seen = {request["id"]: request for request in lines(cluster.sinks)}
        return seen if seen.keys() >= sent.keys() else None

    for message_id, request in eventually("all examples", arrived).items():
        path, headers, digest = sent[message_id]
        assert (request["method"], request["target"]) == ("POST", path)
        assert request["sha256"] == digest
        got = [tuple(pair) for pair in request["headers"]]
        assert [pair for pair in got if pair[0] in headers] == list(headers.items())
