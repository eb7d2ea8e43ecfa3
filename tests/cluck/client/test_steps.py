"""Steps, and what drivers do with them, without a loop and without threads."""

import pytest

from cluck.client.steps import LAST_PATIENCE, Countdown, Progress, Until, settle


class Signal:
    def wake(self):
        pass


SIGNAL = Signal()


def drive(steps, *outcomes):
    """Run steps whose waits come to these outcomes: whether the condition holds, or an exception; returns the waits."""
    progress, waits, outcomes = Progress(steps), [], list(outcomes)
    while not progress.is_over:
        try:
            while progress.goes_on():
                waits.append(progress.until)
                outcome = outcomes.pop(0)
                if isinstance(outcome, BaseException):
                    raise outcome
                progress.holds = outcome
        except BaseException as error:
            progress.interrupt(error)
    return progress.result, waits


def wait_twice(seen):
    try:
        seen.append((yield Until(SIGNAL, bool)))
        seen.append((yield Until(SIGNAL, bool, 1.0)))
    except KeyError as error:
        seen.append(error)
        yield Until(SIGNAL, bool)
        raise
    return "done"


def test_steps_learn_whether_what_they_wait_for_has_come():
    seen = []
    result, waits = drive(wait_twice(seen), True, False)
    assert (result, seen) == ("done", [True, False])
    assert [until.patience for until in waits] == [None, 1.0]


@pytest.mark.parametrize("before", [[], [True]])
def test_what_ends_a_wait_goes_through_the_steps_and_comes_out_as_it_is(before):
    seen, failure = [], KeyError("it broke")
    with pytest.raises(KeyError) as caught:
        drive(wait_twice(seen), *before, failure, True)
    assert caught.value is failure
    assert seen == [*before, failure]


def test_an_interrupt_behind_a_wait_goes_through_the_steps_too():
    seen, failure = [], KeyError("a signal")
    progress = Progress(wait_twice(seen))
    assert progress.goes_on()
    progress.holds = True
    progress.interrupt(failure)
    assert progress.goes_on()
    assert seen == [failure]
    with pytest.raises(KeyError):
        progress.goes_on()
    with pytest.raises(KeyError):
        progress.interrupt(failure)


def test_what_is_to_be_settled_is_waited_for_as_long_as_there_is_time():
    _, waits = drive(settle(SIGNAL, bool, None, 5.0), True)
    assert waits == [Until(SIGNAL, bool, 5.0)]
    _, waits = drive(settle(SIGNAL, bool, KeyError()), True)
    assert waits == [Until(SIGNAL, bool)]


def test_where_no_time_is_left_it_is_waited_for_a_moment():
    moment = Until(SIGNAL, bool, LAST_PATIENCE, is_shielded=True)
    _, waits = drive(settle(SIGNAL, bool, KeyboardInterrupt(), 5.0), False)
    assert waits == [moment]
    steps = settle(SIGNAL, bool)
    assert next(steps) == Until(SIGNAL, bool)
    assert steps.throw(KeyboardInterrupt()) == moment
    with pytest.raises(KeyboardInterrupt):
        next(steps)


def test_a_countdown():
    now = 10.0
    rest, endless = Countdown(3.0, lambda: now), Countdown(None, lambda: now)
    assert (rest.left, endless.left) == (3.0, None)
    now = 14.0
    assert (rest.left, endless.left) == (0.0, None)
