"""One side of a pair in a process of its own: started as a file, by an interpreter that has another topfive.

Arguments: the artifact's directory, a batch as .npy, threads ("" for the default). Reads a number of calls a
line, writes two JSON lists a line: the seconds of each call, and its seconds of processor time. Uses nothing
but topfive's public interface.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    """Open the artifact, say so, and time calls until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # What libraries print must not mix with the answers.
    os.dup2(2, 1)
    # The script's own folder has modules of this topfive, not of the other.
    sys.path.pop(0)
    import numpy as np

    import topfive

    folder, data, threads = sys.argv[1:]
    batch = np.load(data, allow_pickle=False)
    with topfive.open(folder, threads=int(threads) if threads else None) as runner:
        runner.run(batch)
        infer = runner.callable()
        clock, processor = time.perf_counter, time.process_time
        answers.write(json.dumps({"topfive": topfive.__version__, "file": topfive.__file__}) + "\n")
        for line in sys.stdin:
            wall, cpu = [], []
            for _ in range(int(line)):
                spent = processor()
                start = clock()
                infer(batch)
                wall.append(clock() - start)
                cpu.append(processor() - spent)
            answers.write(json.dumps([wall, cpu]) + "\n")


if __name__ == "__main__":
    main()
