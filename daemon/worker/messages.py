"""What the worker and its child say to each other over their pipe: frozen values, one process each side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anomalyd.pipeline.finding import Reason
from anomalyd.storage.jobs import Job
from anomalyd.storage.predecessors import Predecessor
from anomalyd.storage.publication import NewResult


@dataclass(frozen=True, slots=True)
class Task:
    """Parent to child: analyse this."""

    job: Job


@dataclass(frozen=True, slots=True)
class Cancel:
    """Parent to child: the lease is lost; stop at the next stage."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Child to parent: loaded and warm. bundles: digests. trouble: what the canary showed to be wrong, else empty."""

    bundles: tuple[str, ...]
    device: str
    load_s: float
    canary_s: float
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class CannotStart:
    """Child to parent, its last word: bundle or device cannot be used. is_configuration: exit 78, else 70."""

    text: str
    is_configuration: bool


@dataclass(frozen=True, slots=True)
class StageReached:
    """Child to parent: the analysis goes on with this stage."""

    stage: str


@dataclass(frozen=True, slots=True)
class Analysed:
    """Child to parent: results lie on disk, to be published.

    report: without patient data. follows: the answer that this one takes the place of. destination: the only one that
    gets them, of a rejection note; None: as the configuration says.
    """

    results: tuple[NewResult, ...]
    report: Mapping[str, Any]
    follows: Predecessor | None = None
    destination: str | None = None


@dataclass(frozen=True, slots=True)
class WithheldScan:
    """Child to parent: the bundle cannot judge this scan. results: the notice that says so, on disk."""

    text: str
    report: Mapping[str, Any]
    results: tuple[NewResult, ...] = ()


@dataclass(frozen=True, slots=True)
class NotEligible:
    """Child to parent: the pixels are not what the headers promised; the series is refused with this reason."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Failed:
    """Child to parent: no result. is_retryable: another try may go better. leaves: the child ends after saying so.

    is_of_store: disk or database refused; that is no fault of the job, and the try is not counted.
    """

    text: str
    is_retryable: bool
    leaves: bool = False
    is_of_store: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Child to parent: stopped as told."""


Answer = Analysed | WithheldScan | NotEligible | Failed | Cancelled
FromChild = Ready | CannotStart | StageReached | Answer
ToChild = Task | Cancel
