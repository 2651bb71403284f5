"""Declarations of `topfive scenario` and `topfive harness`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import (
    CacheFolder,
    Cards,
    Json,
    Model,
    NoRecord,
    Quant,
    Records,
    Tags,
    Target,
)

__all__ = ["harness", "scenario"]

Imagenet = Annotated[
    str | None,
    typer.Option(
        "--imagenet", metavar="SET", help="A folder or a registered data set (default: the card's own)."
    ),
]
Samples = Annotated[int | None, typer.Option("--samples", min=1, help="Only the first so many pictures.")]
Logs = Annotated[Path | None, typer.Option("--logs", help="New folder for LoadGen's logs.")]
Tree = Annotated[
    Path | None, typer.Option("--tree", help="Also write a results tree in MLPerf's submission shape.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of the target.")]
TimeLimit = Annotated[
    float | None, typer.Option("--time-limit", help="Seconds before a run is killed (default: a guess).")
]
Seconds = Annotated[float | None, typer.Option("--time", help="Least duration of a run, seconds.")]
Count = Annotated[int | None, typer.Option("--count", help="Queries, or in accuracy mode samples.")]
Qps = Annotated[float | None, typer.Option("--qps", help="Server's arrival rate, Offline's expected rate.")]
Latency = Annotated[float | None, typer.Option("--max-latency", help="Server's latency limit, seconds.")]
PerQuery = Annotated[int, typer.Option("--samples-per-query", min=1, help="Of MultiStream.")]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Largest batch that the model is given.")]
Submission = Annotated[bool, typer.Option("--submission", help="MLPerf's official durations and seeds.")]


def scenario(
    *,
    model: Model,
    target: Target = "cpu",
    quant: Quant = "force_float32",
    name: Annotated[
        list[str],
        typer.Option("--scenario", help="SingleStream, MultiStream, Server, Offline, all, or a command key."),
    ],
    mode: Annotated[str, typer.Option("--mode", help="performance, accuracy or find-peak.")] = "performance",
    seconds: Seconds = None,
    count: Count = None,
    qps: Qps = None,
    max_latency: Latency = None,
    samples_per_query: PerQuery = 8,
    batch: BatchSize = 8,
    user_conf: Annotated[Path | None, typer.Option("--user-conf", help="MLPerf's user.conf.")] = None,
    submission: Submission = False,
    imagenet: Imagenet = None,
    samples: Samples = None,
    logs: Logs = None,
    tree: Tree = None,
    threads: Threads = None,
    time_limit: TimeLimit = None,
    records: Records = None,
    no_record: NoRecord = False,
    tags: Tags = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Run MLPerf scenarios with LoadGen; exit code 1 if one is INVALID."""
    from topfive.commands.scenario import Keeping, prepare_subject, run_plans
    from topfive.loadgen import Plan, asked_runs

    plans = [
        Plan(
            scenario=wanted,
            mode=wanted_mode,
            seconds=seconds,
            count=count,
            qps=qps,
            max_latency=max_latency,
            samples_per_query=samples_per_query,
            batch=batch,
            submission=submission,
        )
        for wanted, wanted_mode in asked_runs(name, mode)
    ]
    subject = prepare_subject(
        model,
        target=target,
        quant=quant,
        imagenet=imagenet,
        count=samples,
        logs=logs,
        threads=threads,
        time_limit=time_limit,
        cards=cards or [],
        cache=artifact_cache,
        keeping=Keeping(not no_record, records, tuple((tags or "").split(","))),
    )
    if not run_plans(subject, plans, user_conf, tree=tree, as_json=json):
        raise typer.Exit(1)


def harness(
    *,
    model: Model,
    target: Target = "cpu",
    quant: Quant = "force_float32",
    name: Annotated[list[str] | None, typer.Option("--scenario", help="Default: Offline.")] = None,
    seconds: Seconds = None,
    batch: BatchSize = 8,
    submission: Submission = False,
    imagenet: Imagenet = None,
    samples: Samples = None,
    logs: Logs = None,
    tree: Tree = None,
    threads: Threads = None,
    time_limit: TimeLimit = None,
    records: Records = None,
    no_record: NoRecord = False,
    tags: Tags = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Build, accuracy, performance, and a verdict against 99 % of the card's accuracy."""
    from topfive.commands.scenario import Keeping, prepare_subject, run_harness
    from topfive.loadgen import Plan, asked_runs

    scenarios = [wanted for wanted, _ in asked_runs(name or ["Offline"], "performance")]
    subject = prepare_subject(
        model,
        target=target,
        quant=quant,
        imagenet=imagenet,
        count=samples,
        logs=logs,
        threads=threads,
        time_limit=time_limit,
        cards=cards or [],
        cache=artifact_cache,
        keeping=Keeping(not no_record, records, tuple((tags or "").split(","))),
    )
    plan = Plan(scenarios[0], seconds=seconds, batch=batch, submission=submission)
    if not run_harness(subject, scenarios, plan, tree=tree, as_json=json):
        raise typer.Exit(1)
