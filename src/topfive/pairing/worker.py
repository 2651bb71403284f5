"""One side of a pair in a process of its own: started as a file, by an interpreter that has another topfive.

Arguments: the artifact's directory, a batch as .npy, threads ("" for the default). Reads a number of calls a
line, writes the seconds of each as a JSON list a line. Uses nothing but topfive's public interface.
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
        clock = time.perf_counter
        answers.write(json.dumps({"topfive": topfive.__version__, "file": topfive.__file__}) + "\n")
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                start = clock()
                infer(batch)
                seconds.append(clock() - start)
            answers.write(json.dumps(seconds) + "\n")


if __name__ == "__main__":
    main()
