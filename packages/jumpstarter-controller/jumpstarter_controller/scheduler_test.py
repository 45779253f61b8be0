"""The queue, against a plain and slow reading of its rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .model import lease as life
from .model.policy import Approval, admit
from .model.records import Account, Device, Exporter, ExporterStatus, Key, Kind, Lease, Meta, Policy, Record, Rule
from .model.selector import Selector, parse
from .scheduler import IDLE_GROUPS, PATIENCE, Assignment, Scheduler, Standing
from .world import World

LAB = "lab"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FREE = datetime(2026, 1, 1, tzinfo=UTC)

NAMES = st.sampled_from([f"e{number}" for number in range(6)])
BOARDS = st.sampled_from(["x", "y", "z"])
SELECTORS = st.sampled_from(["board=x", "board=y", "board in (x,y)", "board", "!board", "board!=z"])
CLIENTS = st.sampled_from(["alice", "bob", "carol"])
STATUSES = st.sampled_from(
    [None, ExporterStatus.AVAILABLE, ExporterStatus.LEASE_READY, ExporterStatus.AFTER_LEASE_HOOK]
)


def exporter(name: str, **fields: object) -> Exporter:
    labels = {"board": str(fields.pop("board", "x"))}
    given: dict[str, object] = {"devices": (Device(uuid="1"),), "online": True, **fields}
    return Exporter(meta=Meta(namespace=LAB, name=name, labels=labels), **given)  # type: ignore[arg-type]


def pending(name: str, created: datetime = NOON, selector: str = "board=x", **fields: object) -> Lease:
    given: dict[str, object] = {"client": "alice", "duration": HOUR, "selector": parse(selector), **fields}
    return Lease(meta=Meta(namespace=LAB, name=name, created=created), **given)  # type: ignore[arg-type]


class Table:
    """A world and its scheduler, told of each change."""

    def __init__(self) -> None:
        self.world = World()
        self.scheduler = Scheduler(self.world)
        self.now = NOON

    def put(self, *records: Record) -> None:
        for record in records:
            self.scheduler.changed(self.world.put(record), record, self.now)

    def drop(self, key: Key) -> None:
        self.scheduler.changed(self.world.drop(key), None, self.now)

    def exporter(self, name: str) -> Exporter | None:
        return self.world.exporter(Key(Kind.EXPORTER, LAB, name))

    def carry_out(self, made: Assignment) -> None:
        held, lease = self.world.exporter(made.exporter), self.world.lease(made.lease)
        assert held is not None
        assert lease is not None
        self.put(life.hold(held, lease.meta.name, self.now), life.begin(lease, held.meta.name, made.approval, self.now))
        self.scheduler.settle(made, self.now)

    def end(self, lease: Lease) -> None:
        held = self.exporter(lease.exporter)
        if held is not None and held.lease == lease.meta.name:
            self.put(life.free(held, self.now))
        self.put(life.end(lease, "Released", "", self.now))

    def decide(self) -> list[tuple[str, str]]:
        made = self.scheduler.decide()
        for assignment in made:
            self.carry_out(assignment)
        return [(assignment.lease.name, assignment.exporter.name) for assignment in made]


# -- single rules ------------------------------------------------------------------------------------


def test_L19_the_oldest_lease_is_served_first() -> None:
    table = Table()
    table.put(*(pending(f"l{number}", NOON - timedelta(minutes=number)) for number in range(5)), exporter("e"))
    assert table.decide() == [("l4", "e")]


def test_of_equal_exporters_the_one_that_was_idle_for_longest_is_given() -> None:
    table = Table()
    table.put(exporter("a", freed=NOON), exporter("b", freed=NOON - HOUR), exporter("c", freed=NOON - HOUR / 2))
    table.put(pending("l"))
    assert table.decide() == [("l", "b")]


def test_an_exporter_that_never_was_leased_comes_first() -> None:
    table = Table()
    table.put(exporter("a", freed=NOON - HOUR), exporter("b"), pending("l"))
    assert table.decide() == [("l", "b")]


def test_L15_free_then_not_spot_then_priority_then_name() -> None:
    table = Table()
    everybody = (Selector(),)
    table.put(
        Policy(
            meta=Meta(namespace=LAB, name="p1"),
            exporters=parse("board in (x,y)"),
            rules=(Rule(clients=everybody, priority=1),),
        ),
        Policy(
            meta=Meta(namespace=LAB, name="p2"),
            exporters=parse("board=y"),
            rules=(Rule(clients=everybody, priority=5),),
        ),
        Policy(
            meta=Meta(namespace=LAB, name="p3"),
            exporters=parse("board=z"),
            rules=(Rule(clients=everybody, priority=9, spot_access=True),),
        ),
        exporter("low-b"),
        exporter("low-a"),
        exporter("high", board="y"),
        exporter("higher-but-leased", board="y", lease="other"),
        exporter("spot", board="z"),
    )
    table.put(*(pending(f"l{number}", NOON + number * timedelta(seconds=1), "board") for number in range(4)))
    assert table.decide() == [("l0", "high"), ("l1", "low-a"), ("l2", "low-b")]


def test_a_lease_of_higher_priority_goes_before_an_older_one() -> None:
    table = Table()
    table.put(
        Account(kind=Kind.CLIENT, meta=Meta(namespace=LAB, name="boss", labels={"role": "boss"})),
        Policy(
            meta=Meta(namespace=LAB, name="p"),
            rules=(Rule(clients=(parse("role=boss"),), priority=10), Rule(clients=(Selector(),))),
        ),
        pending("old", NOON - HOUR),
        pending("urgent", NOON, client="boss"),
        exporter("e"),
    )
    assert table.decide() == [("urgent", "e")]
    assert table.scheduler.place(Key(Kind.LEASE, LAB, "old")) == (1, 1)


def test_what_is_being_decided_is_not_given_twice() -> None:
    table = Table()
    table.put(exporter("e"), pending("a", NOON - HOUR), pending("b"))
    assert len(table.scheduler.decide()) == 1
    table.put(exporter("e", status=ExporterStatus.AVAILABLE), pending("c"))
    assert table.scheduler.decide() == []
    assert table.scheduler.offer(pending("d"), NOON) is None


def test_what_could_not_be_carried_out_is_decided_again() -> None:
    table = Table()
    table.put(exporter("e"), pending("a"))
    (made,) = table.scheduler.decide()
    table.scheduler.settle(made, NOON)
    assert table.decide() == [("a", "e")]


def test_an_offer_goes_past_nobody_who_waits() -> None:
    table = Table()
    table.put(exporter("e", status=ExporterStatus.LEASE_READY), pending("a"))
    table.put(exporter("e", status=ExporterStatus.AVAILABLE))
    assert table.scheduler.offer(pending("b"), NOON) is None
    assert table.decide() == [("a", "e")]


def test_L14_disabled_exporters_are_given_only_to_who_names_them_and_says_so() -> None:
    table = Table()
    table.put(exporter("e", enabled=False))
    table.put(
        pending("by-selector", allow_disabled=True),
        pending("by-name", exporter_name="e", selector=""),
        pending("knows", exporter_name="e", selector="", allow_disabled=True),
    )
    assert table.decide() == [("knows", "e")]


def test_an_exporter_that_is_enabled_is_given_at_once() -> None:
    table = Table()
    table.put(exporter("other", board="y"), exporter("e", enabled=False), pending("a"))
    assert table.decide() == []
    table.put(exporter("e", enabled=True))
    assert table.decide() == [("a", "e")]


def test_a_draining_exporter_is_given_to_nobody() -> None:
    table = Table()
    table.put(exporter("e", draining=True), pending("a"))
    assert table.decide() == []
    assert table.scheduler.verdict(pending("a"), NOON).reason == "NotReady"


def test_leases_that_no_exporter_fits_any_more_have_patience_first() -> None:
    table = Table()
    table.put(exporter("e", lease="other"), pending("a"))
    table.drop(Key(Kind.EXPORTER, LAB, "e"))
    assert table.scheduler.hopeless(NOON) == ([], NOON + PATIENCE)
    ((key, verdict),) = table.scheduler.hopeless(NOON + PATIENCE)[0]
    assert (key.name, verdict.reason) == ("a", "NoAccess")


def test_leases_whose_exporter_comes_back_in_time_wait_on() -> None:
    table = Table()
    table.put(exporter("e", lease="other"), pending("a"))
    table.drop(Key(Kind.EXPORTER, LAB, "e"))
    table.put(exporter("e"))
    assert table.scheduler.hopeless(NOON + PATIENCE) == ([], None)
    assert table.decide() == [("a", "e")]


def test_places_count_those_before_who_want_the_same_exporters() -> None:
    table = Table()
    table.put(exporter("x1", lease="o"), exporter("y1", board="y", lease="p"), exporter("z1", board="z", lease="q"))
    seconds = timedelta(seconds=1)
    table.put(
        pending("a", NOON, "board=x"),
        pending("b", NOON + seconds, "board in (x,y)"),
        pending("c", NOON + 2 * seconds, "board=x"),
        pending("d", NOON + 3 * seconds, "board=z"),
    )
    places = {name: table.scheduler.place(Key(Kind.LEASE, LAB, name)) for name in "abcd"}
    assert places == {"a": (1, 3), "b": (2, 3), "c": (3, 3), "d": (1, 1)}
    assert table.scheduler.waiting_for(Key(Kind.EXPORTER, LAB, "x1")) == 3


def test_groups_in_which_nobody_waits_are_not_kept_for_ever() -> None:
    table = Table()
    table.put(exporter("e", lease="other"))
    for number in range(3 * IDLE_GROUPS):
        lease = pending(f"l{number}", selector=f"board!=v{number}")
        table.put(lease)
        table.put(life.end(lease, "Released", "", NOON))
    assert len(table.scheduler._groups) <= IDLE_GROUPS


def test_what_a_client_has_by_a_rule_keeps_it_from_more_until_it_gives_it_back() -> None:
    table = Table()
    table.put(Policy(meta=Meta(namespace=LAB, name="p"), rules=(Rule(clients=(Selector(),), maximum_leases=1),)))
    table.put(exporter("a"), exporter("b"), pending("first"))
    assert table.decide() == [("first", "a")]
    table.put(pending("second", NOON + HOUR))
    assert table.decide() == []
    table.end(next(lease for lease in table.world.leases(LAB) if lease.exporter))
    assert table.decide() == [("second", "b")]


# -- all rules at once -------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order, the queue does what a plain reading of its rules says."""

    @initialize(
        boards=st.lists(BOARDS, min_size=2, max_size=5), leases=st.lists(st.tuples(SELECTORS, CLIENTS), max_size=8)
    )
    def start(self, boards: list[str], leases: list[tuple[str, str]]) -> None:
        self.table = Table()
        self.made: list[Assignment] = []
        self.count = 0
        for name, team in (("alice", "a"), ("bob", "b"), ("carol", "c")):
            self.table.put(Account(kind=Kind.CLIENT, meta=Meta(namespace=LAB, name=name, labels={"team": team})))
        for number, board in enumerate(boards):
            self.table.put(exporter(f"e{number}", board=board, freed=NOON - number * HOUR))
        for selector, client in leases:
            self.lease_is_asked_for(selector, client, None, 1, False)

    @property
    def leases(self) -> list[Lease]:
        return list(self.table.world.leases(LAB))

    def waiting(self) -> list[Lease]:
        taken = {made.lease for made in self.made}
        return [lease for lease in self.leases if not lease.exporter and lease.key not in taken]

    def tick(self) -> None:
        self.table.now += timedelta(seconds=1)

    @rule(
        name=NAMES, board=BOARDS, enabled=st.booleans(), online=st.booleans(), status=STATUSES, draining=st.booleans()
    )
    def exporter_is(
        self, name: str, board: str, enabled: bool, online: bool, status: ExporterStatus | None, draining: bool
    ) -> None:
        old = self.table.exporter(name)
        new = exporter(name, board=board, enabled=enabled, online=online, status=status, draining=draining)
        self.table.put(new if old is None else replace(new, lease=old.lease, freed=old.freed))

    @rule(name=NAMES, board=BOARDS)
    def exporter_is_fine(self, name: str, board: str) -> None:
        self.exporter_is(name, board, True, True, None, False)

    @rule(name=NAMES)
    def exporter_goes(self, name: str) -> None:
        if self.table.exporter(name) is not None:
            for lease in self.leases:
                if lease.exporter == name:
                    self.table.put(life.end(lease, "Released", "", self.table.now))
            self.table.drop(Key(Kind.EXPORTER, LAB, name))

    @rule(
        selector=SELECTORS, client=CLIENTS, named=st.none() | NAMES, hours=st.sampled_from([1, 3]), later=st.booleans()
    )
    def lease_is_asked_for(self, selector: str, client: str, named: str | None, hours: int, later: bool) -> None:
        self.tick()
        self.count += 1
        self.table.put(
            pending(
                f"l{self.count}",
                self.table.now - later * timedelta(minutes=1),
                "" if named else selector,
                client=client,
                exporter_name=named or "",
                duration=hours * HOUR,
            )
        )

    @rule(selector=SELECTORS, client=CLIENTS)
    def lease_is_offered(self, selector: str, client: str) -> None:
        self.tick()
        self.count += 1
        lease = pending(f"l{self.count}", self.table.now, selector, client=client)
        free = self.possible(lease)
        made = self.table.scheduler.offer(lease, self.table.now)
        if made is None:
            # It may be cautious while others have their turn, but not without reason.
            assert not free or self.table.scheduler.undecided
            self.table.put(lease)
        else:
            assert made.exporter.name in free
            for other in self.waiting():
                assert made.exporter.name not in self.possible(other)
            self.table.put(lease)
            self.table.carry_out(made)

    @rule(
        name=st.sampled_from(["p", "q"]),
        team=st.sampled_from(["a", "b", ""]),
        board=st.sampled_from(["", "board=x", "board!=x"]),
        priority=st.integers(0, 2),
        spot=st.booleans(),
        hours=st.none() | st.just(2),
        most=st.sampled_from([0, 0, 1]),
    )
    def policy_is(
        self, name: str, team: str, board: str, priority: int, spot: bool, hours: int | None, most: int
    ) -> None:
        terms = Rule(
            clients=(parse(f"team={team}" if team else ""),),
            priority=priority,
            spot_access=spot,
            maximum_duration=hours * HOUR if hours else None,
        )
        everybody = Rule(clients=(Selector(),), maximum_leases=most)
        self.table.put(Policy(meta=Meta(namespace=LAB, name=name), exporters=parse(board), rules=(terms, everybody)))

    @rule(name=st.sampled_from(["p", "q"]))
    def policy_goes(self, name: str) -> None:
        self.table.drop(Key(Kind.POLICY, LAB, name))

    @rule(client=CLIENTS, team=st.sampled_from(["a", "b", "c"]))
    def client_changes(self, client: str, team: str) -> None:
        self.table.put(Account(kind=Kind.CLIENT, meta=Meta(namespace=LAB, name=client, labels={"team": team})))

    @rule(data=st.data())
    def lease_ends(self, data: st.DataObject) -> None:
        held = [lease for lease in self.leases if lease.exporter]
        if held:
            self.tick()
            self.table.end(data.draw(st.sampled_from(held)))

    @rule(data=st.data())
    def lease_is_given_up(self, data: st.DataObject) -> None:
        waiting = self.waiting()
        if waiting:
            self.table.end(data.draw(st.sampled_from(waiting)))

    @rule(limit=st.sampled_from([1, 2, 100]))
    def decisions_are_made(self, limit: int) -> None:
        waiting = self.waiting()
        taken = {made.exporter.name for made in self.made}
        for made in self.table.scheduler.decide(limit):
            name = made.exporter.name
            lease = next(item for item in waiting if item.key == made.lease)
            waiting.remove(lease)
            possible = {name: self.terms(lease, name) for name in self.possible(lease) - taken}
            assert name in possible
            mine = possible[name]
            for other in waiting:
                if name in self.possible(other):
                    assert self.urgency(lease, mine) < self.urgency(other, self.terms(other, name)), (
                        lease,
                        other,
                        name,
                    )
            chosen = self.table.exporter(name)
            assert chosen is not None
            for alternative, approval in possible.items():
                item = self.table.exporter(alternative)
                assert item is not None
                assert (-mine.rule.priority, chosen.freed or FREE) <= (-approval.rule.priority, item.freed or FREE)
            taken.add(name)
            self.made.append(made)

    @rule()
    def decisions_come_true(self) -> None:
        self.decisions_are_made(100)
        self.decisions_are_carried_out(True)

    @rule(works=st.booleans())
    def decisions_are_carried_out(self, works: bool) -> None:
        made, self.made = self.made, []
        self.tick()
        for assignment in made:
            held, lease = self.table.world.exporter(assignment.exporter), self.table.world.lease(assignment.lease)
            if works and held is not None and lease is not None and not held.lease and not lease.exporter:
                self.table.carry_out(assignment)
            else:
                self.table.scheduler.settle(assignment, self.table.now)

    # -- the plain reading -----------------------------------------------------------------------

    def terms(self, lease: Lease, name: str) -> Approval:
        found = self.approval(lease, name)
        assert found is not None
        return found

    def approval(self, lease: Lease, name: str) -> Approval | None:
        held = self.table.exporter(name)
        if held is None or not held.enabled or not lease.selector.matches(held.meta.labels):
            return None
        if lease.exporter_name not in ("", name):
            return None
        world = self.table.world
        rank = (lease.meta.created, lease.meta.name)
        is_new = world.lease(lease.key) is None
        older = [
            item.policy
            for item in world.leases(LAB)
            if item.client == lease.client and (is_new or (item.meta.created, item.meta.name) < rank)
        ]
        admission = admit(
            world.policies(LAB), world.client_labels(LAB, lease.client), lease.duration or HOUR, older.count
        )
        found = admission.best(held.meta.labels)
        return None if found is None or found.rule.spot_access else found

    def possible(self, lease: Lease) -> set[str]:
        taken = {made.exporter.name for made in self.made}
        return {
            item.meta.name
            for item in self.table.world.exporters(LAB)
            if item.online
            and item.ready
            and not item.draining
            and not item.lease
            and item.meta.name not in taken
            and self.approval(lease, item.meta.name) is not None
        }

    @staticmethod
    def urgency(lease: Lease, approval: Approval) -> tuple[int, datetime, str]:
        assert lease.meta.created is not None
        return -approval.rule.priority, lease.meta.created, lease.meta.name

    @invariant()
    def nobody_who_could_be_served_is_overlooked(self) -> None:
        if not self.table.scheduler.undecided:
            for lease in self.waiting():
                assert not self.possible(lease), lease

    @invariant()
    def no_exporter_has_two_leases(self) -> None:
        held = [lease.exporter for lease in self.leases if lease.exporter]
        assert len(held) == len(set(held))

    @invariant()
    def the_books_are_right(self) -> None:
        scheduler = self.table.scheduler
        for group in scheduler._groups.values():
            counts = [0, 0, 0, 0]
            for name in group.members:
                item = self.table.exporter(name)
                assert item is not None
                counts[scheduler._judge(item.key, item)] += 1
            assert group.counts == counts
            free = {
                name for name in group.members if scheduler._standing[Key(Kind.EXPORTER, LAB, name)] is Standing.FREE
            }
            assert {entry[2] for entry in group.heap if scheduler._is_current(group, entry)} == free
        queued = [name for group in scheduler._groups.values() for _, name in group.waiting]
        assert sorted(queued) == sorted(lease.meta.name for lease in self.waiting())
        for lease in self.waiting():
            place, waiting = scheduler.place(lease.key)
            assert 1 <= place <= waiting


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
