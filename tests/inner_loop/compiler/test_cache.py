"""Where compiled programs are kept: in a folder of the user's own, and in none that others can write to."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

from gtn_lightning.inner_loop.compiler.cache import headers_are_private
from gtn_lightning.inner_loop.compiler.program import Program

STRANGER = 54321


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of this test's own, who has chosen nothing."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that what is set here is undone
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


def chosen(expect: str | None = None) -> Path:
    """Return the folder that torch is told, once one warning that matches ``expect`` has been given, or none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Program(torch.device("cpu"))
    # Files that an earlier test left to the garbage collector may be closed here.
    said = [str(each.message) for each in caught if not issubclass(each.category, ResourceWarning)]
    assert len(said) == (expect is not None), said
    assert expect is None or re.search(expect, said[0])
    assert cache_dir() == os.environ["TORCHINDUCTOR_CACHE_DIR"]  # what torch makes of it
    return Path(cache_dir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_programs_go_to_the_users_own_cache(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen() == home / ".cache" / "gtn-lightning" / "compiled"
    assert mode(chosen()) == mode(chosen().parent) == 0o700
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert chosen() == tmp_path / "xdg" / "gtn-lightning" / "compiled"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert chosen() == home / ".cache" / "gtn-lightning" / "compiled"


def test_what_torch_has_chosen_itself_is_no_choice_of_the_users(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    monkeypatch.setenv("TRITON_CACHE_DIR", os.path.join(default_cache_dir(), "triton", "0"))
    assert chosen() == home / ".cache" / "gtn-lightning" / "compiled"
    assert "TRITON_CACHE_DIR" not in os.environ  # torch puts it into the other


def test_a_folder_of_the_users_choice_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        (tmp_path / name / "inside").mkdir(parents=True)
        (tmp_path / name / "inside" / "program.py").touch()
        monkeypatch.setenv(name, str(tmp_path / name))
    assert chosen() == tmp_path / "TORCHINDUCTOR_CACHE_DIR"
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "TRITON_CACHE_DIR")
    assert mode(chosen() / "inside") & 0o700 == 0o700  # nobody's rights are changed
    (tmp_path / "link").symlink_to(tmp_path / "TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "link"))
    assert chosen() == tmp_path / "link"


def writable(folder: Path) -> None:
    folder.chmod(0o777)


def writable_by_the_group(folder: Path) -> None:
    folder.chmod(0o775)


def with_a_writable_file(folder: Path) -> None:
    (folder / "inside" / "program.py").chmod(0o666)


def with_a_writable_folder(folder: Path) -> None:
    (folder / "inside").chmod(0o777)


def in_a_writable_folder(folder: Path) -> None:
    folder.parent.chmod(0o777)


def anothers(folder: Path) -> None:
    os.chown(folder, STRANGER, STRANGER)


def with_anothers_file(folder: Path) -> None:
    os.chown(folder / "inside" / "program.py", STRANGER, STRANGER)


def anothers_link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))
    os.chown(folder, STRANGER, STRANGER, follow_symlinks=False)


def a_link_to_anothers(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))
    os.chown(folder, STRANGER, STRANGER)


def in_anothers_folder(folder: Path) -> None:
    os.chown(folder.parent, STRANGER, STRANGER)


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


BY_ROOT = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file to another user"
)
FAULTS = [
    writable,
    writable_by_the_group,
    with_a_writable_file,
    with_a_writable_folder,
    in_a_writable_folder,
    a_file,
    *(
        pytest.param(fault, marks=BY_ROOT)
        for fault in (anothers, with_anothers_file, anothers_link, a_link_to_anothers, in_anothers_folder)
    ),
]


def filled(folder: Path) -> Path:
    (folder / "inside").mkdir(parents=True, mode=0o755)
    (folder / "inside" / "program.py").touch(mode=0o644)
    folder.chmod(0o755)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"])
def test_a_folder_that_others_can_write_to_is_not_used_though_the_user_names_it(
    name: str, fault, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    folder = filled(tmp_path / "parent" / "named")
    fault(folder)
    monkeypatch.setenv(name, str(folder))
    assert chosen(f"^{name}: .*{re.escape(repr(str(folder)))} are not used, because .*: run 'chmod") == (
        home / ".cache" / "gtn-lightning" / "compiled"
    )
    assert os.environ.get("TRITON_CACHE_DIR") is None


@pytest.mark.parametrize("fault", FAULTS)
def test_nor_is_the_users_cache_if_others_can_write_to_it(fault, home: Path) -> None:  # type: ignore[no-untyped-def]
    folder = filled(home / ".cache" / "gtn-lightning" / "compiled")
    fault(folder)
    temporary = chosen(f"{re.escape(repr(str(folder)))} are not used, because .*: they are compiled again in this run")
    assert not temporary.is_relative_to(home)
    assert mode(temporary) == 0o700
    assert not list(temporary.iterdir())


def test_without_a_home_folder_they_go_to_a_temporary_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null/nowhere")
    temporary = chosen("are not used, because it cannot be created or read")
    assert mode(temporary) == 0o700


@pytest.mark.parametrize("fault", FAULTS)
def test_precompiled_headers_are_used_only_if_nobody_else_can_write_them(fault) -> None:  # type: ignore[no-untyped-def]
    assert headers_are_private()
    headers = Path(default_cache_dir()) / "precompiled_headers"
    assert mode(headers) == mode(headers.parent) == 0o700
    shutil.rmtree(headers.parent)
    fault(filled(headers))
    assert not headers_are_private()


def test_an_import_chooses_no_folder() -> None:
    script = (
        "import os, gtn_lightning.inner_loop.compiler.program, torch\n"
        "from torch._inductor.runtime.cache_dir_utils import default_cache_dir\n"
        "assert os.environ.get('TORCHINDUCTOR_CACHE_DIR', default_cache_dir()) == default_cache_dir()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


LEARNING = """
import torch
from torch.nn import functional as F
from gtn_lightning.inner_loop.compiler.program import Program

def loss_fn(params, buffers, inputs, targets):
    return F.mse_loss(torch.tanh(inputs @ params["weight"]), targets), dict(buffers)

batch = torch.ones(6, 3), torch.ones(6, 2)
assert Program(torch.device("cpu")).gradient(loss_fn, {"weight": torch.ones(3, 2)}, {}, batch) is not None
"""


@pytest.mark.long
def test_what_others_have_put_into_a_folder_is_not_run(home: Path, tmp_path: Path) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}

    def run() -> str:
        done = subprocess.run([sys.executable, "-c", LEARNING], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    own = home / ".cache" / "gtn-lightning" / "compiled"
    assert "not used" not in run()
    programs = list(own.rglob("*.py"))
    assert programs
    for program in programs:
        text = program.read_text(encoding="utf-8")
        program.write_text(f"import os; os.system('touch {tmp_path}/ran')\n{text}", encoding="utf-8")
    run()
    assert (tmp_path / "ran").exists(), "what lies there is run"
    (tmp_path / "ran").unlink()
    own.chmod(0o777)
    # Precompiled headers lie elsewhere; these would not compile.
    (headers,) = (tmp_path / "tmp").glob("torchinductor_*/precompiled_headers")
    headers.chmod(0o777)
    for header in [*headers.glob("*.h"), *headers.glob("*.gch")]:
        header.write_text("#error from a stranger\n", encoding="utf-8")
    said = run()
    assert f"{str(own)!r} are not used, because other users can write to it" in said
    assert "cannot be compiled" not in said
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "tmp").glob("gtn-lightning-*")), "the temporary folder is removed"
