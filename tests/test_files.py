from __future__ import annotations

import os
from pathlib import Path

import pytest

from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_atomic_write_makes_the_file_and_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.png"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
        assert not path.exists()
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == {"out.png"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_crash_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"model.safetensors"}


def test_a_failed_flush_does_not_replace_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "config.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space"), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"config.json"}


def test_the_bytes_are_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.txt"
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"  # noqa: PTH112
        seen.append((kind, path.exists()))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell what a descriptor is open on")
    monkeypatch.setattr(os, "fsync", record)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert seen == [("file", False), ("folder", True)]


def test_permissions_follow_the_old_file_and_else_the_umask(tmp_path: Path) -> None:
    old, new, plain = tmp_path / "old", tmp_path / "new", tmp_path / "plain"
    old.write_text("old")
    old.chmod(0o640)
    plain.write_text("made by open()")
    for path in (old, new):
        with atomic_write(path) as temporary:
            temporary.write_text("new")
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode == plain.stat().st_mode


def test_a_link_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_folder_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(UserError, match="is not a file"), atomic_write(path):
            pass


def test_ensure_writable_lets_new_names_empty_folders_and_asked_for_overwriting_pass(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ensure_writable(str(tmp_path / "a" / "b" / "new.png")) == tmp_path / "a" / "b" / "new.png"
    assert ensure_writable(tmp_path / "file", overwrite=True) == tmp_path / "file"
    (tmp_path / "empty").mkdir()
    assert ensure_writable(tmp_path / "empty") == tmp_path / "empty"
    assert names(tmp_path) == {"file", "empty"}


def test_ensure_writable_refuses_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "dangling", tmp_path):
        with pytest.raises(UserError, match=r"exists already.*--overwrite"):
            ensure_writable(path)


def test_ensure_writable_names_the_file_that_stands_where_a_folder_should(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, not a folder"):
        ensure_writable(tmp_path / "file" / "deeper" / "out.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_ensure_writable_names_the_folder_one_may_not_write_in(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission"):
        ensure_writable(tmp_path / "out.png")


def test_a_writer_that_brings_its_own_file_does_not_bring_its_permissions(tmp_path):
    with atomic_write(tmp_path / "plain") as part:
        part.write_text("plain")
    with atomic_write(tmp_path / "private") as part:
        part.unlink()
        part.touch(mode=0o600)
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "plain").stat().st_mode
