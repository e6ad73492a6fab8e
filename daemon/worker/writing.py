"""Result objects onto disk, to be published."""

from collections.abc import Sequence

from anomalyd.pipeline.results.objects import ResultObject
from anomalyd.storage import objects
from anomalyd.storage.engine import Store
from anomalyd.storage.publication import NewResult


def written(store: Store, made: Sequence[ResultObject]) -> tuple[NewResult, ...]:
    """The objects, their bytes flushed, in their order; until a row names them, nobody knows of the files."""
    files = objects.write_results(store, [one.data for one in made])
    return tuple(
        NewResult(one.kind.value, one.sop_class_uid, one.sop_instance_uid, one.series_uid, file)
        for one, file in zip(made, files, strict=True)
    )
