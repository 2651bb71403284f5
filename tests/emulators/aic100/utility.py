"""Emulated qaic-util: `-q` prints each device as QaicUtil.cpp does, `-d QID` only that one."""

from __future__ import annotations

import getopt
import sys

from common import count_query, hang, introduction, now, state


def query(chosen: int | None) -> str:
    told, number = state(), count_query()
    devices = [qid for qid in told["devices"] if chosen in (None, qid)]
    lines = [
        "LRT QC_IMAGE_VERSION: topfive's emulated tools",
        "LRT IMAGE_VARIANT: LRT.AIC.REL",
        f"Number of devices: {len(devices)}",
    ]
    for qid in devices:
        degrees = now(told["temperature"], number)
        lines += [
            f"QID {qid}",
            f"\tStatus:{now(told['status'], number)}",
            f"\tMHI ID:{qid}",
            "\tPCI Info:emulated",
            f"\tNsp Total:{now(told['nsp_total'], number)}",
            f"\tNsp Free:{now(told['nsp_free'], number)}",
            *([] if degrees is None else [f"\tSoC temperature(degree C):{degrees:.2f}"]),
            "\tBoard power(Watts):0.00",
            "\tTDP Cap(Watts):75.00",
        ]
    return "\n".join(lines)


def main(tool: str, arguments: list[str]) -> int:
    try:
        options, rest = getopt.getopt(arguments, "qd:h", ["query", "aic-device-id=", "help"])
    except getopt.GetoptError as error:
        print(f"{tool}: {error}", file=sys.stderr)
        return 1
    given = dict(options)
    if "-h" in given or "--help" in given:
        print(f"{introduction(tool)}\nUsage: {tool} -q [-d <QID>]")
        return 0
    if rest or not {"-q", "--query"} & given.keys():
        print(f"{tool}: nothing to do: -q queries", file=sys.stderr)
        return 1
    told = state()
    if told["failure"] == "query_hang":
        hang(told)
    if told["failure"] == "query_failure":
        print("Failed to open the device: Permission denied", file=sys.stderr)
        return 1
    chosen = given.get("-d", given.get("--aic-device-id"))
    text = query(None if chosen is None else int(chosen))
    print(text.replace("Nsp Total:", "Nsps ") if told["failure"] == "query_garbled" else text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
