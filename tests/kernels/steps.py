"""How many instructions the processor executes in a call, counted one by one.

A forked process stops between calls, and its parent takes it from one stop to the next step by step, as a debugger
would. Linux only. What else runs on the machine does not change the count.
"""

import ctypes
import gc
import os
import signal
from collections.abc import Callable, Sequence

_TRACEME, _STEP = 0, 9  # requests to ptrace
_WARM = 50


def instructions(calls: Sequence[Callable[[], object]]) -> list[int]:
    """Instructions of each call, with those of Python around it.

    Raises:
        OSError: where processes must not be traced.
    """
    library = ctypes.CDLL(None, use_errno=True)
    ptrace = library.ptrace
    ptrace.argtypes, ptrace.restype = [ctypes.c_long] * 4, ctypes.c_long
    # The first one carries what follows the first stop.
    calls = [lambda: None, *calls]
    child = os.fork()
    if child == 0:
        try:
            gc.disable()
            # Python, too, takes fewer instructions once it has done something a few times.
            for _ in range(_WARM):
                _all(calls, 0)
            if ptrace(_TRACEME, 0, 0, 0) == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
                _all(calls, signal.SIGSTOP)
        finally:
            os._exit(1)
    counts = []
    alive = _stopped(child) == signal.SIGSTOP
    while alive and len(counts) < len(calls):
        count, at = 0, signal.SIGTRAP
        while alive and at == signal.SIGTRAP:
            alive = ptrace(_STEP, child, 0, 0) == 0 and (at := _stopped(child)) is not None
            count += 1
        counts.append(count)
    if not alive:
        raise OSError("processes must not be traced here")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return counts[1:]


def _all(calls: Sequence[Callable[[], object]], sent: int) -> None:
    """Every call, and a signal after it."""
    me = os.getpid()
    for call in calls:
        call()
        os.kill(me, sent)


def _stopped(child: int) -> int | None:
    """The signal that stopped the child, None if it ended."""
    _, status = os.waitpid(child, 0)
    return os.WSTOPSIG(status) if os.WIFSTOPPED(status) else None
