"""What all commands share: where a configuration is looked for, exit codes, the version."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

DEFAULT_CONFIG: Final = "/etc/corosync/corosync.conf"

DONE, FAILED, MISUSED, SIGNALLED = 0, 1, 2, 128


def own_version() -> str:
    """The installed version."""
    try:
        return version("totem-cpg")
    except PackageNotFoundError:
        return "from a source tree that is not installed"


def sole(error: BaseException) -> BaseException:
    """Unwrap an exception that is alone in a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
