"""The roles of one installation, killed at random moments while scanners send and a PACS receives.

    with Campaign(folder, TINY, seed=12) as campaign:
        trial = campaign.strike("worker")
        campaign.settle(trial)

A trial is one series that is analysed and two that are refused, sent at once by three storescu. One kill (one in ten
trials: two) falls somewhere in the life of the first; the victims are started again at once.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from anomalyd.pipeline.finding import Contrast
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, jobs_of_series, results_of
from anomalyd.storage.tables import JobState
from kills.judge import ANSWERED, CountingPacs, Findings, has_ended, judge_series, judge_whole
from kills.senders import Sender
from phantoms import PhantomWriter, WrittenSeries
from running import ROLES, Role, RunningDaemon
from waiting import NotInTime, wait_until

Victim = Literal["gateway", "dispatcher", "worker", "all three"]
Moment = Literal["receiving", "closing", "analysing", "sending"]

VICTIMS: dict[Victim, tuple[Role, ...]] = {
    "gateway": ("gateway",), "dispatcher": ("dispatcher",), "worker": ("worker",), "all three": ROLES,
}  # fmt: skip
MOMENTS: dict[Victim, tuple[Moment, ...]] = {
    "gateway": ("receiving", "receiving", "receiving", "analysing"),
    "dispatcher": ("receiving", "closing", "closing", "sending", "sending"),
    "worker": ("analysing", "analysing", "analysing", "sending"),
    "all three": ("receiving", "closing", "analysing", "sending"),
}
"""What is going on when the kill falls: mostly what the victim has a part in."""
CLOSING_S = 1.0
"""From the last acknowledgement to a job that runs."""
AGAIN = 0.1
"""Share of the trials that kill the same roles once more while they start."""
AGAIN_WITHIN_S = 3.0
LEASE_S = 5
REFUSED = PhantomWriter(contrast=Contrast.T2W, shape=(40, 64, 64), spacing_mm=(4.0, 4.0, 4.0))
"""There is no bundle for it."""


@dataclass(frozen=True)
class Analysed:
    """What is analysed, and with which bundle. limit_s: that one trial may take."""

    bundle: Path
    write: Callable[[str, Path], WrittenSeries]
    analysis_s: float
    limit_s: float


@dataclass
class Trial:
    """One series on its way, and what happened to the roles meanwhile."""

    number: int
    victim: Victim
    moment: Moment
    series: WrittenSeries
    refused: tuple[WrittenSeries, ...]
    senders: tuple[Sender, ...]
    began: float
    stored_before: int
    kills: int = 0
    took_s: float = 0.0
    findings: Findings = field(default_factory=Findings)

    @property
    def acknowledged(self) -> int:
        """Images, all series together."""
        return sum(len(sender.acknowledged) for sender in self.senders)


class Campaign:
    """Gateway, dispatcher, worker and PACS, for as many trials as wanted."""

    def __init__(self, folder: Path, analysed: Analysed, *, seed: int) -> None:
        self._folder, self._analysed, self._chance = folder, analysed, random.Random(seed)
        self._analysis_s, self._results = analysed.analysis_s, 1
        self.pacs = CountingPacs(folder / "pacs")
        self.daemon = RunningDaemon(
            folder / "run",
            destinations=[self.pacs],
            daemon={"worker": {"lease": LEASE_S}, "settle_period": 0.2, "series_quiet_period": 2},
            pipeline={"bundles": [str(analysed.bundle)], "threads": 1},
        )
        self._number = 0

    def __enter__(self) -> Self:
        self.pacs.__enter__()
        self.daemon.__enter__()
        self.store: Store = self.daemon.open_store()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()
        self.daemon.__exit__(kind, error, trace)
        self.pacs.__exit__(kind, error, trace)

    def strike(self, victim: Victim, moment: Moment | None = None) -> Trial:
        """A new series is sent, the victims are killed at a random moment (within `moment`) and started again."""
        trial = self._begin(victim, self._chance.choice(MOMENTS[victim]) if moment is None else moment)
        for sender in trial.senders:
            sender.start()
        try:
            self._wait_for(trial)
            self._kill(trial)
            if self._chance.random() < AGAIN:
                self._let_pass(self._chance.uniform(0.0, AGAIN_WITHIN_S), until=lambda: False)
                self._kill(trial)
        except NotInTime as exc:
            trial.findings.stuck.append(f"trial {trial.number} ({victim}, {trial.moment}): {exc}")
        return trial

    def settle(self, trial: Trial) -> Trial:
        """Everything of the trial has ended, or its time is over; judged."""
        for sender in trial.senders:
            sender.join()
            if not sender.is_done:
                left = len(sender.files) - len(sender.acknowledged)
                trial.findings.stuck.append(f"{left} images of trial {trial.number} were never acknowledged")
        every = (trial.series, *trial.refused)
        try:
            for series in every:
                wait_until(
                    lambda it=series: has_ended(self.store, it, is_analysed=it is trial.series),  # type: ignore[misc]  # the loop's value
                    limit_s=self._analysed.limit_s,
                    what=f"trial {trial.number} ({trial.victim}, {trial.moment}): {series.series_uid} ends",
                    give_up=lambda: "".join(self.daemon.ended(role) for role in ROLES),
                )
        except NotInTime as exc:
            trial.findings.stuck.append(str(exc))
        for series, sender in zip(every, trial.senders, strict=True):
            trial.findings.add(judge_series(self.store, self.pacs, series, sender.acknowledged))
        self._learn(trial)
        trial.took_s = time.monotonic() - trial.began
        return trial

    def judge_whole(self) -> Findings:
        """When all trials are settled; the audit log by its command, as an administrator asks for it."""
        found = judge_whole(self.store, self.pacs)
        said = self.daemon.command("audit", "verify")
        if said.returncode != 0:
            found.lost.append(f"anomalyd audit verify: {said.stdout}{said.stderr}")
        return found

    def _begin(self, victim: Victim, moment: Moment) -> Trial:
        self._number += 1
        folder = self._folder / f"sent-{self._number}"
        series = self._analysed.write(f"trial {self._number}", folder / "analysed")
        refused = tuple(
            PhantomWriter(
                contrast=REFUSED.contrast, shape=REFUSED.shape, spacing_mm=REFUSED.spacing_mm,
                seed=f"trial {self._number} {name}",
            ).write(folder / name)
            for name in ("left", "right")
        )  # fmt: skip
        senders = tuple(
            Sender(self.daemon, each.files, calling=f"SCANNER{k}", limit_s=self._analysed.limit_s)
            for k, each in enumerate((series, *refused))
        )
        return Trial(
            self._number, victim, moment, series, refused, senders, time.monotonic(), len(self.pacs.stores)
        )  # fmt: skip

    def _wait_for(self, trial: Trial) -> None:
        """Returns at a random point of the trial's moment."""
        limit_s, share = self._analysed.limit_s, self._chance.random()
        if trial.moment == "receiving":
            wanted = int(share * sum(len(sender.files) for sender in trial.senders))
            wait_until(lambda: trial.acknowledged >= wanted, limit_s=limit_s, what=f"{wanted} images", step_s=0.002)
        elif trial.moment == "closing":
            wait_until(lambda: all(s.is_done for s in trial.senders), limit_s=limit_s, what="all sent", step_s=0.01)
            self._let_pass(share * CLOSING_S, until=lambda: False)
        elif trial.moment == "analysing":
            running = (JobState.LEASED, *ANSWERED)
            wait_until(lambda: self._is_job(trial, *running), limit_s=limit_s, what="a job that runs", step_s=0.02)
            self._let_pass(share * self._analysis_s, until=lambda: self._is_job(trial, *ANSWERED))
        else:
            wanted = trial.stored_before + 1 + int(share * self._results)
            wait_until(lambda: self._is_job(trial, *ANSWERED), limit_s=limit_s, what="an answer", step_s=0.02)
            wait_until(
                lambda: len(self.pacs.stores) >= wanted, limit_s=limit_s, what=f"result {wanted}", step_s=0.002
            )  # fmt: skip

    def _kill(self, trial: Trial) -> None:
        """SIGKILL to the roles and to nobody else: what they started must notice by itself. Then they start again."""
        victims = VICTIMS[trial.victim]
        for role in victims:
            os.kill(self.daemon.children[role].pid, signal.SIGKILL)
        for role in victims:
            self.daemon.children[role].wait()
        trial.kills += 1
        for role in self._chance.sample(victims, len(victims)):
            self.daemon.start(role)

    def _jobs(self, trial: Trial) -> tuple[Job, ...]:
        return jobs_of_series(self.store, trial.series.study_uid, trial.series.series_uid)

    def _is_job(self, trial: Trial, *states: JobState) -> bool:
        return any(job.state in states for job in self._jobs(trial))

    def _learn(self, trial: Trial) -> None:
        """How long an analysis takes here and how many results it makes, for the moments of the next trials."""
        for job in self._jobs(trial):
            if job.state is JobState.DONE and job.started_at and job.finished_at:
                self._analysis_s = (job.finished_at - job.started_at).total_seconds()
                self._results = len(results_of(self.store, job.id))

    @staticmethod
    def _let_pass(seconds: float, *, until: Callable[[], bool]) -> None:
        """A random moment is a moment in time."""
        ends = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() >= ends or until(), limit_s=seconds + 60, what="a moment", step_s=0.01)
