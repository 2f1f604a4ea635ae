"""Bearer tokens: the secret that a server and its clients share, kept in a file."""

from __future__ import annotations

import os
import stat

from ..errors import DeviceError

TOKEN_FILE = "VTAFLOW_TOKEN_FILE"
"""Environment variable that names a client's token file where no option does."""

LEAST, MOST = 16, 512


def read_token(path: str | os.PathLike[str], private: bool = False) -> str:
    """The token in a file, its only line; raises DeviceError.

    With `private`, nobody but the file's owner may read it.
    """
    where = f"token file {os.fspath(path)}"
    try:
        with open(path, "rb") as stream:
            if private and stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise DeviceError(f"{where}: others may read it, chmod 600 it")
            raw = stream.read(MOST + 2)
    except OSError as error:
        raise DeviceError(f"{where}: cannot read: {error.strerror}") from None
    token = raw.decode("ascii", "replace").strip()
    if not LEAST <= len(token) <= MOST or not token.isprintable() or " " in token:
        raise DeviceError(
            f"{where}: expected one line of {LEAST} to {MOST} printable characters, such as "
            "`openssl rand -hex 32` makes"
        )
    if not token.isascii():
        raise DeviceError(f"{where}: the token is not ASCII")
    return token
