"""Where the trace of an unforeseen error of a command goes, since it never goes to the user's screen."""

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from anomalyd import __version__
from anomalyd.daemon.logs import error_facts


def write_report(error: BaseException) -> Path:
    """Append type and frames of an error to a file of the user; gives its path. Holds no values, so no patient data."""
    facts = {"at": datetime.now(UTC).isoformat(), "version": __version__, **error_facts(error)}
    line = json.dumps(facts) + "\n"
    for folder in (_state_folder(), Path(tempfile.gettempdir())):
        path = folder / f"anomalyd-errors-{os.getuid()}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            continue  # a user without a writable home: the next place
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(line)
        return path
    return Path(os.devnull)


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "anomalyd"
