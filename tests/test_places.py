"""Files are written as a whole, also where other processes tidy the same folders."""

import threading
from contextlib import suppress

from search.places import write_whole


def test_a_folder_that_another_process_removes_while_it_is_empty_loses_no_file(tmp_path):
    done = threading.Event()

    def tidy() -> None:
        while not done.is_set():
            with suppress(OSError):
                (tmp_path / "a" / "b").rmdir()
                (tmp_path / "a").rmdir()

    other = threading.Thread(target=tidy)
    other.start()
    try:
        for _ in range(200):
            write_whole(tmp_path / "a" / "b" / "file", b"content")
            assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
            (tmp_path / "a" / "b" / "file").unlink()
    finally:
        done.set()
        other.join()
