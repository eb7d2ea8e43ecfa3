"""For how long a ring of ours alone waits for a member (rulings, F1)."""

import pytest

from totem.config import Config, Knet, LinkSettings, Timeouts
from totem.patience import Patience, Reason, choose, of_older_version
from totem.wire.messages import Ask

NOTHING = Ask(0, Reason.NONE)
CONFIG = Config.for_nodes(3)


def asks(count, **special):
    return {k: special.get(f"node{k}", NOTHING) for k in range(1, count + 1)}


@pytest.mark.parametrize(("members", "token"), [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.55), (8, 0.75), (16, 1.15)])
def test_daemons_wait_for_each_other_for_half_a_second_and_a_little_more_for_each(members, token):
    timeouts = choose(Config.for_nodes(members), asks(members), members).timeouts
    assert (timeouts.token, timeouts.consensus) == pytest.approx((token, token / 2))
    assert timeouts.token_retransmit < token / 4
    assert timeouts.hold < token / 4


def test_where_not_all_are_ours_the_timeouts_are_corosyncs():
    assert choose(CONFIG, None, 3).timeouts == CONFIG.timeouts


def test_the_member_that_asks_for_most_is_waited_for_and_named():
    chosen = choose(CONFIG, asks(3, node2=Ask(800, Reason.PAUSE), node3=Ask(700, Reason.LINKS)), 3)
    assert chosen.timeouts.token == 0.8
    assert chosen.timeouts.consensus == 0.4
    assert chosen.because == "node 2 asks for it: it was not run for a while"


def test_a_reason_of_a_later_version_is_left_out():
    assert choose(CONFIG, asks(3, node2=Ask(800, 77)), 3).because == "node 2 asks for it"


def test_nobody_can_make_the_others_wait_for_ever():
    assert choose(CONFIG, asks(3, node2=Ask(2**32 - 1, Reason.PAUSE)), 3).timeouts.token == 10 * CONFIG.token


def test_a_member_that_waits_as_long_as_corosync_has_its_other_timeouts_too():
    asked = asks(3, node1=Ask(3650, Reason.EMBEDDED))
    assert choose(CONFIG, asked, 3).timeouts == CONFIG.timeouts


@pytest.mark.parametrize("token", [0.2, 3.65, 10.0])
def test_a_configured_token_timeout_is_kept_and_asked_for(token):
    config = Config.for_nodes(3, token=token)
    assert choose(config, asks(3, node2=Ask(5000, Reason.PAUSE)), 3).timeouts == config.timeouts
    patience = Patience(config, daemon=True)
    assert patience.ask == Ask(round(token * 1000), Reason.CONFIGURED)
    assert not patience.note_delay(3.0, 0.0)


@pytest.mark.parametrize("name", ["consensus", "token_retransmit", "hold"])
@pytest.mark.parametrize("again", [False, True])
def test_what_else_is_configured_is_kept(name, again):
    config = Config.for_nodes(3, **{name: 0.1})
    if again:
        config = config.__class__(**{field: getattr(config, field) for field in config.__dataclass_fields__})
    assert getattr(choose(config, asks(3), 3).timeouts, name) == 0.1
    assert choose(config, asks(3), 3).timeouts.token == 0.5


def test_a_member_of_an_older_version_is_waited_for_as_before():
    assert of_older_version(CONFIG, 0).milliseconds == 3650
    assert of_older_version(CONFIG, 1000).milliseconds == 4000
    assert of_older_version(CONFIG, 3_600_000).milliseconds == 4 * 3650


def test_a_daemon_asks_for_nothing_until_it_is_late():
    patience = Patience(CONFIG, daemon=True)
    patience.start(0.0)
    assert patience.ask == NOTHING
    assert not patience.note_delay(0.12, 1.0)
    assert patience.note_delay(0.2, 2.0)
    assert patience.ask == Ask(800, Reason.PAUSE)
    assert patience.is_untold
    assert not patience.note_delay(0.2, 3.0)
    assert patience.note_delay(60.0, 4.0)
    assert patience.ask.milliseconds == 3650, "a longer pause must not make others wait longer than Corosync does"


def test_it_asks_for_half_as_much_after_each_quiet_minute():
    patience = Patience(CONFIG, daemon=True)
    patience.start(0.0)
    patience.note_delay(0.3, 0.0)
    assert not patience.advance(59.0)
    patience.note_delay(0.2, 59.0)  # half as much would not do
    assert not patience.advance(118.0)
    assert patience.advance(119.5)
    assert patience.ask.milliseconds == 600
    assert patience.advance(180.0)
    assert patience.ask == NOTHING
    assert not patience.advance(1000.0)


def test_a_program_begins_with_corosyncs_timeout_and_comes_down_while_it_is_quiet():
    patience = Patience(CONFIG, daemon=False)
    patience.start(0.0)
    asked = [patience.ask.milliseconds]
    for minute in range(1, 6):
        patience.advance(60.0 * minute)
        asked.append(patience.ask.milliseconds)
    assert asked == [3650, 1825, 1500, 1500, 1500, 1500]
    assert patience.note_delay(0.5, 400.0)
    assert patience.ask == Ask(2000, Reason.PAUSE)


def test_over_several_links_one_that_fails_must_have_been_noticed():
    knet = Knet(links=(LinkSettings(0), LinkSettings(1)))
    config = Config.for_nodes(3, transport="knet", knet=knet)
    assert Patience(config, daemon=True).ask == Ask(2937, Reason.LINKS)
    fast = Knet(links=tuple(LinkSettings(n, ping_interval=0.05, ping_timeout=0.1) for n in (0, 1)))
    assert Patience(Config.for_nodes(3, transport="knet", knet=fast), daemon=True).ask == Ask(350, Reason.LINKS)
    for mode in ("active", "rr"):
        other = Config.for_nodes(3, transport="knet", knet=knet.__class__(links=knet.links, link_mode=mode))
        assert Patience(other, daemon=True).ask == NOTHING


def test_another_configuration_is_asked_for_at_once():
    patience = Patience(CONFIG, daemon=True)
    patience.reconfigure(Config.for_nodes(3, token=0.8))
    assert patience.ask == Ask(800, Reason.CONFIGURED)
    assert patience.is_untold
    patience.reconfigure(CONFIG)
    assert patience.ask == NOTHING


def test_timeouts_by_name():
    assert CONFIG.timeouts == Timeouts(3.65, 0.869, 0.685, 4.38)
