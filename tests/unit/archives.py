"""An archive that a test hands to those who ask for letters."""

from __future__ import annotations


class NoLetters:
    """A cluster without letters, as `crowd.archive.Archive` has it."""

    def letter(self, number):
        return None

    def after(self, number, limit):
        return []

    def counts(self, consumer):
        return {}

    def gone(self):
        return {}

    def message(self, number):
        return None

    def on_messages(self, call):
        pass
