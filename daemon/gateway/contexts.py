"""What the door negotiates: SOP classes and transfer syntaxes (issue: MR in its three forms, kept as received)."""

from typing import Final, Literal

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by a module-level __getattr__

from anomalyd.daemon.gateway import commitment

Unwanted = Literal["reject_context", "status"]

WANTED: Final = frozenset((MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage))
"""What is stored: the SOP classes that a scanner sends a brain series in."""

UNCOMPRESSED: Final = (
    ExplicitVRLittleEndian,  # first: where a sender offers several in one context, nobody need compress for us
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
LOSSLESS: Final = (JPEGLosslessSV1, JPEGLossless, JPEGLSLossless, JPEG2000Lossless, RLELossless)


def supported_contexts(unwanted: Unwanted) -> list[PresentationContext]:
    """Verification, storage commitment and MR; with `status` also every other storage class, answered 0x0122 then."""
    contexts = reporter_contexts()
    contexts += [build_context(sop_class, [*UNCOMPRESSED, *LOSSLESS]) for sop_class in sorted(WANTED)]
    if unwanted == "status":
        others = (context.abstract_syntax for context in AllStoragePresentationContexts)
        contexts += [build_context(uid, [*UNCOMPRESSED, *LOSSLESS]) for uid in others if uid and uid not in WANTED]
    return contexts


def reporter_contexts() -> list[PresentationContext]:
    """What a PACS that only brings reports of a storage commitment may use: it may not store."""
    return [build_context(Verification, list(UNCOMPRESSED)), commitment.context([*UNCOMPRESSED])]
