"""topfive's emulated MagicMind: its documented Python API, its documented arithmetic on the CPU.

TOPFIVE_EMULATED_VERSION: the version it says it is (default 0.13.0; from 1.4 on, mm_run has other flags).
TOPFIVE_EMULATED_FAILURE: a step that fails as documented, see `failing`. TOPFIVE_EMULATED_DEVICES: devices
(default 1). TOPFIVE_EMULATED_CLUSTERS: clusters of the device (default 6, an S4).
"""

import os
import time

__version__ = os.environ.get("TOPFIVE_EMULATED_VERSION", "0.13.0")
FAILURE = "TOPFIVE_EMULATED_FAILURE"


def failing(step: str) -> bool:
    """Whether a step is to fail; "hang:STEP" never comes back from it, "die:STEP" ends the process."""
    wanted = os.environ.get(FAILURE, "")
    if wanted == f"hang:{step}":
        time.sleep(3600)
    if wanted == f"die:{step}":
        os._exit(77)
    return wanted == step


def devices() -> int:
    return int(os.environ.get("TOPFIVE_EMULATED_DEVICES", "1"))


def clusters() -> int:
    return int(os.environ.get("TOPFIVE_EMULATED_CLUSTERS", "6"))
