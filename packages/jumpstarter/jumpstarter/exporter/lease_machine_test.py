"""The table of a lease's life, walked as a whole."""

from __future__ import annotations

from collections import deque

import pytest

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.exporter.lease_machine import FIRST, Action, Event, State, Step, step

STARTS = {Action.OPEN, Action.RUN_BEFORE_HOOK, Action.RUN_AFTER_HOOK, Action.CLOSE}
HOOK_EVENTS = {
    Event.NO_HOOK,
    Event.HOOK_PASSED,
    Event.HOOK_ENDS_LEASE,
    Event.HOOK_ENDS_EXPORTER,
    Event.HOOK_INTERRUPTED,
}
HOOK_STATES = {State.PREPARING, State.PREPARING_LAST, State.CLEANING, State.CLEANING_LAST}


def every_step() -> list[tuple[State, Event, Step]]:
    return [(state, event, found) for state in State for event in Event if (found := step(state, event)) is not None]


def every_history(length: int = 9) -> list[list[tuple[Event | None, Step]]]:
    """Every sequence of events that changes something, each with the steps that it takes."""
    histories: list[list[tuple[Event | None, Step]]] = []
    unfinished: deque[list[tuple[Event | None, Step]]] = deque([[(None, FIRST)]])
    while unfinished:
        history = unfinished.popleft()
        state = history[-1][1].next
        going_on = [(event, found) for event in Event if (found := step(state, event)) is not None]
        if not going_on or len(history) == length:
            histories.append(history)
        unfinished.extend([*history, following] for following in going_on if len(history) < length)
    return histories


HISTORIES = every_history()


def actions_of(history: list[tuple[Event | None, Step]]) -> list[Action]:
    return [action for _, taken in history for action in taken.actions]


def test_every_state_is_reached():
    reached = {taken.next for history in HISTORIES for _, taken in history}
    assert reached == set(State)


def test_every_event_means_something_somewhere():
    assert {event for _, event, _ in every_step()} == set(Event)


def test_every_action_is_asked_for_somewhere():
    actions = {action for _, _, found in every_step() for action in found.actions} | set(FIRST.actions)
    assert actions == set(Action)


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_the_end_of_the_lease_leads_every_state_to_closed(state: State):
    seen: set[State] = set()
    while state is not State.CLOSED:
        assert state not in seen, f"going round in circles at {state}"
        seen.add(state)
        given = [Event.LEASE_ENDED, Event.OPENED, Event.HOOK_PASSED, Event.CLOSED]
        state = next(
            found.next for event in given if (found := step(state, event)) is not None and found.next is not state
        )


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_a_stop_leads_every_state_to_closed_without_the_controller(state: State):
    for event in (Event.STOP, Event.OPENED, Event.HOOK_PASSED, Event.HOOK_PASSED, Event.CLOSED):
        if (found := step(state, event)) is not None:
            state = found.next
    assert state is State.CLOSED


def test_every_history_that_ends_opens_and_closes_the_session_once():
    for history in HISTORIES:
        actions = actions_of(history)
        assert actions.count(Action.OPEN) == 1
        if history[-1][1].next is State.CLOSED:
            assert actions.count(Action.CLOSE) == 1


def test_each_hook_runs_at_most_once_and_the_second_only_after_the_first_was_due():
    for history in HISTORIES:
        actions = actions_of(history)
        assert actions.count(Action.RUN_BEFORE_HOOK) <= 1
        assert actions.count(Action.RUN_AFTER_HOOK) <= 1
        if Action.RUN_AFTER_HOOK in actions:
            assert actions.index(Action.RUN_BEFORE_HOOK) < actions.index(Action.RUN_AFTER_HOOK)


def test_a_failed_preparation_is_not_tidied_up_after():
    failures = {Event.HOOK_ENDS_LEASE, Event.HOOK_ENDS_EXPORTER, Event.HOOK_INTERRUPTED}
    for history in HISTORIES:
        failed_first = next((event for event, _ in history if event in HOOK_EVENTS), None) in failures
        assert not (failed_first and Action.RUN_AFTER_HOOK in actions_of(history))


def test_a_used_device_is_tidied_up_before_it_is_closed():
    for history in HISTORIES:
        states = [taken.next for _, taken in history]
        if State.READY in states and states[-1] is State.CLOSED:
            assert Action.RUN_AFTER_HOOK in actions_of(history)


def test_clients_are_let_in_only_when_the_hook_is_over():
    for state, event, found in every_step():
        if Action.ADMIT in found.actions:
            assert state is State.PREPARING
            assert event in HOOK_EVENTS


def test_hook_events_matter_only_where_a_hook_runs():
    for state, event, _ in every_step():
        assert (event not in HOOK_EVENTS) or (state in HOOK_STATES)
    for state in HOOK_STATES:
        assert all(step(state, event) is not None for event in HOOK_EVENTS)


def test_the_owner_of_an_ended_lease_is_cut_off_at_once():
    cut_by_now = {State.OPENING_LAST}
    for state in State:
        found = step(state, Event.LEASE_ENDED)
        if found is not None and found.next not in cut_by_now:
            assert Action.CUT in found.actions, state


def test_a_lease_that_is_over_is_not_released():
    for history in HISTORIES:
        events = [event for event, _ in history]
        if Event.LEASE_ENDED in events:
            assert Action.RELEASE not in actions_of(history[events.index(Event.LEASE_ENDED) :])


def test_a_failure_that_ends_the_exporter_asks_for_it():
    for state, event, found in every_step():
        if event is Event.HOOK_ENDS_EXPORTER:
            assert Action.EXIT in found.actions, state


def test_the_controller_hears_that_the_device_is_available_from_the_client_side_end_alone():
    for _, _, found in every_step():
        if found.status is ExporterStatus.AVAILABLE:
            assert found.session_only or found.next is State.ENDED


def test_an_action_whose_result_a_state_awaits_is_started_when_it_is_entered():
    awaited = {
        State.OPENING: Action.OPEN,
        State.PREPARING: Action.RUN_BEFORE_HOOK,
        State.CLEANING: Action.RUN_AFTER_HOOK,
        State.RELEASING: Action.RELEASE,
        State.CLOSING: Action.CLOSE,
    }
    for _, _, found in every_step():
        if found.next in awaited:
            assert awaited[found.next] in found.actions
