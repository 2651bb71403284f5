"""Faults for the tests of sweeps: Python runs this at its start where this folder is in PYTHONPATH.

SWEEP_FAULT is a list of faults, separated by ";":
    slow:SECONDS   each picture takes so much longer
    kill:NAME      the process that decodes this picture is killed (SIGKILL)
    once:NAME      the same, but only as long as the file SWEEP_FAULT_MARK is not there; it is made first
    raise:NAME     decoding this picture raises what nobody expects
"""

import os
import signal
import time
from pathlib import Path

FAULTS = [fault.partition(":")[::2] for fault in os.environ.get("SWEEP_FAULT", "").split(";") if fault]


def _strike(name):
    for kind, value in FAULTS:
        if kind == "slow":
            time.sleep(float(value))
        elif value == name and kind == "raise":
            raise ZeroDivisionError("made to fail")
        elif value == name and kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif value == name and kind == "once":
            mark = Path(os.environ["SWEEP_FAULT_MARK"])
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


if FAULTS:
    from topfive.images import packed

    sound = packed.crop_bytes

    def crop_bytes(file, profile, size):
        _strike(file.name)
        return sound(file, profile, size)

    packed.crop_bytes = crop_bytes
