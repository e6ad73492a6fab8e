"""The measures of an evaluation, against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from anomalyd.pipeline.train.agreement import RECALLS, dice, lesion_counts, rank


def every_cut(values: NDArray[np.float32], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Average precision (sum of precision x step of recall over all cuts, highest first) and the best Dice, slowly."""
    before, total, best = 0.0, 0.0, 0.0
    for cut in sorted(set(values.tolist()), reverse=True):
        marked = values >= cut
        hits = int((marked & truth).sum())
        recall = hits / int(truth.sum())
        total += hits / int(marked.sum()) * (recall - before)
        best, before = max(best, dice(marked, truth)), recall
    return total, best


@given(st.lists(st.tuples(st.integers(-3, 6), st.booleans()), min_size=1, max_size=60))
def test_ranking_is_the_sum_over_every_cut_ties_and_all(pairs: list[tuple[int, bool]]) -> None:
    values = np.array([value for value, _ in pairs], dtype=np.float32)
    truth = np.array([is_true for _, is_true in pairs])
    truth[0] = True
    ranking = rank(values, truth)
    assert (ranking.auprc, ranking.best_dice) == pytest.approx(every_cut(values, truth))
    assert dice(values >= ranking.best_cut, truth) == pytest.approx(ranking.best_dice)


def test_a_perfect_map_has_precision_one_at_every_recall() -> None:
    ranking = rank(np.array([3, 2, 1, 0], dtype=np.float32), np.array([True, True, False, False]))
    assert (ranking.auprc, ranking.best_dice, ranking.best_cut) == (1.0, 1.0, 2.0)
    assert ranking.precisions.tolist() == [1.0] * len(RECALLS)


def test_a_map_that_says_nothing_reaches_the_share_of_lesion_and_no_more() -> None:
    truth = np.arange(100) < 7
    assert rank(np.zeros(100, dtype=np.float32), truth).auprc == pytest.approx(0.07)


def test_what_a_brain_mask_misses_counts_as_found_last() -> None:
    values = np.array([5.0, 4.0, -np.inf, 1.0], dtype=np.float32)
    assert rank(values, np.array([True, False, True, False])).auprc == pytest.approx(0.5 * 1.0 + 0.5 * 0.5)


def test_two_empty_masks_agree() -> None:
    nothing = np.zeros((2, 2, 2), dtype=np.bool_)
    assert dice(nothing, nothing) == 1.0
    assert dice(nothing, ~nothing) == 0.0


def test_one_shared_voxel_finds_a_lesion_and_makes_a_finding_true() -> None:
    lesion = np.zeros((6, 6, 12), dtype=np.bool_)
    lesion[1:3, 1:3, 1:3] = True
    lesion[3, 3, 3] = True  # touches the first by a corner: one lesion
    lesion[1, 1, 9] = True
    findings = np.zeros(lesion.shape, dtype=np.uint16)
    findings[3:5, 3, 3] = 1
    findings[5, 5, 6] = 4  # numbers need not be in a row
    counts = lesion_counts(findings, lesion)
    assert (counts.lesions, counts.found, counts.findings, counts.false) == (2, 1, 2, 1)
    assert (counts.recall, counts.precision) == (0.5, 0.5)


def test_without_lesions_there_is_no_recall_and_without_findings_no_precision() -> None:
    nothing = np.zeros((3, 3, 3), dtype=np.bool_)
    counts = lesion_counts(nothing.astype(np.uint16), nothing)
    assert np.isnan([counts.recall, counts.precision]).all()
