"""The process of an ApartSession: `python -m topfive.targets.apart_process LINE MEMORY LIFELINE`.

LINE, MEMORY and LIFELINE are numbers of inherited file descriptors: the socket of questions and answers, the
shared memory, and a pipe whose other end only the parent holds.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import sys
from multiprocessing.connection import Connection
from typing import Any

from topfive.errors import RunError
from topfive.targets.apart import SharedMemory
from topfive.targets.device_session import DeviceSession, found_class


def end_with_parent(lifeline: int) -> None:
    """Let the kernel end this process when the parent is gone, also inside a call that never comes back."""
    # The default action of SIGIO, which a closed pipe sends, is to end the process.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    watch = select.poll()
    watch.register(lifeline, 0)
    if watch.poll(0):
        os._exit(1)


def answer(session: DeviceSession, question: dict[str, Any], memory: SharedMemory) -> dict[str, Any]:
    """What a question's call of the session returns, as JSON-able values. Raises RunError as that does."""
    if question["call"] == "infer":
        return memory.put(session.infer(memory.get(question)))
    if question["call"] == "tensors":
        return {"tensors": memory.put_all(session.tensors(memory.get(question)))}
    if question["call"] == "measure":
        return session.measure(question["plan"])
    session.close()
    return {}


def main(line: Connection, memory: SharedMemory) -> None:
    """Answer questions until the session is closed or does not open; only a RunError is an answer, too."""
    session: DeviceSession | None = None
    closed = False
    while not closed:
        question = json.loads(line.recv_bytes())
        closed = question.get("call") == "close"
        try:
            if session is None:
                session, returned = found_class(question["opener"])(question["job"]), {}
            else:
                returned = answer(session, question, memory)
            found: dict[str, Any] = {"returned": returned}
        except RunError as failure:
            found = {"failed": failure.message, "details": failure.details}
            closed = closed or session is None
        line.send_bytes(json.dumps(found).encode())


if __name__ == "__main__":
    end_with_parent(int(sys.argv[3]))
    main(Connection(int(sys.argv[1])), SharedMemory(int(sys.argv[2])))
