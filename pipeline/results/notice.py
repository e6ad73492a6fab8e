"""The notice that a series was not analysed: a page of text in the study, where else there would be nothing to see."""

import warnings
from typing import Final, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import SecondaryCaptureImageStorage

from anomalyd.pipeline.elements import Elements
from anomalyd.pipeline.results.colour import RGB8
from anomalyd.pipeline.results.header import Origin
from anomalyd.pipeline.results.legend import wrapped
from anomalyd.pipeline.results.objects import NoticeContext, ResultKind, ResultObject
from anomalyd.pipeline.results.secondary_capture import bare_picture, comments, fill
from anomalyd.pipeline.results.stamp import ascii_text, item, key_of, part10
from anomalyd.pipeline.results.version import RESEARCH_USE, version_line

SIDE: Final = 512  # pixels; taller where the reason is long
_FONT, _GAP = 20, 16
_WARM, _WHITE, _GREY = (255, 190, 90), (255, 255, 255), (170, 170, 170)
_Line = tuple[str, tuple[int, int, int]]


def build_notice(context: NoticeContext) -> ResultObject:
    """One Secondary Capture that says so and why, and refers to each received object; the same bytes each time.

    It needs no geometry: there can be one of any series.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as in build_results: values of the source are copied as they are
        origin, objects = _origin(context)
        picture = notice_picture(origin.series_number, context)
        kind = ResultKind.INELIGIBLE if context.model is None else ResultKind.NOT_ANALYSED
        key = key_of(origin, context)
        dataset = bare_picture(origin, context, kind, (picture.shape[0], picture.shape[1]))
        dataset.pop("PositionReferenceIndicator", None)  # goes with a frame of reference, which a page has not
        dataset.ImageComments = comments(f"Not analysed: {context.reason}. {version_line(context.model)}.")
        dataset.ReferencedImageSequence = [
            item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid) for uid, sop_class in objects
        ]
        uid = key.instance(kind, 1)
        dataset.SOPInstanceUID, dataset.InstanceNumber = uid, 1
        fill(dataset, picture)
        return ResultObject(kind, SecondaryCaptureImageStorage, uid, key.series(kind), 1, part10(dataset))


def _origin(context: NoticeContext) -> tuple[Origin, list[tuple[str, str]]]:
    """The series by its object with the least UID; SOP Instance UID and SOP Class UID of each object."""
    views = [(header, Elements.of(header)) for header in context.headers]
    views.sort(key=lambda view: view[1].text("SOPInstanceUID"))
    names = [(elements.text("SOPInstanceUID"), elements.text("SOPClassUID")) for _, elements in views]
    return Origin(*views[0]), names


def notice_picture(series_number: int | None, context: NoticeContext) -> RGB8:
    """(rows, columns, 3); no text of the patient."""
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(_FONT))
    series = "This series" if series_number is None else f"Series {series_number}"
    what = "was not chosen for analysis" if context.model is None else "could not be judged"
    paragraphs: tuple[_Line, ...] = (
        (f"{RESEARCH_USE}, not for diagnosis", _WARM),
        ("NOT ANALYSED", _WHITE),
        (f"{series} was received, and {what}:", _WHITE),
        (ascii_text(context.reason), _WARM),
        ("That there are no marks says nothing about the brain.", _WHITE),
        (version_line(context.model), _GREY),
    )
    room = SIDE - 2 * _GAP
    broken = [(wrapped([text], lambda text: round(font.getlength(text)), room), colour) for text, colour in paragraphs]
    line = sum(font.getmetrics())
    height = _GAP + sum(len(lines) * line + _GAP for lines, _ in broken)
    page = Image.new("RGB", (SIDE, max(SIDE, height)))
    pen, y = ImageDraw.Draw(page), _GAP
    for lines, colour in broken:
        for text in lines:
            pen.text((_GAP, y), text, font=font, fill=colour)
            y += line
        y += _GAP
    return np.asarray(page)
