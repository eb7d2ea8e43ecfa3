"""What the kernel's refusals are compared with."""

from totem.sockets import COMPARE_INTERVAL, MOST_REFUSALS, QUOTED, REMEMBERED, SentLately


def counts(sent, quoted, now):
    """Whether a refusal that quotes this is one."""
    sent.refuse(2, quoted)
    assert sent.deadline <= now
    return sent.refusing(now) == [2]


def test_a_refusal_counts_only_if_it_quotes_what_was_sent_lately():
    sent = SentLately()
    long = bytes(range(200))
    sent.note([b"token", long])
    for now, quoted in enumerate((b"token", long[:QUOTED])):
        assert counts(sent, quoted, now)
    for now, quoted in enumerate((b"", b"toke", long[: QUOTED - 1], long[1 : QUOTED + 1], b"something else"), 10):
        assert not counts(sent, quoted, now)
    for k in range(REMEMBERED):
        sent.note([b"%d" % k])
    assert not counts(sent, b"token", 20)


def test_a_flood_of_forged_refusals_is_compared_rarely_and_hides_no_other():
    sent = SentLately()
    compared = []

    class Train(list):
        def __iter__(self):
            compared.append(self)
            return super().__iter__()

    sent.note(Train([b"token"]))
    for k in range(1000):
        sent.refuse(2, b"forged %d" % (k % MOST_REFUSALS))
        sent.refuse(3, b"forged")
        sent.refusing(k / 1000)
    assert len(compared) <= 1 / COMPARE_INTERVAL + 1
    sent.refuse(3, b"token")
    assert sent.refusing(sent.deadline) == [3]
    assert sent.refusing(2.0) == []
