"""What a node says of its configuration when it starts."""

from tests.integration.cluster import Nodes

PROXIED = {"path": "/leads", "reads": "proxy", "upstream": "http://127.0.0.1:1"}


def test_a_node_warns_of_what_is_not_in_force_yet(tmp_path):
    """An operator who sets what this version does not act on finds it in the node's log."""
    nodes = Nodes(tmp_path, size=1, extra={"route": [PROXIED]})
    try:
        assert 'not in force yet: route[/leads].reads = "proxy": GET' in nodes.log("a")
    finally:
        nodes.close()
