"""What `crowd load` has seen: counts, latencies and pauses, and how they are shown."""

from __future__ import annotations

from typing import Any

import msgspec

from crowd.tools.histogram import Histogram


class Answer(msgspec.Struct, frozen=True, gc=False):
    """One request's fate, at ``now_s`` of the loop's clock.

    ``status`` is 0 where no answer came, and ``error`` says why.
    """

    now_s: float
    latency_s: float
    status: int
    message_id: str | None
    error: str | None

    @property
    def succeeded(self) -> bool:
        """Whether a node has taken the message."""
        return 200 <= self.status < 300

    def line(self, wall_s: float, url: str) -> bytes:
        """Return the log's line, one JSON object; `wall_s` turns the loop's time into 1970's."""
        content: dict[str, Any] = {
            "time": round(self.now_s + wall_s, 6),
            "id": self.message_id,
            "status": self.status,
            "latency": round(self.latency_s, 6),
            "url": url,
        }
        if self.error is not None:
            content["error"] = self.error
        return msgspec.json.encode(content)


class Report(msgspec.Struct, frozen=True):
    """A run in numbers. Latencies are those of successes, in milliseconds.

    ``longest_pause_s`` is the longest time in which no request succeeded. ``errors`` counts
    the reasons for having no answer; ``unsent`` were due but no connection was free in time;
    ``troubles`` say why connections were not there at the end.
    """

    requests: int
    succeeded: int
    failed: int
    unsent: int
    troubles: tuple[str, ...]
    success_ratio: float
    seconds: float
    requests_per_s: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    longest_pause_s: float
    statuses: dict[str, int]
    errors: dict[str, int]
    urls: dict[str, dict[str, int]]


class Tally:
    """Counts answers, by target."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._succeeded = [0] * len(urls)
        self._failed = [0] * len(urls)
        self._statuses: dict[int, int] = {}
        self._errors: dict[str, int] = {}
        self._latencies = Histogram()
        self._pause_s = 0.0
        self._end_s: float | None = None
        self.unsent = 0
        self.troubles: tuple[str, ...] = ()

    def begin(self, now_s: float) -> None:
        """Count time from `now_s`."""
        self._begin_s = self._last_s = now_s

    def end(self, now_s: float) -> None:
        """No more requests are sent after `now_s`; a later silence is no pause."""
        self._end_s = now_s

    def add(self, number: int, answer: Answer) -> None:
        """Count one request's fate at target `number`."""
        status = answer.status
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if answer.succeeded:
            self._succeeded[number] += 1
            self._latencies.record(int(answer.latency_s * 1e6))
            self._pause_s = max(self._pause_s, answer.now_s - self._last_s)
            self._last_s = answer.now_s
            return
        self._failed[number] += 1
        if answer.error is not None:
            self._errors[answer.error] = self._errors.get(answer.error, 0) + 1

    def report(self, now_s: float) -> Report:
        """Return the run's numbers; what is still in flight is not among them."""
        end_s = now_s if self._end_s is None else self._end_s
        succeeded, failed = sum(self._succeeded), sum(self._failed) + self.unsent
        # The last answers come after the last request left; they count, so does their time.
        seconds = max(end_s, self._last_s) - self._begin_s
        latencies = self._latencies

        def at(percent: float) -> float:
            return round(latencies.percentile_us(percent) / 1e3, 3)

        return Report(
            requests=succeeded + failed,
            succeeded=succeeded,
            failed=failed,
            unsent=self.unsent,
            troubles=self.troubles,
            success_ratio=succeeded / (succeeded + failed) if succeeded + failed else 0.0,
            seconds=round(seconds, 3),
            requests_per_s=round(succeeded / seconds, 1) if seconds > 0 else 0.0,
            mean_ms=round(latencies.mean_us / 1e3, 3),
            p50_ms=at(50),
            p95_ms=at(95),
            p99_ms=at(99),
            max_ms=round(latencies.max_us / 1e3, 3),
            longest_pause_s=round(max(self._pause_s, end_s - self._last_s), 3),
            statuses={str(status): count for status, count in sorted(self._statuses.items())},
            errors=dict(sorted(self._errors.items())),
            urls={
                url: {"succeeded": good, "failed": bad}
                for url, good, bad in zip(self._urls, self._succeeded, self._failed, strict=True)
            },
        )


def report_lines(report: Report) -> list[str]:
    """Return a report for a person."""
    lines = [
        f"requests   {report.requests} in {report.seconds} s, {report.requests_per_s} a second",
        f"success    {report.success_ratio:.4%} ({report.failed} failed)",
        f"latency    mean {report.mean_ms} ms, max {report.max_ms}",
        f"           p50 {report.p50_ms}, p95 {report.p95_ms}, p99 {report.p99_ms}",
        f"pause      {report.longest_pause_s} s at the longest without a success",
    ]
    lines += [f"answered {status}: {count}" for status, count in report.statuses.items()
              if status != "0"]  # fmt: skip
    lines += [f"no answer, {why}: {count}" for why, count in report.errors.items()]
    if report.unsent:
        why = f" ({', '.join(report.troubles)})" if report.troubles else ""
        lines.append(f"never sent, as no connection was free in time{why}: {report.unsent}")
    for url, counts in report.urls.items():
        lines.append(f"{url}: {counts['succeeded']} succeeded, {counts['failed']} failed")
    return lines
