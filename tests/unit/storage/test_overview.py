from datetime import timedelta

from anomalyd.ids import SeriesUID
from anomalyd.storage import deliveries, overview
from anomalyd.storage.tables import DeliveryState
from stored import SteppedStore


def test_an_empty_store_counts_nothing_and_has_no_ages(stepped: SteppedStore) -> None:
    counted = overview.counts(stepped.store)
    assert (counted.series, counted.instances, counted.jobs, counted.deliveries) == ({}, {}, {}, {})
    assert counted.oldest_receiving_at is counted.oldest_queued_at is counted.oldest_due_at is None


def test_counts_and_oldest_ages(stepped: SteppedStore) -> None:
    began = stepped.clock.now
    stepped.done("pacs", "archive")
    stepped.clock.step(60)
    stepped.queued(series=SeriesUID("1.2.3.1"))
    stepped.clock.step(60)
    stepped.queued(series=SeriesUID("1.2.3.2"))
    stepped.arrive(1, series=SeriesUID("1.2.3.3"))
    counted = overview.counts(stepped.store)
    assert counted.series == {"queued": 3, "receiving": 1}
    assert counted.instances == {"stored": 10}
    assert counted.jobs == {"done": 1, "queued": 2}
    assert counted.deliveries == {"due": 4}
    assert counted.oldest_due_at == began
    assert counted.oldest_queued_at == began + timedelta(seconds=60)
    assert counted.oldest_receiving_at == began + timedelta(seconds=120)


def test_deliveries_are_shown_in_groups_until_they_are_settled(stepped: SteppedStore) -> None:
    stepped.done("pacs", "archive", results=3)
    ids = [row.id for row in deliveries.due(stepped.store, destination="pacs")]
    deliveries.mark_refused(stepped.store, ids[:2], "no", status=0x0122)
    deliveries.mark_confirmed(stepped.store, ids[2:], "response")
    groups = {(group.destination, group.state): group for group in overview.delivery_groups(stepped.store)}
    assert set(groups) == {("archive", DeliveryState.DUE), ("pacs", DeliveryState.REFUSED)}
    refused = groups["pacs", DeliveryState.REFUSED]
    assert (refused.objects, refused.error) == (2, "no")


def test_senders_are_told_with_their_newest_image(stepped: SteppedStore) -> None:
    stepped.closed(3)
    stepped.closed(2, series=SeriesUID("1.2.3.1"))
    (source,) = overview.sources(stepped.store)
    assert (source.calling_ae, source.address, source.images) == ("SCANNER", "10.0.0.7", 5)
    assert source.last_at == stepped.clock.now
