"""All result objects of one analysis, in the order in which they are sent."""

import warnings

from anomalyd.pipeline.results.header import read_source
from anomalyd.pipeline.results.heatmap import build_heatmaps
from anomalyd.pipeline.results.objects import ResultContext, ResultObject
from anomalyd.pipeline.results.seg import build_segmentation


def build_results(context: ResultContext) -> tuple[ResultObject, ...]:
    """Heatmaps, one for each source slice, then the SEG if anything was found (RESULTS 0).

    The same context gives the same bytes. Raises Ineligible where no result could refer to the source.
    """
    with warnings.catch_warnings():
        # Values of the source that break their representation are copied as they are; pydicom would say so each time.
        warnings.simplefilter("ignore", UserWarning)
        source = read_source(context.headers, context.volume)
        heatmaps = tuple(build_heatmaps(source, context))
        return (*heatmaps, build_segmentation(source, context)) if context.finding.lesions else heatmaps
