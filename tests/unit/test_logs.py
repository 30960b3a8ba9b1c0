"""A log line is one JSON object with named fields, whatever the event holds."""

import io
import json

from twisted.logger import Logger

from crowd.logs import json_lines


def test_an_event_is_one_line_with_its_fields():
    out = io.StringIO()
    log = Logger(namespace="crowd.test", observer=json_lines(out))
    log.info("lost {peer}\nat {index}", peer="b", index=7, thing=object)
    (line,) = out.getvalue().splitlines()
    shown = json.loads(line)
    assert shown["message"] == "lost b\nat 7"
    assert (shown["level"], shown["source"]) == ("info", "crowd.test")
    assert (shown["peer"], shown["index"]) == ("b", 7)
    assert shown["time"].endswith("+00:00")


def test_a_failure_carries_its_traceback():
    out = io.StringIO()
    log = Logger(namespace="crowd.test", observer=json_lines(out))
    try:
        int("broken")
    except ValueError:
        log.failure("a tick failed")
    assert "ValueError: invalid literal" in json.loads(out.getvalue())["failure"]
