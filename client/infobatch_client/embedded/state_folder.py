"""Chooses the folder of an embedded server's state: the requested one, or a local one in its place."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from infobatch_client.embedded.network_fs import mounts_of_this_process, network_file_system
from infobatch_client.user_warnings import warn_user
from infobatch_stream.errors import ConfigError

__all__ = ["chosen_state_folder", "state_folder"]

_DEFAULT = ".infobatch"


def state_folder(state_dir: str | os.PathLike[str] | None, mountinfo: str | None = None) -> Path:
    """The folder, absolute; created if it doesn't exist.

    File locks decide which server a folder has, and those of network file systems don't work, or only on one node. A
    folder on a network file system is replaced by a local one, with a warning.

    Args:
        state_dir: the user's choice; None for ./.infobatch.
        mountinfo: in the form of /proc/self/mountinfo; None takes that of this process.

    Raises:
        ConfigError: the folder can't be created or used, or there is no local one.
    """
    mounts = mounts_of_this_process() if mountinfo is None else mountinfo
    requested = Path(state_dir or _DEFAULT).absolute()
    kind = network_file_system(requested.resolve(), mounts)
    if kind is None:
        return _create(requested)
    of_user = _local_folders()
    if (local_kind := network_file_system(of_user, mounts)) is not None:
        raise ConfigError(
            f"the embedded score server can't keep its state in {requested} ({kind}), nor in {of_user.parent} "
            f"({local_kind}): both are on network file systems; pass state_dir= with a local folder, or url= of a "
            "server of your own"
        )
    local = _local_for(requested)
    for folder in (of_user, local):
        _create(folder, private=True)
    warn_user(
        f"{requested} is on a network file system ({kind}): the embedded score server keeps its state in {local}; pass "
        "state_dir= with a local folder to choose another",
    )
    return local


def chosen_state_folder(state_dir: str | os.PathLike[str] | None, mountinfo: str | None = None) -> Path:
    """The folder that `state_folder` returns for the same arguments; nothing is created, checked or warned of."""
    mounts = mounts_of_this_process() if mountinfo is None else mountinfo
    requested = Path(state_dir or _DEFAULT).absolute()
    return requested if network_file_system(requested.resolve(), mounts) is None else _local_for(requested)


def _local_folders() -> Path:
    return Path(tempfile.gettempdir()).resolve() / f"infobatch-{os.getuid()}"


def _local_for(requested: Path) -> Path:
    return _local_folders() / hashlib.sha256(os.fsencode(requested.resolve())).hexdigest()[:32]


def _create(folder: Path, *, private: bool = False) -> Path:
    """The folder, created if missing; a private one must belong to this user alone, as others may write beside it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
        status = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"the embedded score server can't keep its state in {folder}: {error}; pass state_dir=, or url= of a "
            "server of your own"
        ) from error
    if private and (not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077):
        raise ConfigError(
            f"the embedded score server can't keep its state in {folder}, which is not a folder of this user alone; "
            "remove it, or pass state_dir= with a local folder"
        )
    return folder
