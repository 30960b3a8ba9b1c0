"""What every check is, and what has happened, for all of them.

Decides nothing: `Truth` is filled before checks look.
"""

from __future__ import annotations


class Truth:
    """What has happened, for all checks: filled before they look."""

    def __init__(self):
        self.entries = {}
        """By index: (term, command) of each applied entry."""
        self.committed = 1
        """The highest index that any leader committed."""
        self.commits = {}
        """By a leader's term: (index, term) of the last entry that it committed."""
        self.positions = {}
        """By position: (index, stored message, token)."""
        self.tokens = {}
        """By token: the position that it was accepted at."""
        self.story = None
        """What the entries say became of messages (``story``)."""


class Check:
    """One invariant. Methods are named after the events that they look at."""

    def __init__(self, checks):
        self.world = checks.world
        self.cluster = checks.cluster
        self.truth = checks.truth

    def fail(self, words):
        self.world.fail(type(self).__name__, words)
