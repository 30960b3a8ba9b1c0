"""The guards of idempotency keys and groups; see ``mutations`` for the rest and for what a row is."""

from __future__ import annotations

from tests.simulation.mutation import Mutation

KEYS_OF_LEDGER = "crowd/ledger/keys.py"
SESSIONS = "crowd/ledger/sessions.py"
LEDGER = "crowd/ledger/ledger.py"
PACKED = "crowd/idempotency.py"
NAMED = "crowd/web/idempotency.py"
PROPOSAL = "crowd/raft/proposal.py"
PROPOSER = "crowd/raft/proposer.py"

KEYED = (
    # --- What a key is known by ---------------------------------------------------------------------
    Mutation(
        "keys of all credentials", "a key is its credential's", NAMED,
        "_key_stem(path, credential)", '_key_stem(path, "")', profile="keys",
    ),
    Mutation(
        "keys of all routes", "a key is its route's", NAMED,
        "_key_stem(path, credential)", '_key_stem("", credential)', profile="keys",
    ),
    Mutation(
        "a request without its body", "another body is another request", NAMED,
        "    request.update(body)\n", "", profile="keys",
    ),
    Mutation(
        "a request without its target", "another target is another request", NAMED,
        "_request_stem(method, target, count))", '_request_stem(method, b"", count))',
        profile="keys",
    ),
    Mutation(
        "an event without its source", "two sources may have one id", NAMED,
        "pack((path, credential, source, event))", "pack((path, credential, event))",
        profile="keys",
    ),
    # --- What is remembered -------------------------------------------------------------------------
    Mutation(
        "no key is known", "a known key stores nothing", KEYS_OF_LEDGER,
        "            if record is None:\n", "            if True:\n", profile="keys",
    ),
    Mutation(
        "any request is a replay", "a key with another request is refused", KEYS_OF_LEDGER,
        "if record[DIGEST_BYTES:DIGESTS_BYTES] == request:", "if True:", profile="keys",
    ),
    Mutation(
        "a position too high", "a key is known by where its message stands", KEYS_OF_LEDGER,
        "first + place - without, log_time_us", "first + place, log_time_us", profile="keys",
    ),
    Mutation(
        "a group left out counts once", "all messages of a group take no position",
        KEYS_OF_LEDGER, "            without += count\n", "            without += 1\n",
        profile="keys",
    ),
    Mutation(
        "keys that nobody wants", "a bound of none is none", KEYS_OF_LEDGER,
        '        if not self.bounds.count_max:\n            return b""\n', "", profile="keys",
        seeds=300,
    ),
    # --- What is forgotten --------------------------------------------------------------------------
    Mutation(
        "half the window", "a key is remembered for the window", KEYS_OF_LEDGER,
        "is_early = oldest.last_us + self.bounds.window_us > log_time_us",
        "is_early = oldest.last_us + self.bounds.window_us // 2 > log_time_us", profile="keys",
    ),
    Mutation(
        "keys for ever", "a key is forgotten after the window", KEYS_OF_LEDGER,
        "if is_early and not self._is_over():", "if not self._is_over():", profile="keys",
    ),
    Mutation(
        "no bound of keys", "so many keys are remembered at most", KEYS_OF_LEDGER,
        "if is_early and not self._is_over():", "if is_early:", profile="keys",
    ),
    Mutation(
        "no room for an open segment", "the bound holds at any time", KEYS_OF_LEDGER,
        "over = self._sealed_keys + self._room > self.bounds.count_max",
        "over = self._sealed_keys > self.bounds.count_max", profile="keys",
    ),
    Mutation(
        "the newest go first", "the oldest keys go first", KEYS_OF_LEDGER,
        "            oldest = self._sealed[0]\n", "            oldest = self._sealed[-1]\n",
        profile="keys",
        also=(
            (KEYS_OF_LEDGER, "            self._sealed.popleft()\n", "            self._sealed.pop()\n"),
        ),
    ),
    Mutation(
        "what goes early goes silently", "keys that went early are counted", KEYS_OF_LEDGER,
        "            if is_early:\n                evicted", "            if False:\n                evicted",
        profile="keys",
    ),
    Mutation(
        "never tidied", "keys go though no segment is full", LEDGER,
        "if self.log_time_us >= self._keys.due_us:", "if False:", profile="keys",
    ),
    Mutation(
        "never sealed by time", "a segment is of a sixteenth of the window", KEYS_OF_LEDGER,
        "if self._open and self._since_us + self._span_us <= log_time_us:", "if False:",
        profile="keys",
    ),
    Mutation(
        "never due by age", "the oldest segment says when it goes", KEYS_OF_LEDGER,
        "            due_us = min(due_us, self._sealed[0].last_us + self.bounds.window_us)\n", "",
        profile="keys",
    ),
    Mutation(
        "a dropped segment is still found", "what goes leaves the index",
        "crowd/ledger/key_index.py", "            del parts[place][: count * _ENTRY.size]\n",
        "            pass\n", profile="keys",
    ),
    # --- Captured and restored ----------------------------------------------------------------------
    Mutation(
        "sealed keys are not restored", "a checkpoint's keys are known", KEYS_OF_LEDGER,
        "            self._index.add_all(self._open_number, section)\n", "            self._index._make_parts()\n", profile="keys",
    ),
    Mutation(
        "open keys are not restored", "a checkpoint's keys are known", KEYS_OF_LEDGER,
        "            self._index.add_all(self._open_number, opened.records)\n", "", profile="keys",
    ),
    Mutation(
        "never due after a restore", "a restored ledger tidies as the others do", KEYS_OF_LEDGER,
        "        self._since_us, self._last_us = opened.since_us, opened.last_us\n"
        "        self._look()\n",
        "        self._since_us, self._last_us = opened.since_us, opened.last_us\n",
        profile="keys",
    ),
    Mutation(
        "what was left out is not restored", "a checkpoint has what was left out", SESSIONS,
        "        self.left_out = dict(part.left_out)\n", "", profile="keys",
    ),
    # --- What was left out --------------------------------------------------------------------------
    Mutation(
        "left out, and not noted", "a batch's node learns what was left out", LEDGER,
        "            session.left_out[batch.number] = left_out\n", "            pass\n",
        profile="keys",
    ),
    Mutation(
        "left out, and soon forgotten", "it is known as long as its number", SESSIONS,
        "self.left_out = {n: packed for n, packed in self.left_out.items() if n >= low}",
        "self.left_out = {}", profile="keys",
    ),
    Mutation(
        "left out, and counted", "what is left out is nobody's", LEDGER,
        "        if without:\n            routes, sizes", "        if False:\n            routes, sizes",
        profile="keys",
    ),
    Mutation(
        "left out, and given a row", "what is left out has no position", LEDGER,
        "self._rows.append(self.applied_index, routes, sizes, without)",
        "self._rows.append(self.applied_index, routes, sizes, ())", profile="keys",
    ),
    Mutation(
        "nothing stored, and a row", "a batch that is all known changes no row", LEDGER,
        "        if len(without) == len(routes):\n            return\n", "", profile="keys",
        alone="not needed for truth: runs around what was left out are none, and add nothing",
    ),
    # --- Groups -------------------------------------------------------------------------------------
    Mutation(
        "a group's first message has its key", "a key is of all messages of a group",
        "crowd/web/ingest.py",
        "keyed(0, digests, len(stored))",
        "keyed(0, digests)", profile="keys",
    ),
    Mutation(
        "keys of where a group stood alone", "a group's keys move with it", PACKED,
        "    if not by or not packed:\n", "    if True:\n", profile="keys",
    ),
    Mutation(
        "a key at the batch's beginning", "a key is of its own message", PROPOSER,
        "else keyed(place, key))", "else keyed(0, key))", profile="keys",
    ),
    Mutation(
        "a group beyond the batch", "a batch has so many messages at most", PROPOSER,
        "size > BATCH_BYTES_MAX or len(messages) + self._open[0][6] > BATCH_MESSAGES_MAX",
        "size > BATCH_BYTES_MAX", profile="keys",
    ),
    # --- What a producer hears ----------------------------------------------------------------------
    Mutation(
        "a group takes one position", "those behind a group stand behind all of it", PROPOSAL,
        "            first += count or 1\n", "            first += 1\n", profile="keys",
    ),
    Mutation(
        "what was left out takes a position", "those behind it stand where it would", PROPOSAL,
        "first += end - place - sum([size for _, size, _ in own])", "first += end - place",
        profile="keys",
    ),
    Mutation(
        "a refusal is a replay", "another request is told so", PROPOSAL,
        "    if any(position == MISMATCH for _, _, position in own):\n        return None\n", "",
        profile="keys",
    ),
    Mutation(
        "a replay is stored", "a replay is told where the first one is", PROPOSAL,
        "    return Replayed(Position(own[0][2])) if own else Position(first)\n",
        "    return Position(first)\n", profile="keys",
    ),
    Mutation(
        "a group is stored", "a replayed group is told where the first one is", PROPOSAL,
        "        return Grouped(Position(first), count, replayed)\n",
        "        return Grouped(Position(first), count)\n", profile="keys",
    ),
    Mutation(
        "known ones in between", "a group's positions go around what was known", PACKED,
        "            first += stored\n", "", profile="keys",
    ),
    Mutation(
        "heard twice", "who was told is told nothing else", PROPOSAL,
        "            if number < self.heard:\n                continue\n", "", profile="keys",
    ),
    Mutation(
        "a refusal goes first", "who has no room refuses only what is new", PROPOSER,
        "        if keys and self._ledger is not None:\n", "        if False:\n", profile="disk",
    ),
    Mutation(
        "known for ever at a refusal", "what is past the window is not known", KEYS_OF_LEDGER,
        "if record is None or _position_of(record) <= past:", "if record is None:", profile="disk",
    ),
    Mutation(
        "a group in part is taken out", "who was refused leaves with all its messages", PROPOSAL,
        "gone = sum([count or 1 for _, _, count in self.waiters[: self.heard]])",
        "gone = self.heard", profile="keys",
    ),
    Mutation(
        "keys of those who left", "who was refused takes its keys along", PROPOSAL,
        "keys=without_first(command.keys, gone)", "keys=command.keys", profile="keys",
    ),
    Mutation(
        "keys of where they stood", "keys move up with their messages", PACKED,
        "keyed(place - count, key + request, size)", "keyed(place, key + request, size)",
        profile="keys",
    ),
    Mutation(
        "the wrong first id", "the head names the first message", "crowd/web/group.py",
        "    if grouped.replayed and grouped.replayed[0][0] == 0:\n", "    if False:\n",
        profile="keys",
    ),
)  # fmt: skip
