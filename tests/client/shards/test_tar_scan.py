"""The scan finds the same files as tarfile, and its errors name the damaged byte."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from infobatch_client.shards.tar_scan import INLINE_BYTES, TarMembers, scan_tar
from infobatch_stream.errors import CorruptShardError, ShardError
from tests.shards import image_files, write_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
KINDS = [
    tarfile.REGTYPE,
    tarfile.AREGTYPE,
    tarfile.CONTTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
]


def scan(path: str | os.PathLike[str]) -> TarMembers:
    fd = os.open(path, os.O_RDONLY)
    try:
        return scan_tar(fd, os.fspath(path))
    finally:
        os.close(fd)


def scan_bytes(data: bytes, name: str = "x.tar") -> TarMembers:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return scan(path)


def expected(data: bytes) -> list[tuple[str, int, int, bytes | None]]:
    files = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isreg():
                body = data[member.offset_data : member.offset_data + member.size]
                files.append((member.name, member.offset_data, member.size, body if len(body) <= 64 else None))
    return files


def rows(members: TarMembers) -> list[tuple[str, int, int, bytes | None]]:
    return list(zip(members.names, members.data_offsets, members.sizes, members.inline, strict=True))


part = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=12)
long_part = st.builds(lambda text, times: (text * times)[:90], part, st.integers(1, 60))
member_name = st.builds("/".join, st.lists(st.one_of(part, long_part), min_size=1, max_size=4))
member = st.tuples(member_name, st.sampled_from(KINDS), st.binary(max_size=1200))


@given(
    st.sampled_from(FORMATS),
    st.lists(member, max_size=8),
    st.dictionaries(st.sampled_from(["comment", "uname", "mtime"]), part, max_size=2),
)
@settings(max_examples=120, deadline=None)
def test_scan_finds_what_tarfile_finds(
    format: int, members: list[tuple[str, bytes, bytes]], global_headers: dict[str, str]
) -> None:
    buffer = io.BytesIO()
    written = 0
    pax = global_headers if format == tarfile.PAX_FORMAT else None
    with tarfile.open(fileobj=buffer, mode="w", format=format, pax_headers=pax) as archive:
        for name, kind, body in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.AREGTYPE and len(name.encode()) >= 100:
                continue  # cut at a slash, tarfile takes it for a folder and loses its place
            is_file = kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
            info.size = len(body) if is_file else 0
            info.linkname = name if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            try:
                archive.addfile(info, io.BytesIO(body) if is_file else None)
            except ValueError:
                continue  # a name that this format can't hold
            written += 1
    assume(written)  # tarfile can't read an archive of a global header alone
    assert rows(scan_bytes(buffer.getvalue())) == expected(buffer.getvalue())


def test_many_members_need_several_rounds_of_checksums(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", image_files(0, 2500, 20))
    assert rows(scan(path)) == expected(path.read_bytes())


def test_small_members_have_their_bytes(tmp_path: Path) -> None:
    files = [(f"{size}.x", bytes([size % 251]) * size) for size in (0, 1, INLINE_BYTES, INLINE_BYTES + 1, 5000)]
    inline = scan(write_tar(tmp_path / "a.tar", files)).inline
    assert inline == [files[0][1], files[1][1], files[2][1], None, None]


def header(name: bytes = b"a.x", size: bytes = b"00000000003\0", kind: bytes = b"0", **fields: bytes) -> bytes:
    """One header block, its checksum right."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    prefix = fields.get("prefix", b"")
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)


@pytest.mark.parametrize(
    "size",
    [
        b"00000000003\0",
        b"         3 \0",
        b"000000000003",
        b"\x80" + bytes(10) + b"\3",
        b"3\0junk      ",
        b"3           ",
    ],
)
def test_every_way_to_write_a_size_is_read(size: bytes) -> None:
    data = header(size=size) + b"abc".ljust(512, b"\0") + END
    assert rows(scan_bytes(data)) == expected(data) == [("a.x", 512, 3, b"abc")]


def test_an_old_tar_folder_is_no_file() -> None:
    data = header(b"folder/", b"00000000000\0", b"\0") + header() + b"abc".ljust(512, b"\0") + END
    assert rows(scan_bytes(data)) == expected(data)


def test_unknown_kinds_of_members_are_skipped_with_their_data() -> None:
    data = header(b"odd", kind=b"Q") + bytes(512) + header() + b"abc".ljust(512, b"\0") + END
    assert rows(scan_bytes(data)) == expected(data) == [("a.x", 1536, 3, b"abc")]


