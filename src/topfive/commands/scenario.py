"""`topfive scenario` and `topfive harness`: LoadGen runs of one artifact."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import topfive
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.commands.keeping import keep_record, scenario_tests
from topfive.loadgen import Plan, Run, described, is_stream, read_user_conf, run_scenario
from topfive.loadgen.samples import SampleSet, sample_set
from topfive.loadgen.search import until_valid
from topfive.loadgen.tree import add_to_tree
from topfive.pipeline import resolve_card
from topfive.targets.base import Artifact

__all__ = ["Keeping", "Subject", "prepare_subject", "run_harness", "run_plan", "run_plans"]

SHARE_OF_ACCURACY = 0.99


@dataclass(frozen=True)
class Keeping:
    """Whether the runs are recorded, where (None: the project's records), and with which tags."""

    keep: bool
    records: Path | None = None
    tags: tuple[str, ...] = ()


NOT_KEPT = Keeping(keep=False)


@dataclass(frozen=True)
class Subject:
    """A built model with its samples, and where the logs of its runs go."""

    card: Card
    artifact: Artifact
    samples: SampleSet
    logs: Path
    threads: int | None
    time_limit: float | None
    keeping: Keeping = NOT_KEPT

    def run(self, plan: Plan, name: str) -> Run:
        """One run of LoadGen; its logs are kept in a folder of that name."""
        return run_scenario(
            plan,
            self.artifact,
            self.samples.crops,
            self.samples.labels,
            profile=self.card.input.profile,
            background=self.card.output.background,
            folder=self.logs / name,
            threads=self.threads,
            time_limit=self.time_limit,
        )


def prepare_subject(
    model: str,
    *,
    target: str,
    quant: str,
    imagenet: str | None,
    count: int | None,
    logs: Path | None,
    threads: int | None,
    time_limit: float | None,
    cards: Sequence[Path],
    cache: Path | None,
    keeping: Keeping = NOT_KEPT,
) -> Subject:
    """Build the model and crop its pictures."""
    card = resolve_card(model, cards)
    artifact = topfive.build(card, target=target, quant=quant, cache=cache, progress=progress)
    stamp = time.strftime("%Y.%m.%d-%H.%M.%S")
    folder = logs or Path("loadgen_logs") / stamp / "-".join(artifact.case.values())
    samples = sample_set(card, dataset=imagenet, count=count)
    return Subject(card, artifact, samples, folder, threads, time_limit, keeping)


def run_plan(subject: Subject, plan: Plan) -> tuple[Run, int]:
    """Run a plan, a Server plan without a rate as often as it needs; the run and the number of tries."""

    def once(asked: Plan, number: int) -> Run:
        name = f"{asked.mode}-{asked.scenario}"
        return subject.run(asked, name if number == 1 else f"{name}-try{number}")

    return until_valid(plan, once)


def run_plans(
    subject: Subject, plans: Sequence[Plan], user_conf: Path | None, *, tree: Path | None, as_json: bool
) -> bool:
    """Run plans one after the other and print what each found; whether all were valid."""
    rows = []
    runs = []
    valid = True
    for asked in plans:
        plan = asked
        if user_conf is not None:
            overrides = read_user_conf(user_conf, subject.card.name, plan.scenario)
            plan = replace(plan, overrides=overrides)
        _say_if_fewer(subject, plan)
        run, tries = run_plan(subject, plan)
        valid &= run.valid
        runs.append(run)
        rows.append(described(run, tries))
        if tree is not None:
            rows[-1]["tree"] = str(add_to_tree(tree, _system(subject), subject.card.name, run))
        if not as_json:
            sys.stdout.write(scenario_text(rows[-1]))
            sys.stdout.flush()
    if as_json:
        print_json({**_subject_json(subject), "runs": rows})
    _keep(subject, rows, runs)
    return valid


def run_harness(
    subject: Subject, scenarios: Sequence[str], plan: Plan, *, tree: Path | None, as_json: bool
) -> bool:
    """Accuracy, then performance of each scenario, and a verdict against SHARE_OF_ACCURACY of the card's.

    Where the card has no published accuracy, or it is of other pictures, the same model in float32 on the
    CPU over the same samples is the reference.
    """
    reference, source = _reference(subject)
    rows = []
    runs = []
    good = True
    for scenario in scenarios:
        for mode in ("accuracy", "performance"):
            run, tries = run_plan(subject, replace(plan, scenario=scenario, mode=mode))
            row = described(run, tries)
            if run.accuracy:
                row["reference"], row["reference_source"] = reference, source
                row["passes"] = run.accuracy.fraction >= SHARE_OF_ACCURACY * reference
            good &= run.valid and row.get("passes", True)
            if tree is not None:
                row["tree"] = str(add_to_tree(tree, _system(subject), subject.card.name, run))
            rows.append(row)
            runs.append(run)
            if not as_json:
                sys.stdout.write(scenario_text(row))
                sys.stdout.flush()
    if as_json:
        print_json({**_subject_json(subject), "good": good, "runs": rows})
    else:
        sys.stdout.write(f"{subject.card.name}: {'PASSED' if good else 'FAILED'}\n")
    _keep(subject, rows, runs)
    return good


def _say_if_fewer(subject: Subject, plan: Plan) -> None:
    there = len(subject.samples.labels)
    if plan.mode == "accuracy" and plan.count is not None and plan.count > there:
        progress(f"{plan.count} samples asked for, {subject.samples.place} has {there}: all of them are run")


def _keep(subject: Subject, rows: Sequence[dict[str, Any]], runs: Sequence[Run]) -> None:
    keeping = subject.keeping
    if keeping.keep:
        answers = [subject.samples.answers(run.top5) for run in runs]
        tests = scenario_tests(subject.artifact, rows, answers)
        keep_record("scenario", tests, keeping.records, keeping.tags, pictures=subject.samples.place)


def _reference(subject: Subject) -> tuple[float, str]:
    published = subject.card.published
    if published.top1 is not None and subject.samples.place != str(subject.card.pictures_folder()):
        return published.top1, f"published: {published.images}"
    quant = "as_is" if subject.card.quantised else "force_float32"
    artifact = topfive.build(subject.card, target="cpu", quant=quant, cache=_cache_of(subject.artifact))
    reference = replace(subject, artifact=artifact)
    run = reference.run(Plan("Offline", "accuracy"), f"reference-cpu-{quant}")
    assert run.accuracy is not None
    return run.accuracy.fraction, f"cpu:{quant} on the same samples"


def _cache_of(artifact: Artifact) -> Path:
    """The cache an artifact is in: ROOT/artifacts/KIND/xx/KEY/..."""
    return next(parent.parent for parent in artifact.path.parents if parent.name == "artifacts")


def _system(subject: Subject) -> str:
    case = subject.artifact.case
    return f"{case['target']}-{case['quant']}"


def _subject_json(subject: Subject) -> dict[str, Any]:
    return {
        **subject.artifact.case,
        "simulated": str(subject.artifact.meta.get("simulated", "")),
        "samples": len(subject.samples.labels),
        "pictures": subject.samples.place,
    }


def scenario_text(row: dict[str, Any]) -> str:
    """A run in a few lines: the verdict first."""
    if "accuracy" in row:
        verdict = ""
        if "reference" in row:
            sign = ">=" if row["passes"] else "<"
            reference = f"{100 * row['reference']:.3f}% ({row['reference_source']})"
            verdict = f" {sign} {SHARE_OF_ACCURACY:.0%} of {reference}"
        share = 100 * row["accuracy"]
        return f"{row['key']}: accuracy={share:.3f}%, good={row['right']}, total={row['total']}{verdict}\n"
    verdict = "VALID" if row["valid"] else "INVALID"
    metric = f"{1e3 * row['metric']:.3f} ms" if is_stream(row["key"]) else f"{row['metric']:.1f} samples/s"
    tries = f", {row['tries']} tries" if row["tries"] > 1 else ""
    lines = [f"{row['key']}: {verdict}, {metric} ({row['metric_name']}), {_asked(row)}{tries}"]
    if not row["valid"]:
        lines += [f"  {line}" for line in (*row["errors"], *row["advice"])]
    return "\n".join([*lines, f"  logs: {row['logs']}", ""])


def _asked(row: dict[str, Any]) -> str:
    """How much LoadGen asked: "1 query of 932 samples"."""
    queries, samples = row["queries"], row["samples_per_query"]
    return f"{queries} {'query' if queries == 1 else 'queries'}" + (
        f" of {samples} samples" if samples > 1 else ""
    )
