"""The guards of delivery and of letters; see ``mutations`` for the rest and for what a row is."""

from __future__ import annotations

from tests.simulation.mutation import Mutation

DELIVER = "crowd/delivery/"
LEDGER = "crowd/ledger/"
LETTERS = "crowd/raft/letters/"
BATCH_PLAN = DELIVER + "batch_plan.py"

DELIVERY = (
    # --- What delivers ------------------------------------------------------------------------------
    Mutation(
        "a 503 delivers", "only a 2xx delivers", "crowd/delivery/outcome.py",
        "if 200 <= answer.status <= 299:", "if True:",
    ),
    Mutation(
        "a lost answer delivers", "unknown is not delivered", "crowd/delivery/outcome.py",
        "return Outcome.UNKNOWN if answer.kind in _MAY_HAVE_ARRIVED else Outcome.RETRY",
        "return Outcome.DELIVERED", seeds=100,
    ),
    Mutation(
        "the others of a batch are delivered", "what failed as a whole failed for each", BATCH_PLAN,
        "            outcomes = [outcome_of(answers[0], rules)] * count\n",
        "            outcomes = [outcome_of(answers[0], rules)]\n"
        "            outcomes += [Outcome.DELIVERED] * (count - 1)\n",
    ),
    # --- Whose turn it is -----------------------------------------------------------------------------
    Mutation(
        "no first turn", "each consumer has one attempt before any has two", DELIVER + "dispatcher.py",
        "            if may_start and lane.start_one(now_s):\n                still.append(lane)\n",
        "            still.append(lane)\n",
        alone="an attempt costs a slice next to nothing here, and seven at once are the most: none is "
        "cut short. A unit test of the dispatcher has short slices",
    ),
    Mutation(
        "who is behind comes first", "who keeps up is not held up by who is behind",
        DELIVER + "dispatcher.py", "for lane in sorted(still, key=lambda lane: known[lane.consumer].backlog)",
        "for lane in sorted(still, key=lambda lane: -known[lane.consumer].backlog)",
        alone="costs time: all have their turn first",
    ),
    Mutation(
        "who is passed over stays so", "a short slice passes none over for long",
        DELIVER + "dispatcher.py", "                self._passed_over = True\n", "",
        alone="no slice is cut short here. A unit test of the dispatcher has short slices",
    ),
    Mutation(
        "an answer asks for no turn", "what was delivered is settled, and what comes next is attempted",
        DELIVER + "lane.py", "        self.stirred = True\n        around.wake()\n",
        "        around.wake()\n",
    ),
    Mutation(
        "news ask for no turn", "what was accepted is attempted", DELIVER + "dispatcher.py",
        "                lane.stirred = True\n", "                pass\n",
    ),
    Mutation(
        "held letters", "a replay makes room for what found none", DELIVER + "plan.py",
        "        return self.paused or self.endings.is_full\n",
        "        return self.paused or self.full or self.endings.is_full\n", profile="operators",
        first=210062, seeds=1,
    ),
    Mutation(
        "the dead in line", "a letter that dies again waits for no room", DELIVER + "endings.py",
        "            self.dead.insert(0, dead)\n", "            self.dead.append(dead)\n",
        profile="operators", alone="a letter that is refused again waits, and is purged or ordered again "
        "when the operator sees to it. A unit test of the dispatcher has it die while there is no room",
    ),
    # --- Order ----------------------------------------------------------------------------------------
    Mutation(
        "no lines", "one of a key at a time", DELIVER + "order.py",
        "        if key not in self._lines:\n", "        if True:\n", profile="orders",
    ),
    Mutation(
        "let the next go on a failure", "a retry blocks its key", DELIVER + "backlog.py",
        "        if trial.position > self.passed:\n            heappush(self.waiting, trial)\n",
        "        if trial.position > self.passed:\n            heappush(self.waiting, trial)\n"
        "            self.leave((trial.position,))\n", profile="orders",
    ),
    Mutation(
        "no lease of ordered consumers", "what the leader before sent has arrived",
        DELIVER + "lane.py", "LEASE_S: Final = 1.5", "LEASE_S: Final = 0.0", profile="orders",
        seeds=300,
    ),
    Mutation(
        "another order at once", "a new order begins as a new leader does", DELIVER + "lane.py",
        "        if before is not None or rules.order.any:\n", "        if rules.order.any and before is None:\n",
        profile="orders", seeds=300,
    ),
    Mutation(
        "the dead let their key go at once", "dead is once the log has the letter",
        DELIVER + "plan.py",
        "                self.endings.die(dead)\n            return\n",
        "                self.endings.die(dead)\n"
        "                self.backlog.leave((trial.position,))\n"
        "            return\n", profile="orders",
    ),
    Mutation(
        "hold nothing", "a dead letter holds its key", DELIVER + "plan.py",
        "if self.rules.holds_dead and backlog.lines is not None:", "if False:", profile="orders",
    ),
    Mutation(
        "hold nothing from before", "a new leader learns which keys are held", DELIVER + "lane.py",
        "self._keys_unknown = rules.order.any and rules.holds_dead", "self._keys_unknown = False",
        profile="orders",
    ),
    Mutation(
        "begin to hold at once", "letters from before hold once a definition says so",
        DELIVER + "lane.py", " and not (begins_to_hold and self.plan.rules.order.any)\n", "\n", profile="orders", seeds=300,
    ),
    Mutation(
        "what holds is asked too early", "what a lane before buried holds its key",
        DELIVER + "lane.py",
        "        if now_s < self._read_from_s:\n            return\n        ledger = self._around.ledger\n",
        "        ledger = self._around.ledger\n", first=280072, seeds=1,
        also=(
            (DELIVER + "lane.py", "bool(unread) or ledger.applied_index < self._told", "bool(unread)"),
        ),
    ),
    Mutation(
        "what holds is asked before all is applied", "what a lane before buried holds its key",
        DELIVER + "lane.py", " or ledger.applied_index < self._told", "",
        alone="takes a log that stands for 1.5 s while its leader hears a majority. A unit test of the "
        "dispatcher has it",
    ),
    Mutation(
        "the first of several letters holds", "each letter of a key holds it",
        DELIVER + "backlog.py",
        "if head is not None and head not in self.holding:", "if head is not None:",
        profile="orders", seeds=300,
    ),
    # --- How often, and when ------------------------------------------------------------------------
    Mutation(
        "no bound of attempts", "a message dies by its attempts", DELIVER + "backoff.py",
        "if self.attempts_max and attempts >= self.attempts_max:", "if False:", profile="trials",
    ),
    Mutation(
        "no bound of age", "a message dies by its age", DELIVER + "backoff.py",
        'return "age" if age_s >= self.for_s else None', "return None", profile="trials",
    ),
    Mutation(
        "attempts of an outage count", "an outage costs no message its life", DELIVER + "plan.py",
        "spares = not counts or outcome is Outcome.HOLD or shared_end", "spares = shared_end",
        profile="trials",
    ),
    Mutation(
        "what is dead waits", "a refusal for good is the end", DELIVER + "plan.py",
        'return "answer" if isinstance(answer, Answered) else "undeliverable"', "return None",
        profile="trials",
    ),
    Mutation(
        "no wait", "a failure is waited for", DELIVER + "plan.py",
        "            due_s += self.rules.backoff.delay_s(max(1, attempts - spared), chance)\n",
        "            due_s += 0.0\n", profile="trials",
    ),
    Mutation(
        "begin each wait at the first", "waits grow", DELIVER + "backoff.py",
        "return self.ceiling_s(failures) * (1.0 - self.jitter * (1.0 - chance))",
        "return self.ceiling_s(1) * (1.0 - self.jitter * (1.0 - chance))", profile="trials",
    ),
    Mutation(
        "remember nothing", "the next leader knows of failures", DELIVER + "reports.py",
        "if plan.revision != self._told_revision and (at_once or self._tell_s <= now_s):",
        "if False:", profile="trials",
    ),
    Mutation(
        "begin anew", "a new leader goes on where the last one was", DELIVER + "reports.py",
        "    if command is None:\n        return None\n", "    if True:\n        return None\n",
        profile="trials",
    ),
    Mutation(
        "another order forgets", "a lane takes up what the one before saw", DELIVER + "lane.py",
        "        if before is None:\n", "        if True:\n", profile="orders", seeds=300,
    ),
    Mutation(
        "no Retry-After", "a consumer is asked when it wants to be", DELIVER + "plan.py",
        "        if now_s < self._asked_until_s or self._stands:\n            return False\n",
        "        if self._stands:\n            return False\n", profile="trials",
    ),
    Mutation(
        "any number at once", "concurrency", DELIVER + "plan.py",
        "            if len(self._in_flight) >= self.pace.limit:\n                return False\n",
        "            pass\n",
    ),
    Mutation(
        "any rate", "rate", DELIVER + "plan.py",
        "        return self.rate is None or self.rate.available(now_s)\n", "        return True\n",
    ),
    Mutation(
        "no slow start", "an outage ends with one at once", DELIVER + "concurrency.py",
        "        self._set(1, now_s)\n        self._slow_start = True\n",
        "        self._slow_start = True\n", profile="trials",
    ),
    # --- The breaker ----------------------------------------------------------------------------------
    Mutation(
        "the breaker never opens", "so many failures in a row, and attempts stop",
        DELIVER + "breaker.py",
        "        too_many = self._run >= self._run_max or (", "        too_many = False and (",
        profile="trials",
    ),
    Mutation(
        "nothing holds", "an answer that holds is enough", DELIVER + "breaker.py",
        "        if too_many or holds:\n", "        if too_many:\n", profile="trials",
    ),
    Mutation(
        "probe at once", "probes wait", DELIVER + "plan.py",
        "elif not self._may_probe or now_s < self.breaker.until_s:", "elif not self._may_probe:",
        profile="trials",
    ),
    Mutation(
        "many probes", "one probe at a time", DELIVER + "plan.py",
        "            self.breaker.state is BreakerState.OPEN\n            and", "            True\n            and",
        profile="trials",
    ),
    Mutation(
        "probes wait alike", "each wait is twice the one before", DELIVER + "breaker.py",
        "self._first_s * 2.0 ** min(self.opened, 64)", "self._first_s", profile="trials",
    ),
    Mutation(
        "any answer closes it", "only a probe's sign of life counts", DELIVER + "breaker.py",
        "        if not probe:\n            return False\n        self.opened", "        self.opened",
        profile="trials", seeds=300,
    ),
    Mutation(
        "a new leader's breaker is closed", "a leader's death closes no breaker",
        DELIVER + "breaker.py", "        if opened:\n", "        if False:\n", profile="trials",
        seeds=300,
    ),
    # --- Operators ------------------------------------------------------------------------------------
    Mutation(
        "paused, and attempted", "a pause holds", DELIVER + "lane.py",
        "            plan.set_paused(now_s, paused=paused)\n", "            pass\n",
        profile="operators",
    ),
    Mutation(
        "keep the lane of who was removed", "who was removed is attempted no more",
        DELIVER + "dispatcher.py",
        "        for gone in self._lanes.keys() - self._ledger.consumers.keys():\n"
        "            self._lanes.pop(gone).close()\n",
        "", profile="operators", seeds=100,
        alone="a slice gives turns to lanes of consumers that are there; their attempts' answers "
        "settle nothing in the ledger",
    ),
    Mutation(
        "go on as defined before", "a definition is followed", DELIVER + "dispatcher.py",
        "            elif lane.fits(known.definition):\n                lane.redefine(known.definition)\n",
        "            elif lane.fits(known.definition):\n                continue\n", profile="operators",
    ),
    Mutation(
        "an order has its effect each time", "an order is heard once", LEDGER + "heard.py",
        "        if once.order in self._orders:\n            return False\n", "", profile="operators",
        seeds=300,
    ),
    Mutation(
        "attempt what was skipped", "skipped is settled", DELIVER + "backlog.py",
        "        self.passed = max(self.passed, through)\n", "        return\n", profile="operators",
        seeds=300,
        also=(
            (
                DELIVER + "lane.py",
                "        if self._is_settled_meanwhile(position, again=attempt.number > 1):\n",
                "        if False:\n",
            ),
        ),
    ),
    Mutation(
        "skip is not counted", "what was skipped is counted", LEDGER + "consumers.py",
        "        self.skipped += self.done - before\n", "", profile="operators",
    ),
    # --- The window and what waits in it --------------------------------------------------------------
    Mutation(
        "no window", "the cursor stays near the watermark", DELIVER + "backlog.py",
        "            if position > self.watermark + WINDOW:\n                self._beyond = position\n"
        "                break\n", "", profile="straggling",
        also=(
            (DELIVER + "backlog.py", "        if self._is_full:\n            return 0\n", ""),
            (
                DELIVER + "backlog.py",
                "        room = self.watermark + WINDOW - self.cursor\n",
                "        room = self._portion\n",
            ),
        ),
    ),
    Mutation(
        "ask on past the window", "a full window asks for nothing", DELIVER + "backlog.py",
        "        return max(self.cursor + 1, self._beyond) > self.watermark + WINDOW\n",
        "        return self.cursor >= self.watermark + WINDOW\n", profile="straggling",
    ),
    Mutation(
        "park nothing", "one straggler pins nothing", DELIVER + "reports.py",
        "        plan.park(now_s, PARKED_MAX)\n", "", profile="straggling",
    ),
    Mutation(
        "forget what is parked", "what is parked is tried on", LEDGER + "letters.py",
        '                kept.put(record.number, "parked", record.consumer)\n',
        '                kept.put(record.number, "dead", NOBODY)\n', profile="straggling",
    ),
    Mutation(
        "skip nothing when full", "a full consumer that skips is given none", LEDGER + "consumers.py",
        'self._skips = definition.when_full == "skip"', "self._skips = False", profile="straggling",
        alone="",
    ),
    Mutation(
        "refuse nothing when full", "a full consumer closes its routes", "crowd/raft/engine.py",
        "        self.proposer.refusals = self.room.refusals()\n", "", profile="straggling", seeds=300,
    ),
    # --- Letters: which there are ---------------------------------------------------------------------
    Mutation(
        "no bound of dead letters' bytes", "dead letters are bounded", DELIVER + "reports.py",
        "            if kept_bytes > self.dead_bytes_max:\n", "            if False:\n", profile="letters",
    ),
    Mutation(
        "bury as settled", "a dead message becomes a letter", DELIVER + "reports.py",
        "            if not self._propose(Bury(owner, ordered, target)):\n                return False\n",
        "            ends = tuple((each.position, each.position) for each in ordered)\n"
        "            if not self._propose(Settle(owner, ends)):\n                return False\n",
        profile="letters",
    ),
    Mutation(
        "concluded for whoever waits", "a letter's end is its target's", LEDGER + "letters.py",
        "gone = [record for record in self._found(numbers) if self._target_of(record) == target]",
        "gone = [record for record in self._found(numbers) if self._target_of(record)]",
        profile="letters", seeds=300,
    ),
    Mutation(
        "never concluded", "what was delivered again is gone", DELIVER + "plan.py",
        "            if number in self.backlog.letters_known:\n                self.endings.concluded.append(number)\n",
        "            del number\n", profile="letters",
    ),
    Mutation(
        "replayed without saying so", "a replay says so", DELIVER + "lane.py",
        'self._send(attempt, courier, stored, letter.position, replay=letter.state == "replay")',
        "self._send(attempt, courier, stored, letter.position)", profile="letters",
    ),
    Mutation(
        "replay to its own", "a replay's target", LEDGER + "ledger.py",
        "            self._letters.replay(consumer.id, command.letters)\n",
        "            owner = min(self.consumers)\n            self._letters.replay(owner, command.letters)\n",
        profile="letters",
    ),
    Mutation(
        "attempt what was ordered elsewhere", "the order given last counts", DELIVER + "lane.py",
        "if letter is None or letter.target != self.consumer:", "if letter is None:",
        profile="letters", seeds=300,
    ),
    Mutation(
        "a letter ages while it waits", "a letter ages from its first attempt on", DELIVER + "backlog.py",
        "        return trial if trial.attempts else replace(trial, first_s=now_s, aged_s=aged_s)\n",
        "        return trial\n", profile="letters",
    ),
    Mutation(
        "remember what has ended", "what is remembered still waits", DELIVER + "lane.py",
        "tuple(filter(self._still_waits, remembered.trials))", "remembered.trials",
        alone="takes the room of others among 2 000 that are told. A unit test of the dispatcher has it",
    ),
    Mutation(
        "forget what found no room", "the next leader knows the attempts of what found no room",
        DELIVER + "plan.py", "self.backlog.tried([*under_way, *self._kept_apart(), *dead])",
        "self.backlog.tried([*under_way, *self._kept_apart()])", profile="letters", first=36, seeds=1,
    ),
    Mutation(
        "purge more", "a purge is of the letters that it names", LEDGER + "letters.py",
        "        gone = list(self._found(numbers))\n        self._remove(gone)\n",
        "        gone = list(self._found(self))\n        self._remove(gone)\n", profile="letters",
    ),
    Mutation(
        "nothing expires", "letters go at their age", DELIVER + "dispatcher.py",
        "            self._expire(started_s)\n", "            pass\n", profile="letters",
    ),
    Mutation(
        "expire what waits", "only the dead are given up for their age", LEDGER + "letters.py",
        'if record.buried_us <= until_us(record.consumer) and self._state_of(record) == "dead"',
        "if True", profile="letters",
        alone="the leader names only the dead; it matters to one that is ordered to be replayed in that "
        "very moment",
    ),
    Mutation(
        "letters wait for who was removed", "nothing waits for who is gone", LEDGER + "ledger.py",
        "        self._letters.dismiss(consumer.id)\n", "", profile="operators", seeds=300,
    ),
    # --- Letters: their bytes -------------------------------------------------------------------------
    Mutation(
        "a checkpoint before its letters", "letters are durable up to it", "crowd/raft/compaction.py",
        "durable=lambda: journal.durable_index >= index and self._letters_durable(index),",
        "durable=lambda: journal.durable_index >= index,", profile="letters", seeds=300,
    ),
    Mutation(
        "whole before it was compared", "a snapshot's letters are looked for", LETTERS + "letters.py",
        "return self._audit.is_done and not self._fetching.lacking", "return not self._fetching.lacking",
        profile="letters", seeds=300,
    ),
    Mutation(
        "whole without letters", "who lacks letters says so", LETTERS + "letters.py",
        "return self._audit.is_done and not self._fetching.lacking", "return True", profile="letters",
    ),
    Mutation(
        "promote without letters", "a learner has letters first", "crowd/raft/engine.py",
        "            lambda name: self.raft.has_all(name, self.raft.commit_index)\n",
        "            lambda name: self.raft.acked(name) >= self.raft.commit_index\n", profile="letters",
        seeds=300,
    ),
    Mutation(
        "release without letters", "a majority has letters before logs lose them",
        "crowd/raft/guard.py",
        "return self.acked(name) >= index and progress is not None and progress.whole",
        "return self.acked(name) >= index", profile="letters", seeds=300,
        alone="what a node lacks that began from a snapshot was with a majority when its entries were "
        "released, and the failure model has no other disk fail before one that lost letters has them",
        also=(
            (
                "crowd/raft/guard.py",
                "self._votes_itself() and self._host.has_letters() and self._log.durable_index >= index",
                "self._votes_itself() and self._log.durable_index >= index",
            ),
            (
                "crowd/raft/engine.py",
                "            lambda name: self.raft.has_all(name, self.raft.commit_index)\n",
                ("            lambda name: (\n                self.raft.has_all(name, self.raft.commit_index)\n"
                "                and self.raft._replication.followers[name].whole\n            )\n"),
            ),
        ),
    ),
    Mutation(
        "never compared", "what is stored is compared after a snapshot", LETTERS + "letters.py",
        "        self._fetching.forget()\n        self._audit.begin()\n",
        "        self._fetching.forget()\n        self._audit.is_done = True\n", profile="letters",
    ),
    Mutation(
        "never fetched", "what is lacking is had from peers", LETTERS + "fetching.py",
        "        while self._due and peers and self._has_room():\n", "        while False:\n",
        profile="letters",
    ),
    Mutation(
        "asked once", "silence is asked again", LETTERS + "fetching.py",
        "        for number in late:\n            self._ask_another(number)\n", "        del late\n",
        profile="letters",
        alone="a peer that is silent is disconnected after three seconds, and then others are asked",
    ),
    Mutation(
        "read without its hash", "bytes are believed by their hash", LETTERS + "store.py",
        "if row is None or hashlib.sha256(row.message).digest() != sha256:", "if row is None:",
        profile="letters", seeds=300,
    ),
    Mutation(
        "fetched without its hash", "what a peer sent is compared", LETTERS + "store.py",
        '"verify a letter", lambda: hashlib.sha256(message).digest() == sha256, done',
        '"verify a letter", lambda: True, done', profile="letters", seeds=300,
        alone="whoever is asked reads what it has by its hash, and links are checked: it is for peers "
        "that are wrong, which the failure model leaves out",
    ),
    Mutation(
        "a damaged table is the end", "a table that cannot be read is begun anew", LETTERS + "store.py",
        '        self._background.do("begin letters anew", self._shelf.renew, self._renewed)\n',
        '        self._background.do("begin letters anew", lambda: None, self._renewed)\n',
        profile="letters", seeds=300,
    ),
    Mutation(
        "never scrubbed", "stored bytes are read now and then", LETTERS + "letters.py",
        "        self._scrub.step()\n", "", profile="letters", seeds=300,
    ),
    Mutation(
        "gathered though settled", "what the watermark has passed is asked for before it is read",
        DELIVER + "batch_lane.py",
        "if self._is_settled_meanwhile(position, again=trial.attempts > 0):",
        "if trial.attempts and self._around.ledger.is_settled(self.consumer, position):",
        first=330451, seeds=1,
    ),
    Mutation(
        "reported though skipped", "what an operator skipped is not reported", DELIVER + "endings.py",
        "        self.delivered = [position for position in self.delivered if position > through]\n", "",
        first=330695, seeds=1,
    ),
    Mutation(
        "reported after a skip", "what an operator skipped is not reported", DELIVER + "plan.py",
        "        if position > self.backlog.passed:  #", "        if True:  #",
        first=330695, seeds=1,
        alone="what is under way when it is skipped is few here. A unit test of the dispatcher has it",
    ),
    Mutation(
        "a letter that came waits its turn", "in an outage a letter goes as soon as its bytes are here",
        DELIVER + "lane.py", "self.plan.hasten(here, now_s)", "self.plan.backlog.hasten(here, now_s)",
        profile="waiting", first=162, seeds=1,
        also=((DELIVER + "backlog.py", "due_s=first_s)", "due_s=now_s)"),),
    ),
    # --- What producers hear that wait --------------------------------------------------------------
    Mutation(
        "dead before the log has it", "dead is told once the ledger shows it", DELIVER + "awaited.py",
        "        self._keep(consumer, position, ending, now_s, is_certain=False)\n",
        "        self._keep(consumer, position, ending, now_s, is_certain=False)\n"
        "        self._tell(consumer, position, ending)\n",
        profile="waiting",
    ),
    Mutation(
        "whatever is kept is certain", "who asks late hears what the ledger shows, too",
        DELIVER + "awaited.py", "now_s, is_certain=False)\n", "now_s, is_certain=True)\n",
        profile="waiting",
    ),
    Mutation(
        "what has not come is settled", "a follower may be ahead of its leader",
        LEDGER + "questions.py",
        "        if position > self.tip:\n            return None\n        number", "        number",
        profile="waiting", alone="a leader here applies in the very turn in which it commits. A unit "
        "test of the waits asks one that is behind",
    ),
    Mutation(
        "what is parked is dead", "a letter that waits is tried on", LEDGER + "questions.py",
        'return "dead" if self._letters[number].state == "dead" else None', 'return "dead"',
        profile="waiting",
    ),
    Mutation(
        "what was skipped was delivered", "no more is claimed than is kept", LEDGER + "questions.py",
        "surely = is_own and not (known.skipped or tally.purged or tally.expired)", "surely = is_own",
        profile="waiting",
    ),
)  # fmt: skip
