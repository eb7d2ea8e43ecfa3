"""Trials of nodes whose machines seem to refuse what is sent to them."""

from math import inf

from totem.links.trials import FEWEST, INTERVAL, SECONDS, Trials

PINGS = round(SECONDS / INTERVAL)


class Bench:
    def __init__(self):
        self.trials = Trials()
        self.trials.on_end = lambda node_id, answered, now: self.ended.append((node_id, answered, now))
        self.ended = []
        self.pings = []
        self.now = 50.0

    def run(self, seconds):
        end = self.now + seconds
        while self.trials.deadline <= end:
            self.now = max(self.now, self.trials.deadline)
            self.pings += [(node_id, moment, self.now) for node_id, moment in self.trials.advance(self.now)]
        self.now = end


def test_who_does_not_answer_is_pinged_in_quick_succession_and_then_silent():
    bench = Bench()
    bench.trials.begin(3, bench.now)
    bench.run(1)
    assert len(bench.pings) == len({moment for _, moment, _ in bench.pings}) == PINGS
    assert [node_id for node_id, _, _ in bench.pings] == [3] * PINGS
    ((node_id, answered, when),) = bench.ended
    assert (node_id, answered) == (3, False)
    assert 0.13 < when - 50.0 < 0.151
    assert bench.trials.deadline == inf


def test_the_answer_to_any_ping_of_the_trial_ends_it():
    for which in range(PINGS):
        bench = Bench()
        bench.trials.begin(3, bench.now)
        bench.run((PINGS - 0.5) * INTERVAL)
        bench.trials.on_pong(3, bench.pings[which][1], bench.now)
        bench.run(1)
        assert [(node_id, answered) for node_id, answered, _ in bench.ended] == [(3, True)]
        assert len(bench.pings) == PINGS


def test_other_answers_end_nothing():
    bench = Bench()
    bench.trials.begin(3, bench.now)
    bench.run(INTERVAL / 2)
    moment = bench.pings[0][1]
    bench.trials.on_pong(3, moment - 1, bench.now)
    bench.trials.on_pong(2, moment, bench.now)
    assert not bench.ended


def test_a_node_on_trial_is_not_tried_anew():
    bench = Bench()
    for _ in range(10):
        bench.trials.begin(3, bench.now)
        bench.run(INTERVAL)
    assert [answered for _, answered, _ in bench.ended] == [False]


def test_several_are_tried_at_once():
    bench = Bench()
    for node_id in (2, 3, 4):
        bench.trials.begin(node_id, bench.now)
    bench.run(INTERVAL / 2)
    bench.trials.on_pong(3, bench.pings[1][1], bench.now)
    bench.run(1)
    assert sorted((node_id, answered) for node_id, answered, _ in bench.ended) == [(2, False), (3, True), (4, False)]


def test_a_trial_of_a_node_that_was_paused_goes_on_with_it():
    bench = Bench()
    bench.trials.begin(3, bench.now)
    bench.run(INTERVAL / 2)
    bench.now += 5
    bench.run(INTERVAL * (FEWEST - 2))
    assert not bench.ended
    bench.run(1)
    assert [answered for _, answered, _ in bench.ended] == [False]
