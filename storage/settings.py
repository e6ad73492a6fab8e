"""The `storage:` section of config.yaml."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from anomalyd.ids import byte_count, duration_s


def _age(value: Any) -> Any:
    return value if isinstance(value, timedelta) else timedelta(seconds=duration_s(value))


Age = Annotated[timedelta, BeforeValidator(_age), Field(ge=timedelta(0))]
Bytes = Annotated[int, BeforeValidator(byte_count), Field(ge=0)]


class StorageSettings(BaseModel):
    """Where received images, results, index and audit log lie, and how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    root: Path = Path("anomalyd-data")
    """Directory of everything that is kept; made 0700 at first start."""
    url: str | None = None
    """SQLAlchemy address of the database; absent: `anomalyd.db` under root (SQLite)."""
    disk_floor: Bytes = 5_000_000_000
    """New associations are rejected while fewer bytes than this are free under root."""
    keep_for: Age = timedelta(days=90)
    """Received series and results that nobody waits for any more are removed after this age ("90 d")."""

    @property
    def database_url(self) -> str:
        """The address in force."""
        return self.url or f"sqlite:///{self.root / 'anomalyd.db'}"
