"""All result objects of one analysis, in the order in which they are sent."""

import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Final

from anomalyd.pipeline.results.header import Source, read_source
from anomalyd.pipeline.results.heatmap import build_heatmaps
from anomalyd.pipeline.results.objects import ResultContext, ResultObject
from anomalyd.pipeline.results.parametric_map import build_parametric_map
from anomalyd.pipeline.results.score_map import build_score_maps
from anomalyd.pipeline.results.seg import build_segmentation
from anomalyd.pipeline.results.structured_report import build_structured_report
from anomalyd.pipeline.results.summary import build_summary
from anomalyd.pipeline.terms import DEFAULT_KINDS, ResultKind

Builder = Callable[[Source, ResultContext], Iterable[ResultObject]]


def build_results(context: ResultContext, kinds: Collection[ResultKind] = DEFAULT_KINDS) -> tuple[ResultObject, ...]:
    """The wanted kinds: what images there are first, then what refers to them (RESULTS 0).

    A segmentation is made only where something was found, the structured report always. The same context gives the
    same bytes. Raises Ineligible where no result could refer to the source.
    """
    with warnings.catch_warnings():
        # Values of the source that break their representation are copied as they are; pydicom would say so each time.
        warnings.simplefilter("ignore", UserWarning)
        source = read_source(context.headers, context.volume)
        wanted = [build for kind, build in BUILDERS.items() if kind in kinds]
        return tuple(made for build in wanted for made in build(source, context))


def _segmentation(source: Source, context: ResultContext) -> Iterable[ResultObject]:
    return (build_segmentation(source, context),) if context.finding.lesions else ()


def _summary(source: Source, context: ResultContext) -> Iterable[ResultObject]:
    return (build_summary(source, context),)


def _report(source: Source, context: ResultContext) -> Iterable[ResultObject]:
    return (build_structured_report(source, context),)


def _labelmap(source: Source, context: ResultContext) -> Iterable[ResultObject]:
    return (build_segmentation(source, context, ResultKind.LABELMAP),) if context.finding.lesions else ()


def _parametric_map(source: Source, context: ResultContext) -> Iterable[ResultObject]:
    return (build_parametric_map(source, context),)


BUILDERS: Final[dict[ResultKind, Builder]] = {
    ResultKind.HEATMAP: build_heatmaps,
    ResultKind.SUMMARY: _summary,
    ResultKind.SEG: _segmentation,
    ResultKind.SCORE_MAP: build_score_maps,
    ResultKind.PARAMETRIC_MAP: _parametric_map,
    ResultKind.LABELMAP: _labelmap,
    ResultKind.SR: _report,
}
"""In the order of sending."""
