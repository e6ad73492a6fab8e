"""The short form of `python -m kills`: two trials that overlap; and the judge sees what is amiss."""

import shutil
from pathlib import Path

import pytest

from conftest import RequirePeer
from kills.campaign import Campaign, Trial
from kills.judge import has_ended, judge_series, judge_whole
from kills.scans import tiny_analysed
from kills.table import table

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.peer]
SEED = 7


@pytest.mark.timeout(900)
def test_roles_killed_at_random_moments_lose_double_and_hold_up_nothing(
    tmp_path: Path, requires_peer: RequirePeer
) -> None:
    requires_peer("storescu")
    with Campaign(tmp_path, tiny_analysed(tmp_path / "bundle"), seed=SEED) as campaign:
        # The first while the worker still loads its models, the second in the middle of an analysis.
        begun = [campaign.strike("gateway", "receiving"), campaign.strike("all three", "analysing")]
        settled = [campaign.settle(trial) for trial in begun]
        whole = campaign.judge_whole()
        assert [text for each in (*(t.findings for t in settled), whole) for text in each.all] == [], f"seed {SEED}"
        assert all(trial.acknowledged == sum(len(s.files) for s in trial.senders) for trial in settled)
        assert all(trial.kills for trial in settled)
        assert "| all three | 1 | " in table(settled, whole)
        _the_judge_sees_what_is_amiss(campaign, settled)


def _the_judge_sees_what_is_amiss(campaign: Campaign, trials: list[Trial]) -> None:
    """An image that is not there, a result that is gone, one that came twice, one that nobody made."""
    series, other = trials[0].series, trials[0].refused[0]
    assert not has_ended(campaign.store, other, is_analysed=True)
    found = judge_series(campaign.store, campaign.pacs, series, [*series.files, *other.files[:1]])
    assert ["is not recorded" in text for text in found.lost] == [True]
    gone = campaign.pacs.stores[-1]
    kept = campaign.pacs.contents.pop(gone)
    every = [judge_series(campaign.store, campaign.pacs, trial.series, ()) for trial in trials]
    assert [f"lost: result {gone} is confirmed and not at the PACS"] == [t for found in every for t in found.all]
    campaign.pacs.contents[gone] = {*kept, "other"}
    shutil.copy(campaign.pacs.files[0], campaign.pacs.folder / "2.25.1.dcm")
    found = judge_whole(campaign.store, campaign.pacs)
    assert sorted(text.split()[0] for text in found.duplicated) == ["2", "2.25.1"]