def test_checksums_over_signed_bytes_are_accepted() -> None:
    block = bytearray(header("ü.x".encode()))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    data = bytes(block) + b"abc".ljust(512, b"\0") + END
    assert rows(scan_bytes(data)) == expected(data)


def pax_header(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", b"%011o\0" % len(records), kind) + records.ljust(-(-len(records) // 512) * 512, b"\0")


def test_a_pax_size_overrides_the_header() -> None:
    data = pax_header(b"10 size=3\n") + header(size=b"00000000000\0") + b"abc".ljust(512, b"\0") + END
    assert rows(scan_bytes(data)) == expected(data) == [("a.x", 1536, 3, b"abc")]


def test_a_global_pax_path_names_the_members_after_it() -> None:
    data = pax_header(b"12 path=b.y\n", b"g") + header() + b"abc".ljust(512, b"\0") + END
    assert rows(scan_bytes(data)) == expected(data) == [("b.y", 1536, 3, b"abc")]


def ten_files() -> bytes:
    """An archive of ten files of one block each: header n is at byte 1024·n, the end marker at byte 10240."""
    return b"".join(header(b"%d.x" % n) + b"abc".ljust(512, b"\0") for n in range(10)) + END


@pytest.mark.parametrize("padding", [0, 1, 512, 1000, 10240 - 1024])
def test_zeros_up_to_the_record_size_are_padding(padding: int) -> None:
    data = ten_files() + bytes(padding)
    assert rows(scan_bytes(data)) == expected(data)
    assert len(expected(data)) == 10


def cut(data: bytes, begin: int, end: int, by: bytes | None = None) -> bytes:
    """Data with the bytes from `begin` to `end` replaced, by zeros unless given."""
    return data[:begin] + (bytes(end - begin) if by is None else by) + data[end:]


BEHIND = "data behind the end-of-archive marker"
NOT_THE_END = {
    "a lone zero block between members": (
        cut(ten_files(), 4096, 4096, bytes(512)),
        "at byte 4096: a lone zero block, and data behind it at byte 4608: a part of the archive is missing; copy or",
    ),
    "a header of zeros": (
        cut(ten_files(), 4096, 4608),
        "at byte 4096: a lone zero block, and data behind it at byte 4608: a part of the archive is missing; copy or",
    ),
    "a member of zeros": (
        cut(ten_files(), 4096, 5120),
        f"at byte 5120: {BEHIND} at byte 4096",
    ),
    "members of zeros": (
        cut(ten_files(), 4096, 8192),
        f"at byte 8192: {BEHIND} at byte 4096",
    ),
    "a second half of zeros": (
        cut(ten_files() + bytes(30000), 4096, 41264),
        r"at byte 4096: 37168 zero bytes up to the end .* `truncate -s 5120` on it puts that right; otherwise copy or",
    ),
    "another archive": (
        ten_files() + ten_files(),
        f"at byte 11264: {BEHIND} at byte 10240: another archive, .*`tar --concatenate`",
    ),
    "another padded archive": (
        ten_files() + bytes(9216) + ten_files(),
        f"at byte 20480: {BEHIND} at byte 10240: another archive",
    ),
    "another archive far behind": (
        ten_files() + bytes(3_000_000) + ten_files(),
        f"at byte 3011264: {BEHIND} at byte 10240: another archive",
    ),
    "a byte behind the marker": (
        ten_files() + b"\1",
        f"at byte 11264: {BEHIND} at byte 10240",
    ),
    "a byte in the padding": (
        ten_files() + bytes(5000) + b"\n" + bytes(99),
        f"at byte 16264: {BEHIND} at byte 10240",
    ),
    "half an end marker": (
        ten_files()[:-512],
        "at byte 10240: a lone zero block ends the file.*if no sample is missing, `truncate -s 11264` on it puts",
    ),
    "less than an end marker": (ten_files()[:-1], "at byte 10240: a lone zero block ends the file"),
    "no end marker": (
        ten_files()[:-1024],
        "at byte 10240: the file ends without an end-of-archive marker.*`truncate -s 11264` on it puts that right",
    ),
}


@pytest.mark.parametrize("name", NOT_THE_END)
def test_only_two_zero_blocks_and_padding_end_an_archive(name: str) -> None:
    data, message = NOT_THE_END[name]
    with pytest.raises(CorruptShardError, match=rf"x\.tar: {message}"):
        scan_bytes(data)


@pytest.mark.parametrize("name", ["half an end marker", "no end marker", "a second half of zeros"])
def test_what_the_error_advises_ends_the_archive(name: str) -> None:
    data, _ = NOT_THE_END[name]
    with pytest.raises(CorruptShardError) as caught:
        scan_bytes(data)
    size = int(re.search(r"truncate -s (\d+)", str(caught.value))[1])  # type: ignore[index]
    closed = data[:size].ljust(size, b"\0")
    assert rows(scan_bytes(closed)) == expected(closed) == expected(data)


@pytest.mark.parametrize(
    "counts", [(4, 4), (4, 9), (9, 4), (20, 3), (3, 20), (50, 50), (1, 1, 1), (9, 9, 9, 1)], ids=str
)
def test_archives_that_tar_has_joined_one_at_a_time_are_read_whole(counts: tuple[int, ...], tmp_path: Path) -> None:
    parts = [write_numbers(tmp_path / str(n), n, count) for n, count in enumerate(counts)]
    whole = sorted(name for part in parts for name in scan(part).names)
    for part in parts[1:]:
        subprocess.run(["tar", "--concatenate", "--file", parts[0], part], check=True)
    assert len(whole) == sum(counts)
    assert sorted(scan(parts[0]).names) == whole == sorted(name for name, *_ in expected(parts[0].read_bytes()))


def write_numbers(folder: Path, number: int, count: int, *options: str) -> Path:
    """An archive by GNU tar, of `count` small files."""
    folder.mkdir()
    for n in range(count):
        (folder / f"{number}-{n}.txt").write_text(str(n))
    path = folder.with_suffix(".tar")
    subprocess.run(["tar", *options, "--create", "--file", path, "--directory", folder, "."], check=True)
    return path


@pytest.mark.parametrize("blocks", [1, 2, 7, 19, 20, 40, 60, 64, 128, 512, 2048])
@pytest.mark.parametrize("count", [1, 9, 63])
def test_archives_of_every_usual_blocking_factor_are_whole(blocks: int, count: int, tmp_path: Path) -> None:
    path = write_numbers(tmp_path / "a", 0, count, f"--blocking-factor={blocks}")
    assert rows(scan(path)) == expected(path.read_bytes())


def large_files() -> bytes:
    """An archive of twenty files of 200 blocks each, padded as GNU tar does: header n is at byte 102,912·n."""
    data = b"".join(header(b"%d.x" % n, b"%011o\0" % 102400) + b"abcd" * 25600 for n in range(20)) + END
    return data.ljust(-(-len(data) // 10240) * 10240, b"\0")


@pytest.mark.parametrize("copied", [0, 4096, 65536, 500_000, 10 * 102_912, 1_500_000, 19 * 102_912])
def test_a_copy_that_stopped_in_a_file_whose_space_was_reserved_is_an_error(copied: int) -> None:
    data = large_files()
    assert len(data) == 2_068_480
    with pytest.raises(CorruptShardError, match=r"zero bytes up to the end .* a part of the file may never have been"):
        scan_bytes(cut(data, copied, len(data)))


@pytest.mark.parametrize("record", [32768, 65536, 1048576])
def test_beyond_a_record_of_tar_zeros_behind_a_member_that_ends_in_zeros_are_an_error(record: int) -> None:
    short, whole = (
        (header(size=b"%011o\0" % 2048) + b"abcd" * copied).ljust(2560, b"\0").ljust(record, b"\0")
        for copied in (384, 512)
    )
    assert scan_bytes(whole).names == ["a.x"]
    with pytest.raises(CorruptShardError, match=r"at byte 2560: \d+ zero bytes up to the end .* `truncate -s 3584`"):
        scan_bytes(short)


@given(st.integers(0, 10_000), st.sampled_from(FORMATS))
@settings(max_examples=60, deadline=None)
def test_a_truncated_shard_is_an_error(cut: int, format: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [*image_files(0, 3, 700), ("long" * 50 + ".x", b"y" * 90)]
        if format == tarfile.USTAR_FORMAT:
            files.pop()
        data = write_tar(Path(folder) / "a.tar", files, format=format).read_bytes()
    *_, last = expected(data)
    cut = min(cut, last[1] + -(-last[2] // 512) * 512 + 511)
    with pytest.raises(CorruptShardError, match=r"x\.tar: at byte \d+: .*copy or write this shard again"):
        scan_bytes(data[:cut])


def test_a_member_that_extends_beyond_the_file_is_named(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", image_files(0, 2, 5000)).read_bytes()
    with pytest.raises(CorruptShardError, match=r"byte 3000: the file ends inside member '000000\.jpg', whose 5000 "):
        scan_bytes(data[:3000])


def test_a_missing_end_marker_is_an_error(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", [("a.x", b"abc")]).read_bytes()
    with pytest.raises(CorruptShardError, match="byte 1024: the file ends without an end-of-archive marker"):
        scan_bytes(data[:1024])


@given(st.integers(0, 511), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_damaged_header_is_named_by_its_byte(at: int, flip: int) -> None:
    good = header() + b"abc".ljust(512, b"\0")
    data = bytearray(good + good + good + END)
    data[1024 + at] ^= flip
    try:
        as_it_was = rows(scan_bytes(bytes(data))) == expected(good + good + good + END)
    except CorruptShardError as error:
        assert "at byte 1024: " in str(error) or "at byte 4096: " in str(error)  # noqa: PT017
    else:
        assert as_it_was
        assert 148 <= at < 156  # another way to write the same checksum


def test_a_damaged_size_is_reported_at_its_header_and_not_at_the_next_one() -> None:
    good = header() + b"abc".ljust(512, b"\0")
    data = bytearray(good + good + END)
    data[512 + 512 + 124 : 512 + 512 + 130] = b"777777"
    with pytest.raises(CorruptShardError, match="at byte 1024: no valid tar header"):
        scan_bytes(bytes(data))


@pytest.mark.parametrize("junk", [b"hello, this is not a tar file".ljust(2048), b"\x89PNG" + bytes(2000)])
def test_a_file_that_is_no_tar_is_an_error(junk: bytes) -> None:
    with pytest.raises(CorruptShardError, match=r"at byte 0: .*"):
        scan_bytes(junk)


def test_an_empty_file_is_an_error() -> None:
    with pytest.raises(CorruptShardError, match="at byte 0: the file ends without"):
        scan_bytes(b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            pax_header(b"99 path=b.y\n") + header() + END,
            "the PAX header has a record with an invalid length of 99 bytes",
        ),
        (pax_header(b"10 size=x\n") + header() + END, "the PAX header has an invalid size b'x'"),
        (
            pax_header(b"10 size=3\n", b"g") + header() + END,
            "a global PAX header sets the same size for every member",
        ),
        (pax_header(b"12 path=b.y\n") + END, "ends after a long name or a PAX header, before its member"),
        (pax_header(b"path=b.y\n") + header() + END, r"the PAX header has an invalid record b'path=b\.y"),
        (pax_header(b"12 path=b.y\njunk") + header() + END, "the PAX header has an invalid record b'junk'"),
        (header(size=b"\xff" * 12) + END, "size"),
        (header(size=b"zzz\0        ") + END, r"the header has an invalid size field b'zzz"),
    ],
)
def test_invalid_headers_are_errors(data: bytes, message: str) -> None:
    with pytest.raises(CorruptShardError, match=message):
        scan_bytes(data)


def test_sparse_members_are_refused() -> None:
    records = [b"22 GNU.sparse.major=1\n", b"21 SCHILY.realsize=9\n"]
    for data in (header(kind=b"S") + END, *(pax_header(record) + header() + END for record in records)):
        with pytest.raises(ShardError, match=r"is sparse.*without tar --sparse"):
            scan_bytes(data)


def test_a_volume_that_continues_a_file_is_refused() -> None:
    with pytest.raises(ShardError, match=r"'a\.x' at byte 0 continues a file of another volume.*--multi-volume"):
        scan_bytes(header(kind=b"M") + b"abc".ljust(512, b"\0") + END)


def test_the_times_of_an_incremental_gnu_archive_are_no_part_of_the_name() -> None:
    block = bytearray(header(prefix=b"15555555555"))
    block[257:265] = b"ustar  \0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert scan_bytes(bytes(block) + b"abc".ljust(512, b"\0") + END).names == ["a.x"]


def test_compressed_shards_are_refused_with_advice(tmp_path: Path) -> None:
    data = gzip.compress(write_tar(tmp_path / "a.tar", image_files(0, 2)).read_bytes())
    for name in ("a.tar", "a.tar.gz"):
        with pytest.raises(ShardError, match=rf"{name}: this shard is compressed.*decompress it to a plain \.tar"):
            scan_bytes(data, name)
