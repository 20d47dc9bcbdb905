"""Where a dataset comes from: this folder as it is now, or that name on the hub, and nothing that either names."""

import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from gtn_lightning.data import ImageData
from gtn_lightning.data.sources import open_dataset
from gtn_lightning.errors import RecipeError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep the user's own cache out of it, and the hub."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield folder
    datasets.enable_progress_bars()


FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})


def png(gray: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), gray, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def write(folder: Path, gray: int, files: str = "{split}-00000-of-00001.parquet") -> Path:
    """Write a dataset whose images all have one gray value, in a parquet file for every split."""
    rows = {"image": [{"bytes": png(gray), "path": None}] * 8, "label": [0, 1] * 4}
    for split in ("train", "test"):
        file = folder / files.format(split=split)
        file.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=FEATURES).to_parquet(file)
    return folder


def draw(folder: Path, gray: int) -> Path:
    """Write the same as image files, whose classes a table beside them gives."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for number in range(8):
            (folder / split / f"{number}.png").write_bytes(png(gray))
        lines = ["file_name,label", *(f"{number}.png,{number % 2}" for number in range(8))]
        (folder / split / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def grey_of(path: str) -> int:
    """Return the gray value of a dataset's first image."""
    data = ImageData(path, batch_size=2, val_size=2)
    data.prepare_data()
    data.setup()
    return int(data.splits.train.images[0, 0, 0, 0])


