"""A disk or database that refuses: one line in place of a stack, since nothing of ours went wrong."""

from typing import Final

import structlog

from anomalyd.storage.trouble import StoreRefuses, trouble_of

PAUSE_S: Final = 2.0
"""What is kicked again and again, up to 20 times a second, waits so long before it asks again."""
log = structlog.get_logger()


def tell_refusal(error: BaseException, **where: str) -> bool:
    """True where the store refuses just now, which is told; False for any other error. where: who was refused."""
    trouble = trouble_of(error)
    if not isinstance(trouble, StoreRefuses):
        return False
    log.error("store.refuses", reason=str(trouble), **where)
    return True
