"""`make demo`: a scanner's send, the analysis, and the way back to a PACS, all on this machine.

    PYTHONPATH=tests python -m demo [--dir FOLDER] [--out demo-output]

Exit 0 only if the results of every analysed series were read back from the PACS and every other series was explained.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from demo.head import NoAtlas
from demo.run import Unusable, run
from waiting import NotInTime


def main() -> int:
    """Parse, run; what goes wrong is a sentence."""
    parser = argparse.ArgumentParser(prog="make demo", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="your own DICOM files instead of the made head")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="FOLDER")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        return run(console, arguments.out.absolute(), arguments.dir)
    except (NoAtlas, NotInTime, Unusable) as exc:
        console.print("[bold red]The demo did not work:[/]", str(exc))
        console.print(f"The daemon's log: {arguments.out / 'daemon' / 'serve.out'}")
    except KeyboardInterrupt:
        console.print("interrupted")
    return 1


if __name__ == "__main__":
    sys.exit(main())
