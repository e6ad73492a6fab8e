"""What settings are made of: sections that know their keys, durations, sizes, ports."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from anomalyd.ids import byte_count, duration_s

Seconds = Annotated[float, BeforeValidator(duration_s)]
PositiveSeconds = Annotated[float, BeforeValidator(duration_s), Field(gt=0)]
ByteCount = Annotated[int, BeforeValidator(byte_count), Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A group of keys; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
