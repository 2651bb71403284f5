"""As much of GitHub Actions as the documented workflow needs: expressions, caches, steps run with bash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FUNCTION = re.compile(r"\b(hashFiles|cancelled|always|success)\(")
CONTEXT = re.compile(r"'[^']*'|\b(?:github|steps)(?:\.[\w-]+)+")
INSTALL = "pip install"


def value_of(text: str, contexts: dict[str, Any], functions: dict[str, Any]) -> Any:
    """The value of an expression: comparisons of contexts, strings and function calls with && and ||."""

    def looked_up(match: re.Match[str]) -> str:
        if match[0].startswith("'"):
            return match[0]
        found: Any = contexts
        for part in match[0].split("."):
            # What is not there is null, and so is all that is below it.
            found = found.get(part) if isinstance(found, dict) else None
        return repr(found)

    python = CONTEXT.sub(looked_up, text).replace("&&", " and ").replace("||", " or ")
    python = re.sub(r"!(?!=)", " not ", python)
    return eval(python.strip(), {"__builtins__": {}}, functions)


@dataclass
class Caches:
    """What `actions/cache` keeps for a repository: the oldest first. Branch -> who may read it."""

    kept: list[tuple[str, str, Path]] = field(default_factory=list)

    def save(self, key: str, branch: str, path: Path, store: Path) -> None:
        if path.exists() and not any((key, branch) == one[:2] for one in self.kept):
            place = store / f"cache{len(self.kept)}"
            shutil.copytree(path, place)
            self.kept.append((key, branch, place))

    def restore(self, keys: list[str], branch: str, path: Path) -> str:
        """Restore the exact key, else the newest one that begins as one of the others; the key found."""
        mine = [one for one in reversed(self.kept) if one[1] in (branch, "refs/heads/main")]
        exact = [one for one in mine if one[0] == keys[0]]
        for found in [*exact, *(one for key in keys[1:] for one in mine if one[0].startswith(key))][:1]:
            shutil.copytree(found[2], path, dirs_exist_ok=True)
            return found[0]
        return ""


@dataclass
class Ran:
    """A job that ran: outcome of each step by its name, what they printed, files as they were left."""

    workspace: Path
    outcomes: dict[str, str] = field(default_factory=dict)
    output: str = ""
    summary: str = ""
    uploaded: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return "failure" not in self.outcomes.values()


class Job:
    """One run of a workflow's job on a project's files."""

    def __init__(self, steps: list[dict[str, Any]], caches: Caches, folder: Path, event: dict[str, Any]):
        self.steps, self.caches, self.folder, self.github = steps, caches, folder, event
        self.workspace, self.home = folder / "workspace", folder / "home"
        self.outputs: dict[str, dict[str, dict[str, str]]] = {}
        self.ran = Ran(self.workspace)

    def text(self, template: str) -> str:
        """A text with its ${{ }} replaced."""
        return re.sub(r"\$\{\{(.*?)\}\}", lambda match: _shown(self.value(match[1])), template, flags=re.S)

    def value(self, expression: str) -> Any:
        functions = {
            "hashFiles": self._hash_files,
            "success": lambda: self.ran.passed,
            "cancelled": lambda: False,
            "always": lambda: True,
        }
        return value_of(expression, {"github": self.github, "steps": self.outputs}, functions)

    def run(self, project: Path, environment: dict[str, str]) -> Ran:
        """Run all steps as GitHub would, those of GitHub itself as far as files go."""
        self.home.mkdir(parents=True)
        after = []
        for number, step in enumerate(self.steps):
            name = str(step.get("name") or step.get("uses"))
            condition = str(step.get("if", "success()")).strip()
            expression = condition.removeprefix("${{").removesuffix("}}")
            if not FUNCTION.search(expression.replace("hashFiles", "")):
                expression = f"success() && ({expression})"
            if not self.value(expression):
                self.ran.outcomes[name] = "skipped"
                continue
            if "run" in step:
                good = self._script(step, number, environment)
            else:
                done = self._action(step, project)
                good = True
                after += [done] if done else []
            self.ran.outcomes[name] = "success" if good else "failure"
        # The end of actions/cache runs after a good job only.
        for save in after if self.ran.passed else ():
            save()
        return self.ran

    def _script(self, step: dict[str, Any], number: int, environment: dict[str, str]) -> bool:
        script = self.text(step["run"])
        # What is installed here already needs no network.
        kept = "".join(line for line in script.splitlines(True) if not line.startswith(INSTALL))
        file, output, summary = (self.folder / f"{word}{number}" for word in ("script", "output", "summary"))
        file.write_text(kept)
        output.touch()
        summary.touch()
        own = {name: self.text(str(value)) for name, value in (step.get("env") or {}).items()}
        done = subprocess.run(
            ["bash", "-e", str(file)],
            cwd=self.workspace,
            env={**environment, **self._variables(), **own}
            | {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.ran.output += done.stdout
        self.ran.summary += summary.read_text()
        pairs = (line.partition("=") for line in output.read_text().splitlines())
        if "id" in step:
            self.outputs[step["id"]] = {"outputs": {key: value for key, _, value in pairs}}
        return done.returncode == 0

    def _variables(self) -> dict[str, str]:
        return {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": self.github["event_name"],
            "GITHUB_REF": self.github["ref"],
            "GITHUB_REPOSITORY": self.github["repository"],
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def _action(self, step: dict[str, Any], project: Path) -> Any:
        """Do what an action of GitHub's does with files; what it does at the end of the job."""
        given = {name: self.text(str(value)) for name, value in (step.get("with") or {}).items()}
        name, _, _ = step["uses"].partition("@")
        if name == "actions/checkout":
            shutil.copytree(project, self.workspace)
            return None
        if name == "actions/upload-artifact":
            self.ran.uploaded = self._uploaded(given)
            return None
        if name not in ("actions/cache", "actions/cache/restore", "actions/cache/save"):
            return None
        path = self._path(given["path"])
        keys = [given["key"], *given.get("restore-keys", "").split()]
        ref = self.github["ref"]

        def save() -> None:
            self.caches.save(keys[0], ref, path, self.folder)

        if name == "actions/cache/save":
            return save()
        found = self.caches.restore(keys, ref, path)
        return save if name == "actions/cache" and found != keys[0] else None

    def _path(self, text: str) -> Path:
        return self.home / text[2:] if text.startswith("~/") else self.workspace / text

    def _uploaded(self, given: dict[str, str]) -> list[str]:
        """Files that would be uploaded: without the option not those that a dot hides."""
        found: list[str] = []
        for text in given["path"].split():
            place = self._path(text)
            paths = [p for p in place.rglob("*") if p.is_file()] if place.is_dir() else [place]
            found += [p.relative_to(self.workspace).as_posix() for p in paths if p.is_file()]
        hidden = given.get("include-hidden-files") == "True"
        return sorted(p for p in found if hidden or not any(part.startswith(".") for part in Path(p).parts))

    def _hash_files(self, *patterns: str) -> str:
        paths = sorted({p for pattern in patterns for p in self.workspace.glob(pattern) if p.is_file()})
        digest = hashlib.sha256()
        for path in paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest() if paths else ""


def _shown(value: Any) -> str:
    """A value as GitHub writes it into a text."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
