"""Which file systems a journal may lie on: local ones. Knows mounts, not journals."""

from pathlib import Path

from search.errors import StorageError

_WITH_FUSE = ("beegfs", "ceph", "glusterfs", "sshfs")
NETWORK_FILE_SYSTEMS = frozenset(
    {"afs", "cifs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb2", "smb3", "smbfs"}
    | {*_WITH_FUSE, *(f"fuse.{kind}" for kind in _WITH_FUSE)}
)
"""Where locks and appends of several machines cannot be relied on."""


def refuse_network_file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise StorageError if `path` is on a network file system; where there is no `/proc`, trust the user."""
    kind = _file_system(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageError(
            f"{path}: this is on a network file system ({kind}), where a journal file is not safe; "
            "put it on a local disk, or use PostgreSQL: --storage postgresql://USER@HOST/DATABASE"
        )


def _file_system(path: Path, mounts: Path) -> str | None:
    """Return the type of the file system that holds `path`: that of the longest mount point above it."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    where = path.resolve()
    found: tuple[int, str] | None = None
    for line in lines:
        _, mount_point, kind, *_ = line.split(" ")
        point = Path(_unescape(mount_point))
        # Of two mounts on one point the later one is what is seen.
        if where.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            found = (len(point.parts), kind)
    return found[1] if found else None


def _unescape(mount_point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        mount_point = mount_point.replace(code, character)
    return mount_point
