"""What the kernel's refusals are compared with."""

from totem.sockets import QUOTED, REMEMBERED, Refusal, SentLately


def refusal(quoted):
    return Refusal(("127.0.0.1", 5405), is_of_size=False, is_of_port=True, quoted=quoted)


def test_a_refusal_counts_only_if_it_quotes_what_was_sent_lately():
    sent = SentLately()
    long = bytes(range(200))
    sent.note([b"token", long])
    for quoted in (b"token", long[:QUOTED]):
        assert sent.quoted_by([refusal(quoted)]) == [refusal(quoted)]
    for quoted in (b"", b"toke", long[: QUOTED - 1], long[1 : QUOTED + 1], b"something else"):
        assert sent.quoted_by([refusal(quoted)]) == []
    for k in range(REMEMBERED):
        sent.note([b"%d" % k])
    assert sent.quoted_by([refusal(b"token")]) == []
