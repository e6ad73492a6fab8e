"""The secret that turns patient IDs and accession numbers into what audit rows may hold."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from anomalyd.errors import ConfigError
from anomalyd.storage.folders import flush_folder

KEY_BYTES = 32
KEY_FILE = "audit.key"


def load_or_make(root: Path) -> bytes:
    """The key of this store, made (0600, flushed) at first start. The caller holds the store's lock."""
    path = root / KEY_FILE
    if not path.exists():
        partial = path.with_suffix(".tmp")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_hex(KEY_BYTES).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.rename(path)
        flush_folder(root)
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{path} is damaged: put it back from the backup, the audit log cannot be searched without it"
        )
    return key


def fingerprint(key: bytes) -> str:
    """Tells one key from another without giving it away."""
    return hashlib.sha256(b"anomalyd audit key" + key).hexdigest()[:16]


def hashed(key: bytes, text: str | None) -> str | None:
    """HMAC-SHA256 in hexadecimal of the text without the padding of its value representation; None for nothing."""
    stripped = (text or "").strip(" \0")
    return hmac.new(key, stripped.encode(), hashlib.sha256).hexdigest() if stripped else None