def refused(path: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^data\.path: .*{message}") as caught:
        ImageData(path, batch_size=2, val_size=2).prepare_data()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ local folders


@pytest.mark.parametrize("make", [write, draw])
def test_a_folder_that_is_missing_is_not_replaced_by_another_of_its_name(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "A" / "mydata", 50)
    (tmp_path / "B").mkdir()
    monkeypatch.chdir(tmp_path / "A")
    assert grey_of("mydata") == 50
    monkeypatch.chdir(tmp_path / "B")
    refused("mydata", r"no folder 'mydata', .* hub cannot be reached: set data.path to a folder, or .* OWNER/mydata")
    for path in ("./mydata", "mydata/", "../B/mydata", str(tmp_path / "B" / "mydata"), "~/nowhere/mydata"):
        refused(path, "there is no folder .*, and it cannot be a name on the Hugging Face hub")
    refused("B/mydata", "there is no folder 'B/mydata', the Hugging Face hub cannot be reached")


def test_what_any_program_has_read_from_a_folder_is_not_taken_for_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.load_dataset(str(write(tmp_path / "elsewhere" / "mydata", 50)))
    monkeypatch.chdir(tmp_path)
    refused("mydata", "there is no folder 'mydata'")


@pytest.mark.parametrize("make", [write, draw])
def test_folders_of_one_name_are_told_apart_wherever_they_are_read_from(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, gray in (("A", 50), ("B", 150)):
        make(tmp_path / name / "mydata", gray)
    for _ in range(2):
        for name, gray in (("A", 50), ("B", 150)):
            for working, path in (
                (name, "mydata"),
                (f"{name}/mydata", "."),
                (name, "./mydata/"),
                (".", f"{name}/mydata"),
            ):
                monkeypatch.chdir(tmp_path / working)
                assert grey_of(path) == gray


def test_a_link_leads_to_where_it_leads_now(tmp_path: Path) -> None:
    for name, gray in (("one", 50), ("other", 150)):
        write(tmp_path / name, gray)
    link = tmp_path / "current"
    for target, gray in (("one", 50), ("other", 150), ("one", 50)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert grey_of(str(link)) == gray
    shutil.rmtree(tmp_path / "one")
    refused(str(link), "is a link to 'one', which is not a folder: correct the link")


@pytest.mark.parametrize("name", ["mydata", "mydata [v1]"])
def test_a_folder_is_read_again_once_it_has_changed_though_its_times_say_otherwise(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / name, 50)
    assert grey_of(str(folder)) == 50
    before = {file: file.stat() for file in folder.iterdir()}
    write(folder, 150)
    for file, found in before.items():
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert grey_of(str(folder)) == 150


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a" * 5000, "cannot access the folder"),
        ("~nobody_of_this_name/mydata", "cannot access the folder"),
        ("", "is a folder|cannot read"),
        ("parquet", "'parquet' is a file format"),
        ("hdf5", "'hdf5' is a file format"),
        ("hf://datasets/someone/tiny", "there is no folder"),
        ("http://127.0.0.1:9/tiny", "there is no folder"),
    ],
)
def test_what_is_neither_a_folder_nor_a_name(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(path, message)


# ------------------------------------------------------------------------------------- what a stranger's files say


class Listening(BaseHTTPRequestHandler):
    """A server that nobody should ask."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.send_error(404)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def listening() -> Iterator[type[Listening]]:
    """A server that says what it was asked for in ``asked``, and has an ``address``."""
    handler = type("Handler", (Listening,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler
        server.shutdown()


FOREIGN = {
    "an address": "{address}/{{split}}.parquet",
    "a chain of addresses": "zip://{{split}}.parquet::{address}/all.zip",
    "a cached address": "simplecache::{address}/{{split}}.parquet",
    "an absolute path": "{outside}/{{split}}-*.parquet",
    "a file's address": "file://{outside}/{{split}}-*.parquet",
    "a file's address without slashes": "file:{outside}/{{split}}-*.parquet",
    "a path upwards": "../outside/{{split}}-*.parquet",
    "a path down and upwards": "data/../../outside/{{split}}-*.parquet",
    "a path from home": "~/outside/{{split}}-*.parquet",
}


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("case", FOREIGN)
def test_a_dataset_may_not_name_files_elsewhere(
    case: str, card: str, tmp_path: Path, listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "outside", 50)
    folder = write(tmp_path / "inside", 150, "data/{split}-00000-of-00001.parquet")
    pattern = FOREIGN[case].format(address=listening.address, outside=tmp_path / "outside")
    files = [{"split": split, "path": [pattern.format(split=split)]} for split in ("train", "test")]
    said = json.dumps({"configs": [{"config_name": "default", "data_files": files}]})
    (folder / card).write_text(f"---\n{said}\n---\n" if card == "README.md" else said, encoding="utf-8")
    refused(str(folder), "names the file .*, expected a path below the dataset's own folder")
    with pytest.raises(RecipeError, match="names the file"):
        open_dataset(str(folder), config="default")
    assert listening.asked == []


def test_nor_a_folder_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "outside", 50)
    folder = write(tmp_path / "inside", 150)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: x\n  data_dir: ../outside\n---\n", encoding="utf-8"
    )
    refused(str(folder), "names the file '../outside'")


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("kind", ["shared", "holding itself"])
def test_a_card_that_is_endless_when_written_out_is_refused(kind: str, card: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 50)
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    if kind == "holding itself":
        lines = ["a29: &a29 [x, *a29]"]
    said = "\n".join([*lines, "configs:", "- config_name: default", "  data_files: *a29"])
    (folder / card).write_text(f"---\n{said}\n---\n" if card == "README.md" else said, encoding="utf-8")
    refused(str(folder), "has YAML aliases that expand without end: write it without aliases")


@pytest.mark.parametrize("name", ["data.py", "dataset.py", "setup.py"])
def test_a_dataset_runs_no_program_of_its_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "data", 50)
    program = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (folder / name).write_text(program, encoding="utf-8")
    (folder / "__init__.py").write_text(program, encoding="utf-8")
    if name == "data.py":  # what `datasets` once took for the dataset's own program
        refused("data", "cannot read 'data': Dataset scripts are no longer supported")
    else:
        assert grey_of("data") == 50
    assert not (tmp_path / "ran").exists()


class Opening:
    """What opens a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pt", "npy"])
def test_no_pickle_is_opened(suffix: str, tmp_path: Path) -> None:
    import pickle

    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.{suffix}").write_bytes(pickle.dumps(Opening(tmp_path / "ran")))
    refused(str(folder), "cannot read")
    write(folder, 50)
    assert grey_of(str(folder)) == 50
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("name", "kind"), [("train.h5", "hdf5"), ("train.xml", "xml"), ("train.mp4", "videofolder")])
def test_formats_that_hold_no_labelled_images_are_not_read(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    refused(str(tmp_path), f"holds files of the format {kind}, expected one of arrow, cache, csv, ")


# ------------------------------------------------------------------------------------------------------ the hub


def test_without_the_hub_the_error_says_what_to_do() -> None:
    refused(
        "someone/tiny",
        "the Hugging Face hub cannot be reached, .* set data.path to a local copy, .*"
        "hf download someone/tiny --repo-type dataset --local-dir",
    )


def test_without_the_hub_an_earlier_download_serves(tmp_path: Path, cache: Path) -> None:
    datasets.load_dataset(str(write(tmp_path / "tiny", 50)))
    # The cache names a hub dataset after its owner, a local one not; inside, both are alike.
    shutil.move(cache / "tiny", cache / "someone___tiny")
    assert grey_of("someone/tiny") == 50


class Hub(Listening):
    """A hub with one dataset, ``someone/tiny``, whose README is ``readme`` and which has no other file."""

    readme = b""
    status = 200

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        answer, headers = b"", {}
        status = 404
        if self.path.startswith(("/api/datasets/someone/tiny", "/api/datasets/tiny")) and "tree" not in self.path:
            status, answer = self.status, json.dumps({"id": "someone/tiny", "sha": "0" * 40}).encode()
        elif self.path == "/datasets/someone/tiny/resolve/main/README.md":
            status, answer, headers = self.status, self.readme, {"ETag": '"1"'}
        elif self.path.startswith("/datasets/someone/tiny/resolve/"):
            headers = {"X-Error-Code": "EntryNotFound"}
        elif self.path.startswith("/api/datasets/"):
            headers = {"X-Error-Code": "RepoNotFound"}
        if status == 403:
            headers = {"X-Error-Code": "GatedRepo"}
        self.send_response(status)
        for key, value in {"X-Repo-Commit": "0" * 40, "Content-Length": str(len(answer)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """Put a hub of this machine in place of the hub."""
    handler = type("Handler", (Hub,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        yield handler
        server.shutdown()


def test_what_the_hub_says_reaches_the_user(hub: Any) -> None:
    hub.status = 403
    refused("someone/tiny", "cannot read 'someone/tiny': .* is a gated")


@pytest.mark.parametrize("name", ["someone/tiny", "tiny"])
def test_a_dataset_on_the_hub_may_not_name_files_elsewhere(name: str, hub: Any, listening: Any) -> None:
    said = {"configs": [{"config_name": "default", "data_files": f"{listening.address}/inside.parquet"}]}
    hub.readme = f"---\n{json.dumps(said)}\n---\n".encode()
    refused(name, "README.md of 'someone/tiny' names the file 'http://127")
    assert listening.asked == []
    assert hub.asked


def test_a_name_without_an_owner_that_the_hub_does_not_know_is_not_looked_for_in_the_cache(
    tmp_path: Path, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.load_dataset(str(write(tmp_path / "elsewhere" / "mydata", 50)))
    monkeypatch.chdir(tmp_path)
    refused("mydata", "there is no folder 'mydata', and the Hugging Face hub has no dataset of this name")
