"""Where a log may stand."""

from pathlib import Path

import pytest

from esper.errors import LogError
from esper.oona.place import Reserve, file_system_of, mounted, refuse_network

MOUNTS = r"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:25 / /home rw shared:2 - btrfs /dev/vdb rw,subvol=/home
31 22 0:30 / /data rw,relatime - nfs4 server:/data rw,vers=4.2
32 31 0:31 / /data/local rw - xfs /dev/vdc rw
33 22 0:32 / /mnt/my\040share rw - cifs //server/share rw
34 22 0:33 / /mnt/ssh rw - fuse.sshfs me@server: rw
35 22 0:34 / /mnt/ntfs rw - fuseblk /dev/vdd rw
36 30 0:35 / /home rw - zfs tank/home rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/log", "ext4"),
        ("/database", "ext4"),
        ("/data/runs", "nfs4"),
        ("/data/local/runs", "xfs"),
        ("/mnt/my share/runs", "cifs"),
        ("/mnt/ssh", "fuse.sshfs"),
        ("/home/me", "zfs"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("path", ["/data/runs", "/mnt/my share", "/mnt/ssh/runs"])
def test_a_network_file_system_is_refused(path: str) -> None:
    with pytest.raises(LogError, match=f"cannot keep a log at {path}: expected a local disk"):
        refuse_network(Path(path), MOUNTS)


@pytest.mark.parametrize("path", ["/var", "/data/local", "/home/me", "/mnt/ntfs"])
def test_a_local_disk_is_taken(path: str) -> None:
    refuse_network(Path(path), MOUNTS)


def test_a_system_that_does_not_say_what_is_mounted_is_trusted(tmp_path: Path) -> None:
    refuse_network(tmp_path, "")
    refuse_network(tmp_path, mounted())


def test_the_reserve_takes_room_until_it_is_freed(tmp_path: Path) -> None:
    reserve = Reserve.make(tmp_path)
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 1 << 20
    reserve.free()
    reserve.free()
    assert not (tmp_path / "reserve").exists()
