"""The lock by which an embedded server sees whether it has users."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from infobatch_server.process.users_lock import UsersLock


def test_a_server_with_two_users_is_unused_after_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "users.lock"
    users = UsersLock(path)
    user_locks = [os.open(path, os.O_RDWR) for _ in range(2)]
    for handle in user_locks:
        fcntl.flock(handle, fcntl.LOCK_SH)
    for handle in user_locks:
        assert not users.is_unused()
        os.close(handle)
    assert users.is_unused()
    users.close()
