"""Which mount a path is on, as /proc/self/mountinfo has it, and whether that is a network file system."""

from __future__ import annotations

import pytest

from infobatch_client.embedded.network_fs import mounts_of_this_process, network_file_system

ROOT = "21 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard"
DISKS = "nfs nfs4 cifs smb3 lustre gpfs beegfs ceph 9p afs glusterfs orangefs wekafs"
FUSE = "sshfs glusterfs gcsfuse s3fs juicefs rclone mountpoint-s3"


def mounts(*lines: str) -> str:
    return "\n".join((ROOT, *lines)) + "\n"


def on(point: str, kind: str, more: str = "shared:2 master:7") -> str:
    return f"36 21 0:31 / {point} rw,noatime {more} - {kind} server:/export rw,vers=4.2"


@pytest.mark.parametrize("kind", [*DISKS.split(), *(f"fuse.{name}" for name in FUSE.split())])
def test_network_file_systems_are_told_by_type(kind: str) -> None:
    assert network_file_system("/data/ann/.infobatch", mounts(on("/data", kind))) == kind


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.fuse-overlayfs", "fuseblk", "fuse", "sshfs"]
)
def test_local_file_systems_are_not(kind: str) -> None:
    assert network_file_system("/data/ann", mounts(on("/data", kind))) is None


def test_the_longest_mount_point_decides_wherever_it_stands() -> None:
    nfs, scratch = on("/home", "nfs4"), on("/home/ann/scratch", "xfs")
    for lines in ((nfs, scratch), (scratch, nfs)):
        text = mounts(*lines)
        assert network_file_system("/home/ann/code", text) == "nfs4"
        assert network_file_system("/home", text) == "nfs4"
        assert network_file_system("/home/ann/scratch/x", text) is None
        assert network_file_system("/var/tmp", text) is None


def test_a_mount_point_is_whole_names() -> None:
    assert network_file_system("/home2/ann", mounts(on("/home", "nfs"))) is None


def test_a_later_mount_hides_an_earlier_one_on_the_same_point() -> None:
    assert network_file_system("/data/x", mounts(on("/data", "nfs"), on("/data", "ext4"))) is None
    assert network_file_system("/data/x", mounts(on("/data", "ext4"), on("/data", "nfs"))) == "nfs"


def test_blanks_in_mount_points_are_understood() -> None:
    assert network_file_system("/mnt/my disk/x", mounts(on(r"/mnt/my\040disk", "cifs"))) == "cifs"


def test_lines_without_optional_fields_and_with_several_are_read() -> None:
    assert network_file_system("/a/x", mounts("36 21 0:31 / /a rw - nfs4 s:/e rw")) == "nfs4"
    assert (
        network_file_system("/a/x", mounts(on("/a", "nfs4", "shared:1 master:2 propagate_from:3 unbindable"))) == "nfs4"
    )


@pytest.mark.parametrize("text", ["", "\n", "no mounts at all", "1 2 3 - nfs", " - nfs4 x"])
def test_what_is_no_list_of_mounts_says_nothing(text: str) -> None:
    assert network_file_system("/data", text) is None


def test_this_machine_has_a_root() -> None:
    assert any(line.split(" ")[4] == "/" for line in mounts_of_this_process().splitlines())
