"""The guards of crowd, each as the text that would take it away.

Decides what is mutated. Each entry names the guard by its defect or rule
(docs/explanation/engine-defects.md), the file, the exact text, and what stands there instead.
A text that is not found exactly once is an error: a guard that moved is looked for anew.

`profile` draws all seeds from the faults that meet the guard; without it seeds are mixed.
`alone` says why a guard is not caught by itself, where that is so: something else stands
behind it, or it costs time and not truth.
"""

from __future__ import annotations

from tests.simulation.delivery_mutations import DELIVERY
from tests.simulation.key_mutations import KEYED
from tests.simulation.mutation import Mutation

RAFT = "crowd/raft/"
JOURNAL = "crowd/raft/journal/"
CHECKPOINTS = "crowd/raft/checkpoints/"

MUTATIONS = (
    # --- What counts, and what is believed (I1, D1 to D3, D10) -------------------------------------
    Mutation(
        "D1 truncate at every resend", "only a real conflict truncates", RAFT + "following.py",
        "            if here == term:\n                continue\n"
        "            if index <= commit_index:\n"
        "                raise _contradiction(index, term, here)\n",
        "            del here\n",
    ),
    Mutation(
        "D1 join anywhere", "the entry before must match", RAFT + "following.py",
        "    if term == prev_term:\n        return 0\n", "    if True:\n        return 0\n",
    ),
    Mutation(
        "D2 commit the own tail", "a message commits what it proved", RAFT + "guard.py",
        "self._raise_commit(min(message.commit_index, matched))",
        "self._raise_commit(min(message.commit_index, self._log.last_index))",
    ),
    Mutation(
        "D2 acknowledge the own tail", "an answer covers what matched", RAFT + "guard.py",
        "acked = min(self._matched, self._log.durable_index)",
        "acked = self._log.durable_index",
    ),
    Mutation(
        "D3 count old terms", "answers count in their term", RAFT + "guard.py",
        "if message.term < self.term or not self.is_leader:\n            return\n        more",
        "if not self.is_leader:\n            return\n        more",
        alone="a link that breaks takes what was under way along, and a leader begins anew with "
        "nothing known",
    ),
    Mutation(
        "I1 own disk", "the leader counts what it has", RAFT + "guard.py",
        "durable = min(acked, self._log.durable_index)", "durable = acked",
    ),
    Mutation(
        "I1 follower's disk", "a follower answers what it has", RAFT + "guard.py",
        "acked = min(self._matched, self._log.durable_index)", "acked = self._matched",
    ),
    Mutation(
        "I1 alone", "alone, a tick waits for the disk", RAFT + "guard.py",
        "if self._alone and self._writes_pending():", "if False:", size=1,
    ),
    Mutation(
        "D10 below what was acknowledged", "next never falls below", RAFT + "replication.py",
        "if message.next_index > progress.acked:", "if True:",
        alone="the follower that has it keeps it: D1",
    ),
    Mutation(
        "L1 no probing", "one message until logs join", RAFT + "replication.py",
        "        self.probing = True\n        self.awaiting = False\n        self.under_way.clear()",
        "        self.probing = False\n        self.awaiting = False\n        self.under_way.clear()",
        alone="costs messages; D1 and the window hold",
    ),
    Mutation(
        "L5 silence to an old leader", "a stale term is answered", RAFT + "guard.py",
        "            self._answer(name, success=False, "
        "next_index=self._log.last_index + 1, stamp=0)\n            return\n",
        "            return\n", profile="network",
        alone="a leader without a majority follows again after 1.5 s",
    ),
    Mutation(
        "L5 no fallback", "a leader without a majority follows", RAFT + "guard.py",
        "LEADER_FALLBACK_S: Final = 1.5", "LEADER_FALLBACK_S: Final = 1e9",
        alone="the fence and the answer to a stale term stand behind it",
    ),
    # --- Elections (D8, D14, D15) ----------------------------------------------------------------
    Mutation(
        "D8 votes leave at once", "votes wait for the disk", RAFT + "guard.py",
        "        if self._log.vote_pending:\n            self._held.append((name, message))",
        "        if False:\n            self._held.append((name, message))",
    ),
    Mutation(
        "D8 lead at once", "a candidate's own vote is on disk", RAFT + "guard.py",
        "            and not self._log.vote_pending\n            and self._majority(1",
        "            and self._majority(1", profile="disk",
        alone="a vote request leaves after the candidate's own vote is durable",
    ),
    Mutation(
        "D8 vote twice", "one vote a term", RAFT + "guard.py",
        "if self._SyncObj__votedForNodeId not in {None, name} or self.role",
        "if self.role", profile="network",
    ),
    Mutation(
        "D8 a learner stands and votes", "a new journal remembers nothing", RAFT + "guard.py",
        "        return self._host.is_voter(self.selfNode.id)",
        "        return True", profile="members",
    ),
    Mutation(
        "D8 a learner counts", "a learner's copy is no voter's", RAFT + "guard.py",
        "if progress is not None and self._host.is_voter(name) else 0",
        "if progress is not None else 0", profile="members",
        alone="commit counts the roster's voters only; it matters to one that came back empty",
    ),
    Mutation(
        "Raft 5.4.1 any candidate", "a vote is for as new a log", RAFT + "guard.py",
        "(entitled if message.roster == mine else message.roster > mine) and asks >= (\n"
        "            self._log.last_term,\n            self._log.last_index,\n        )",
        "entitled if message.roster == mine else message.roster > mine and asks is not None",
    ),
    Mutation(
        "no snapshot before the first commit", "who leads and cannot commit yet brings others up to it",
        RAFT + "engine.py", "        if self.raft.is_leader:  # also before",
        "        if self._leading:  # also before", first=240996, seeds=1,
    ),
    Mutation(
        "D14 any roster", "a vote is for as new a roster", RAFT + "guard.py",
        "return (entitled if message.roster == mine else message.roster > mine) and asks",
        "return entitled and asks", profile="snapshots",
        alone="who counts by the roster before the last lacks entries, too, unless it has not "
        "applied them; and with one change at a time the majorities meet all the same",
    ),
    Mutation(
        "D14 no newer roster", "who is behind votes for who is ahead", RAFT + "guard.py",
        "return (entitled if message.roster == mine else message.roster > mine) and asks",
        "return (message.roster == mine and entitled) and asks", profile="members", seeds=300,
    ),
    Mutation(
        "D14 any number of changes", "the last one is settled first", RAFT + "guard.py",
        "return self.leads_fully and self._majority(known)", "return True", profile="snapshots",
        alone="not shown to be needed: each change names the last one, and any two majorities of rosters "
        "that follow one another meet",
    ),
    Mutation(
        "D14 changes after any roster", "a change names the last one", RAFT + "engine.py",
        "return command.after == self.membership.roster.index and self.raft.roster_is_settled",
        "return True", profile="members", alone="the ledger gives no effect to a change that does not name the last one",
    ),
    Mutation(
        "D14 promote the empty", "a learner has everything first", RAFT + "membership.py",
        "present == seat.journal_id or not has_everything(seat.name)",
        "present == seat.journal_id", profile="members",
        alone="it matters when another disk is lost before the new member has everything, which the "
        "failure model leaves out",
    ),
    Mutation(
        "D15 count votes", "voters are counted, not votes", RAFT + "guard.py",
        "self._votes.add(name)  # D15", "self._votes.add(f'{name}{self._now()}')  # D15",
        alone="no vote is sent twice on one link, and a new link carries no old vote",
    ),
    Mutation(
        "L5 no pre-vote", "a candidate asks before", RAFT + "guard.py",
        "if self._alone or self._SyncObj__transferInProgress:", "if True:",
        alone="costs elections, not truth",
    ),
    Mutation(
        "birth alone", "all members are there at birth", RAFT + "membership.py",
        "if self._newest.seats or self._empty != others or", "if self._newest.seats or",
        profile="birth",
    ),
    Mutation(
        "birth twice", "one member founds", RAFT + "membership.py",
        " or self._name > min({*others, self._name}):", ":",
        profile="birth",
        alone="all members are connected and empty: whoever founds, founds the same roster",
    ),
    # --- Leading and delivering (I4) ----------------------------------------------------------------
    Mutation(
        "fence", "a majority was heard within 0.5 s", RAFT + "engine.py",
        " and now_s < self._fence_s\n", "\n",
    ),
    Mutation(
        "fence by arrival", "heard is when it was asked", RAFT + "replication.py",
        "progress.stamp = max(progress.stamp, message.stamp)",
        "progress.stamp = int(self._now() * 1e6)", profile="woken", seeds=300,
    ),
    Mutation(
        "no lease", "the leader before may not know yet", RAFT + "engine.py",
        " and now_s - self.raft.led_since_s >= LEASE_S", "", profile="deposed",
        alone="an election takes longer than a fence stays open, but in one mixed seed of some "
        "thirty thousand",
    ),
    Mutation(
        "go on after an heir was asked", "the heir may be late, and delivers at once",
        RAFT + "engine.py", "            if asked and self.raft.is_leader:", "            if False:",
        profile="members", alone="takes an heir that is stopped for two seconds as it is asked",
    ),
    Mutation(
        "deliver before applied", "a leader has applied all before it", RAFT + "guard.py",
        "return self.is_leader and self.applied_index >= self._SyncObj__noopIDx",
        "return self.is_leader",
    ),
    # --- Proposals (I2) -------------------------------------------------------------------------------
    Mutation(
        "I2 accepted again", "a number is accepted once", "crowd/ledger/sessions.py",
        "return self.is_open and number >= self.low and number not in self.accepted",
        "return self.is_open and number >= self.low",
    ),
    Mutation(
        "I2 below low", "a forgotten number is refused", "crowd/ledger/sessions.py",
        "return self.is_open and number >= self.low and number not in self.accepted",
        "return self.is_open and number not in self.accepted",
        profile="room",
        alone="not shown to be needed: links keep the order of offers, and a new leader is "
        "offered all of them in order",
    ),
    Mutation(
        "I2 a closed session", "a closed session is refused", "crowd/ledger/sessions.py",
        "return self.is_open and number >= self.low and number not in self.accepted",
        "return number >= self.low and number not in self.accepted", profile="nodes",
        alone="its producers heard that the fate of their messages is unknown",
    ),
    Mutation(
        "I2 low too high", "low passes nothing in flight", RAFT + "proposer.py",
        "low=min(self._in_flight, default=self._number)", "low=self._number",
        profile="room",
        alone="not shown to be needed: links keep the order of offers, and a new leader is "
        "offered all of them in order",
    ),
    Mutation(
        "unknown is not failed", "what was offered may be stored", RAFT + "proposer.py",
        "            if batch.offered:\n", "            if False:\n",
    ),
    Mutation(
        "not stored, and offered", "who was refused leaves the batch", RAFT + "proposer.py",
        "        elif batch.heard and not batch.offered:\n            batch.forget_heard()\n", "",
    ),
    Mutation(
        "deadlines", "every producer hears in time", RAFT + "proposer.py",
        "            self._give_up(number, now, words", "            self._give_up(number, 0.0, words",
    ),
    Mutation(
        "never offered again", "silence is asked again", RAFT + "proposer.py",
        '            batch.offered_s = float("-inf")\n        self._offer_due()',
        "            pass\n        self._offer_due()",
        alone="a silent second has it offered again: costs time",
    ),
    # --- What gathers --------------------------------------------------------------------------------
    Mutation(
        "gathers for ever", "what gathers is appended", RAFT + "guard.py",
        "            if is_under_way and not is_due:\n", "            if True:\n",
    ),
    Mutation(
        "gathers while entries are under way", "what gathers waits for no slow disk", RAFT + "guard.py",
        "            if is_under_way and not is_due:\n", "            if is_under_way:\n",
        alone="costs time: what is under way is committed, or who leads does so no more",
    ),
    Mutation(
        "append the first that gathered", "all that gathered is appended", RAFT + "guard.py",
        "            for entry in gathered:\n", "            for entry in gathered[:1]:\n",
    ),
    Mutation(
        "append what a leader before gathered", "who follows appends nothing", RAFT + "guard.py",
        "        if gathered and self.is_leader:\n", "        if gathered:\n", profile="deposed",
    ),
    Mutation(
        "keep what gathered for a later term", "what gathered goes with the leadership",
        RAFT + "guard.py",
        "        gathered.clear()  # of one who leads no more nothing is appended: it is offered again\n",
        "        if self.is_leader:\n            gathered.clear()\n", profile="deposed",
        alone="a proposal is accepted once, an order is heard once, what is settled stays so, and a "
        "change of members names the one before it",
    ),
    Mutation(
        "apply whatever was proposed", "what is applied is what the entry holds", RAFT + "engine.py",
        "if self._proposed and self._proposed[0][0] == body:", "if self._proposed:",
    ),
    Mutation(
        "keep what a term before proposed", "what was proposed is kept until it is applied",
        RAFT + "engine.py", "        self._proposed.clear()\n", "", profile="deposed",
    ),
    Mutation(
        "deliver of the entry applied last", "delivery has the messages that it asks for",
        RAFT + "engine.py", "        if index == newest:\n", "        if newest:\n",
    ),
    Mutation(
        "hand over while more gathers", "an heir has all that was proposed", RAFT + "engine.py",
        "whole = not self.raft.gathered and self.raft.applied_index == self.journal.last_index",
        "whole = self.raft.applied_index == self.journal.last_index", profile="nodes",
        alone="costs time: an heir whose log is behind is not elected, and what gathered is offered "
        "again",
    ),
    # --- The journal (I1, I8, D6 to D9) -----------------------------------------------------------------
    Mutation(
        "no sync of a batch", "the promise itself", JOURNAL + "appender.py",
        "        self._file.sync()\n        tail.used_bytes", "        tail.used_bytes",
    ),
    Mutation(
        "no sync of a new segment", "bytes before the name", JOURNAL + "appender.py",
        "        file.sync()\n        self._filesystem.rename", "        self._filesystem.rename",
        profile="nodes", seeds=300,
    ),
    Mutation(
        "no sync of the directory", "the name before what is told", JOURNAL + "appender.py",
        "        self._filesystem.sync_directory(self._directory)\n"
        "        # Durable before a batch",
        "        # Durable before a batch", profile="nodes",
    ),
    Mutation(
        "one sync for two slots", "one slot is whole at any time", JOURNAL + "memory.py",
        "            self._file.sync()\n        self.memory", "        self._file.sync()\n"
        "        self.memory", profile="torn", seeds=300,
    ),
    Mutation(
        "no sync of the memory", "a vote is on disk", JOURNAL + "memory.py",
        "            self._file.sync()\n        self.memory", "            pass\n        self.memory",
    ),
    Mutation(
        "memory from the system's cache", "believe the disk", JOURNAL + "memory.py",
        "    file.sync()\n    file.uncache()\n", "", profile="relapse", alone="the other slot was synced before, and slots that differ are written anew",
    ),
    Mutation(
        "believe what a killed process wrote", "synced before it is believed",
        JOURNAL + "recovery.py", "                file.sync()\n                file.uncache()\n",
        "                file.uncache()\n", profile="torn", seeds=300,
    ),
    Mutation(
        "believe the cache after a failed sync", "the disk is what counts",
        JOURNAL + "recovery.py", "                file.sync()\n                file.uncache()\n",
        "                file.sync()\n", profile="relapse", seeds=300,
    ),
    Mutation(
        "no sync of a cut tail", "a cut is durable before more", JOURNAL + "opening.py",
        '        file.sync()\n        _log.warn(\n            "{directory}: cut a torn write',
        '        _log.warn(\n            "{directory}: cut a torn write', profile="torn", alone="not shown to be needed: the next batch is synced with it, and what is left of the old one "
        "has no later number",
    ),
    Mutation(
        "durable past a cut", "a cut lowers what is durable", JOURNAL + "journal.py",
        "        self.durable_index = min(self.durable_index, last_kept)\n", "", profile="network",
    ),
    Mutation(
        "in flight past a cut", "a write under way makes durable what is left",
        JOURNAL + "journal.py",
        "        self._flight_limit = min(self._flight_limit, last_kept)\n", "", profile="deposed",
        seeds=300,
    ),
    Mutation(
        "I8 say nothing", "a failed write ends the node", JOURNAL + "journal.py",
        '        self._log.critical("the journal failed: {error}", error=error)\n'
        "        self.on_fatal(error)\n", "", profile="disk",
    ),
    Mutation(
        "I8 try again", "no second try after a failed sync", JOURNAL + "appender.py",
        "        self.failed = True\n        return StorageFailedError(", "        return StorageFailedError(",
        profile="disk", alone="the journal submits nothing after a failure, and the process ends",
    ),
    Mutation(
        "D7 commit past the log", "commit is at most what is there", JOURNAL + "recovery.py",
        "    found.commit_index = min(found.commit_index, found.tail.next_index - 1)\n", "",
        alone="a batch names commits of entries before it; it matters to a tail that rotted",
        profile="rotten",
    ),
    Mutation(
        "D9 no checksums of batches", "a checksum on everything", JOURNAL + "shape.py",
        "    if crc32c(salt, data[start + _BATCH_PREFIX_BYTES : end]) != stored:", "    if False:",
        profile="rotten", seeds=300,
    ),
    Mutation(
        "D9 no checksums of records", "a checksum on everything", JOURNAL + "shape.py",
        "    if len(data) < end or crc32c(salt, data[start + _CRC.size : end]) != stored:",
        "    if len(data) < end:", profile="disk",
    ),
    # --- Checkpoints and snapshots (I3, D4, D5, D10, D11) --------------------------------------------------
    Mutation(
        "I7 a short disk stays short", "checkpoints come where the log does not grow",
        RAFT + "engine.py", "short=self.room.is_short)", "short=False)",
    ),
    Mutation(
        "I7 nothing moves a still log", "the leader makes entries on a short disk", RAFT + "engine.py",
        "self.compaction.release() or self.compaction.nudge()", "self.compaction.release()",
    ),
    Mutation(
        "I7 one release on a short disk", "until every node has a checkpoint that is released",
        RAFT + "compaction.py", "and (goal is None or ledger.released_index < goal)",
        "and goal is None", first=361468, seeds=1,
    ),
    Mutation(
        "release what is needed, proposer and ledger", "nothing unsettled is released", RAFT + "compaction.py",
        "if checkpoint.tip <= lowest and checkpoint.log_time_us <= until_us:",
        "if checkpoint.log_time_us <= until_us:",
        profile="backlog",
        also=(
            ("crowd/ledger/ledger.py", "if through <= self.lowest_watermark:", "if True:"),
        ),
    ),
    Mutation(
        "a checkpoint before its entries", "the log is durable up to it", CHECKPOINTS + "taking.py",
        "if not self._written or self._naming or not self._durable():",
        "if not self._written or self._naming:", profile="torn", seeds=300,
        alone="an entry that is applied is on a majority's disks, this node's among them, but for "
        "a leader's slow disk or a follower's",
    ),
    Mutation(
        "no sync of a checkpoint", "bytes before the name", CHECKPOINTS + "files.py",
        "            sync(file)\n        except OSError", "        except OSError", profile="nodes",
        seeds=300, alone="a start that finds it bad takes the one before",
    ),
    Mutation(
        "no sync of a checkpoint's name", "the name before the log is cut", CHECKPOINTS + "files.py",
        "        self.filesystem.sync_directory(self.directory)\n        return None",
        "        return None", profile="torn", seeds=300,
        alone="the floor's name is synced after it, before the log is cut",
    ),
    Mutation(
        "no sync of the floor's name", "the floor before the log is cut", CHECKPOINTS + "files.py",
        "        self.filesystem.rename(self.path(index, suffix), self.path(index, FLOOR))\n",
        "        self.filesystem.rename(self.path(index, suffix), self.path(index, FLOOR))\n"
        "        return\n", profile="torn", alone="a start that finds the older name moves the floor again",
    ),
    Mutation(
        "D11 believe what was received", "a snapshot is verified whole", CHECKPOINTS + "files.py",
        "    if (checkpoint.digest, checkpoint.size_bytes) != (digest, total):", "    if False:",
        profile="snapshots", alone="pieces are checked by offset, and the file by its own digest",
    ),
    Mutation(
        "D10 an old snapshot", "a snapshot is ahead of the ledger", RAFT + "engine.py",
        "wanted = message.index > self.raft.applied_index and self._installing is None",
        "wanted = self._installing is None", profile="snapshots",
        alone="it is looked at again before it is installed",
    ),
    Mutation(
        "D5 installed before the log", "the log begins there durably", RAFT + "engine.py",
        "if self._installing is not None and self.journal.durable_index >= self._installing.index:",
        "if self._installing is not None:", profile="snapshots",
        alone="not shown to be needed: a start that finds the snapshot beside an older log goes on "
        "from the snapshot",
    ),
    Mutation(
        "stand with a hole", "a node with a hole does not lead", RAFT + "engine.py",
        "return not self.repairs.holes and not self.journal.full", "return True", profile="rotten",
        seeds=300, alone="a leader with a hole asks the others, as a follower does",
    ),
    Mutation(
        "never mended", "a damaged entry is asked for", RAFT + "repairs.py",
        '        self._asked_s[error.index] = float("-inf")\n        self.look()\n',
        "        return\n", profile="rotten", seeds=300,
    ),
    *DELIVERY,
    *KEYED,
)  # fmt: skip
