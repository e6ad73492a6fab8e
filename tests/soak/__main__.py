"""The soak: many images from many senders, with faults among them; exit code 1 where one is lost or memory grows.

PYTHONPATH=tests python -m soak [--images 50000] [--senders 8] [--seed N]
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from soak.outcome import GROWTH_LIMIT, compare, table
from soak.senders import Senders
from soak.watching import Watching


def main() -> int:
    """Parses, sends, compares, prints."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of all that is drawn")
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="anomalyd-soak-") as name, Watching(Path(name)) as watching:
        senders = Senders(watching.daemon.port, options.images, options.senders, seed=options.seed)
        senders.run()
        outcome = compare(watching, senders)
    sys.stdout.write(f"{table(outcome)}\n")
    return int(outcome.is_bad or outcome.growth > GROWTH_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
