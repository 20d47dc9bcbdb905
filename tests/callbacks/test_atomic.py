"""Files that are whole or not there."""

import errno

import pytest

from gtn_lightning.errors import RecipeError
from gtn_lightning.files import whole_file


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with whole_file(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write_half():
        with whole_file(path) as part:
            part.write_text("ha")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_line(tmp_path):
    def write():
        with whole_file(tmp_path / "file.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        RecipeError, match=r"cannot write .*file\.txt: No space left on device: .*another folder"
    ) as info:
        write()
    assert "\n" not in str(info.value)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")

    def write():
        with whole_file(tmp_path / "taken" / "file.txt") as part:
            part.write_text("never")

    with pytest.raises(RecipeError, match="cannot write"):
        write()
