"""An answer belongs to whoever asked: pynetdicom's own thread must not take it away."""

import threading
from collections.abc import Iterator

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import time by pynetdicom

from anomalyd.daemon import scu
from ports import free_port


@pytest.fixture
def association() -> Iterator[Association]:
    port, server_entity, entity = free_port(), AE(), AE()
    server_entity.add_supported_context(Verification)
    server = server_entity.start_server(("127.0.0.1", port), block=False)
    assert server is not None
    entity.add_requested_context(Verification)
    entity.dimse_timeout = 5
    opened = entity.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_CONN_OPEN, scu.prepare)])
    assert opened.is_established
    yield opened
    if opened.is_established:
        opened.release()
    server.shutdown()


def test_an_answer_waits_for_the_one_who_asked(association: Association) -> None:
    answer = C_ECHO()
    association.dimse.msg_queue.put((1, answer))
    assert association.dimse.get_msg(block=False) == (None, None)  # what the association's own thread does all the time
    assert association.dimse.get_msg(block=True) == (1, answer)


@pytest.mark.slow
def test_no_answer_is_lost_while_other_threads_compute(association: Association) -> None:
    """Without `prepare` one in thirty is lost here."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(20_000))

    others = [threading.Thread(target=compute) for _ in range(3)]
    for thread in others:
        thread.start()
    try:
        assert [association.send_c_echo().get("Status") for _ in range(100)] == [0x0000] * 100
    finally:
        ended.set()
        for thread in others:
            thread.join()


def test_a_rejection_that_pynetdicom_takes_for_a_failed_connection_is_still_known(association: Association) -> None:
    answer = A_ASSOCIATE()
    answer.result, answer.result_source, answer.diagnostic = 1, 1, 1
    association.dul.to_user_queue.put(answer)
    association.abort()
    assert not association.is_rejected
    assert scu.rejection(association) is answer
    assert scu.rejection(association) is None


def test_an_abort_alone_is_no_rejection(association: Association) -> None:
    association.abort()
    assert scu.rejection(association) is None
