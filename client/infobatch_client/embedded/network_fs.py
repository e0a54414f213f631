"""Says which paths lie on a network file system, from the kernel's list of mounts."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["mounts_of_this_process", "network_file_system"]

_NETWORK = frozenset(
    {"9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre"}
    | {"ncp", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"}
)
# FUSE file systems say which one they are after a dot.
_NETWORK_FUSE = frozenset(
    {"blobfuse2", "ceph", "ceph-fuse", "cvmfs2", "davfs", "gcsfuse", "geesefs", "glusterfs", "goofys", "juicefs"}
    | {"mfs", "moosefs", "mount-s3", "mountpoint-s3", "nfs", "rclone", "s3fs", "seaweedfs", "smbnetfs", "sshfs"}
)


def mounts_of_this_process() -> str:
    """/proc/self/mountinfo; "" if the system has none."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def network_file_system(path: str | os.PathLike[str], mountinfo: str) -> str | None:
    """The type of the network file system that holds a path; None if it is local or unknown.

    Args:
        path: absolute, links resolved; it need not exist.
        mountinfo: in the form of /proc/self/mountinfo (proc(5)).

    Example:
        >>> network_file_system("/home/ann", "1 0 0:1 / / rw - ext4 /dev/sda rw\\n2 1 0:2 / /home rw - nfs4 srv:/h rw")
        'nfs4'
    """
    wanted = Path(path).parts
    longest, kind = -1, ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, of = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(_plain(fields[4])).parts
        # A later mount on the same point hides the earlier one.
        if len(point) >= longest and wanted[: len(point)] == point:
            longest, kind = len(point), of[0]
    return kind if _is_network(kind) else None


def _is_network(kind: str) -> bool:
    family, _, member = kind.partition(".")
    return member in _NETWORK_FUSE if family in ("fuse", "fuseblk") else family in _NETWORK


def _plain(text: str) -> str:
    """Blanks and similar characters are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
