"""`make bench`: every bench of this folder, or those that are named.

PYTHONPATH=tests python -m bench [NAME ...] [--rounds N] [--records FOLDER]
"""

import argparse
import importlib
import sys
from pathlib import Path

from rich.console import Console

from bench.harness import CHECKOUT, ROUNDS, run_bench

HERE = Path(__file__).parent


def main() -> int:
    """Run and print; timings are told, never judged."""
    known = [path.stem for path in sorted(HERE.glob("*.py")) if path.stem not in ("__main__", "harness")]
    parser = argparse.ArgumentParser(prog="make bench", description=str(__doc__).partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--rounds", type=int, help=f"instead of each bench's own number ({ROUNDS} as a rule)")
    parser.add_argument("--records", type=Path, default=CHECKOUT / "docs" / "bench", metavar="FOLDER")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no bench is named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    console = Console()
    for name in arguments.names or known:
        module = importlib.import_module(f"bench.{name}")
        if not hasattr(module, "CASES"):
            continue  # something that a bench is made of
        rounds = arguments.rounds or getattr(module, "ROUNDS", ROUNDS)
        run_bench(name, module.CASES, rounds=rounds, console=console, records=arguments.records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
