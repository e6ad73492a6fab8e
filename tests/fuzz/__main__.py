"""`make fuzz`: the long run, with a table of what every case was answered with; exit code 1 where one has a finding."""

import argparse
import sys
import tempfile
from pathlib import Path

from fuzz.campaign import AT_THE_DOOR, IN_PROCESS, KINDS, Tally, kept_seeds, look, seeds, try_files, try_visits
from fuzz.visits import RunningGateway

CASES = {"peek": 11_000, "file": 2000, "series": 500, "dataset": 4000, "pdu": 5000}
"""Of a whole run; a quarter of an hour of one core."""


def _fresh(first: int, share: float) -> list[str]:
    return [seed for kind in KINDS for seed in seeds(kind, range(first, first + int(CASES[kind] * share)))]


def main() -> int:
    """Parses, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases of a whole run")
    parser.add_argument("--first", type=int, default=0, help="number of the first: another one, other cases")
    parser.add_argument("--seed", action="append", default=[], help="kind:number, only these; repeat it")
    parser.add_argument("--stock", action="store_true", help="pynetdicom's own classes at the door")
    options = parser.parse_args()
    wanted = options.seed or [*kept_seeds(), *_fresh(options.first, options.share)]
    tally = Tally()
    try_files([seed for seed in wanted if seed.split(":")[0] in IN_PROCESS], tally)
    visits = [seed for seed in wanted if seed.split(":")[0] in AT_THE_DOOR]
    with tempfile.TemporaryDirectory() as folder, RunningGateway(Path(folder), is_fast=not options.stock) as gateway:
        try_visits(visits, gateway, tally)
        gateway.restarted()
        look(gateway, ["the restart"], tally)
    sys.stdout.write("\n".join([*tally.found, tally.table(), ""]))
    return int(bool(tally.found))


if __name__ == "__main__":
    raise SystemExit(main())
