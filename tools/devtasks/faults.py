"""Killing, stopping and cutting off the processes of a lab for as long as one likes; see faults/README.md."""

from __future__ import annotations

import argparse
import secrets

from .base import ROOT, run, say
from .workspace import setup, tool

DEFAULT_ROUNDS = 200


def task_faults(arguments: list[str]) -> None:
    """put a lab through faults (--rounds N, --seed S, --table: all steps; others go to pytest)

    Rounds are faults at random moments, the same ones for the same seed. After each of them no board may be stranded,
    no lease lost, and none granted twice.
    """
    parser = argparse.ArgumentParser(prog="./dev faults", add_help=False, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--table", action="store_true")
    options, rest = parser.parse_known_args(arguments)

    setup()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    say(f"{options.rounds} rounds; to have the same ones again: ./dev faults --rounds {options.rounds} --seed {seed}")
    selection = [] if options.table else ["-k", "random"]
    run(
        [tool("python"), "-m", "pytest", ROOT / "faults", *selection, *rest],
        env={
            "JMP_FAULT_ROUNDS": str(options.rounds),
            "JMP_FAULT_SEED": str(seed),
            "JMP_FAULT_TABLE": "1" if options.table else "0",
        },
    )
