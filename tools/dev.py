"""The developer's entry point behind ./dev: sets up the workspace and runs its tasks.

Runs on a bare Python 3.11 with nothing but the standard library.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable

from devtasks.base import ROOT, CommandFailed, DevError
from devtasks.bench import task_bench
from devtasks.checks import task_lint, task_types
from devtasks.demo import task_demo
from devtasks.documentation import task_docs
from devtasks.faults import task_faults
from devtasks.suite import task_test
from devtasks.workspace import lock, setup


def task_setup(_: list[str]) -> None:
    """install the workspace into .venv"""
    setup()


def task_lock(_: list[str]) -> None:
    """resolve the newest versions and write them to constraints.txt"""
    lock()


def task_clean(_: list[str]) -> None:
    """remove .venv, caches and everything that the tasks made"""
    for pattern in (".venv", ".venv-*", ".cache", ".*_cache", ".hypothesis", "demo-artifacts", "docs/_build"):
        for path in ROOT.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in ROOT.rglob("__pycache__"):
        shutil.rmtree(path, ignore_errors=True)


TASKS: dict[str, Callable[[list[str]], None]] = {
    "demo": task_demo,
    "test": task_test,
    "lint": task_lint,
    "types": task_types,
    "docs": task_docs,
    "bench": task_bench,
    "faults": task_faults,
    "setup": task_setup,
    "lock": task_lock,
    "clean": task_clean,
}


def main() -> int:
    """Run one task; return the exit code."""
    summaries = {name: (task.__doc__ or "").splitlines()[0] for name, task in TASKS.items()}
    listing = "\n".join(f"  {name:<8}{summary}" for name, summary in summaries.items())
    parser = argparse.ArgumentParser(
        prog="./dev",
        description="Sets up the workspace and runs its tasks.",
        epilog=f"tasks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", nargs="?", choices=TASKS, metavar="TASK", help="one of the tasks below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="handed to the task")
    options = parser.parse_args()
    if options.task is None:
        parser.print_help()
        return 0
    try:
        TASKS[options.task](options.arguments)
    except CommandFailed as error:
        print(f"dev {options.task}: {error}", file=sys.stderr)
        return error.code if error.code > 0 else 1
    except DevError as error:
        print(f"dev {options.task}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
