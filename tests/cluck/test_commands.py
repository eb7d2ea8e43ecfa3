"""The nouns of the lock floor: an example of each, and the limits that all of them are held to."""

from cluck.commands import (
    Acquire,
    Client,
    Close,
    Commit,
    Depose,
    EndWait,
    Expire,
    Force,
    Gone,
    Next,
    Notify,
    Owner,
    Publish,
    Release,
    Renew,
    RequestId,
    Resign,
    Revoke,
    Server,
    Stand,
    Status,
    Still,
    Wait,
    Withdraw,
)

CLIENT = Client(Server(1, 2), 3)
REQUEST = RequestId(Owner(CLIENT, 4), 5)


def examples():
    """One command of each kind."""
    return [
        Acquire(REQUEST, b"lock"),
        Withdraw(REQUEST),
        Release(REQUEST, 6),
        Renew(REQUEST, 6),
        Revoke(b"lock", 6, 0),
        Expire(b"lock", 6, 0),
        Force(b"lock", 6),
        Gone(CLIENT),
        Still(REQUEST),
        Wait(REQUEST, b"condition", b"lock", 6),
        Notify(REQUEST, b"condition"),
        EndWait(REQUEST),
        Stand(REQUEST, b"election"),
        Status(REQUEST, 1, 2.0, 3.0),
        Close(b"election", 1),
        Next(b"election", 1, REQUEST),
        Commit(b"election", 1, REQUEST),
        Resign(REQUEST, 6),
        Depose(b"election", 1, REQUEST),
        Publish(REQUEST, b"election", 6, b"blob"),
    ]
