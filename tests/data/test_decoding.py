"""Rows that name an image file: only one of the dataset's own is opened, and nobody is asked for any other."""

import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import EpsImagePlugin, Image

from gtn_lightning.data import ImageData
from gtn_lightning.errors import RecipeError


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the user's own cache out of it, and the hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def encoded(gray: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), gray, np.uint8)).save(buffer, format=form)
    return buffer.getvalue()


INFO = {"features": {"image": {"_type": "Image"}, "label": {"_type": "Value", "dtype": "int64"}}}


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> None:
    column = pyarrow.array(rows, pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
    table = pyarrow.table({"image": column, "label": [n % 2 for n in range(len(rows))]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": INFO})})
    for split in ("train", "test"):
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet")


def as_arrow(folder: Path, rows: list[dict[str, Any]]) -> None:
    columns = {"image": rows, "label": [n % 2 for n in range(len(rows))]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for split in ("train", "test"):
        dataset = datasets.Dataset.from_dict(columns, features=features)
        with (
            pyarrow.OSFile(str(folder / f"{split}.arrow"), "wb") as file,
            pyarrow.ipc.new_stream(file, dataset.data.table.schema) as stream,
        ):
            stream.write_table(dataset.data.table)


CARD = """---
dataset_info:
  features:
  - {name: image, dtype: image}
  - {name: label, dtype: int64}
---
"""


def as_json(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for split in ("train", "test"):
        lines = [json.dumps({"image": row["path"], "label": n % 2}) for n, row in enumerate(rows)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def as_csv(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for split in ("train", "test"):
        lines = ["image,label", *(f'"{row["path"]}",{n % 2}' for n, row in enumerate(rows))]
        (folder / f"{split}.csv").write_text("\n".join(lines), encoding="utf-8")


WAYS: list[Callable[[Path, list[dict[str, Any]]], None]] = [as_parquet, as_arrow, as_json, as_csv]


def naming(path: str) -> list[dict[str, Any]]:
    return [{"bytes": None, "path": path}] * 8


def read(folder: Path) -> ImageData:
    data = ImageData(str(folder), batch_size=2, val_size=2)
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture
def server() -> Iterator[Any]:
    """A server with an image at every address, which says what it was asked for in ``asked``."""

    class Handler(BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012  each server has a class of its own
        address = ""

        def do_GET(self) -> None:
            self.asked.append(f"{self.command} {self.path}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encoded(50))

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        Handler.address = f"http://127.0.0.1:{found.server_address[1]}"
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield Handler
        found.shutdown()


FOREIGN = {
    "an address": "{address}/inside.png",
    "an address with a query": "{address}/inside?x=.png",
    "an archive at an address": "zip://0.png::{address}/all.zip",
    "a cached address": "simplecache::{address}/inside.png",
    "an archive in an archive at an address": "zip://0.png::zip://inner.zip::{address}/all.zip",
    "an archive elsewhere": "zip://0.png::{outside}/all.zip",
    "an archive elsewhere, upwards": "zip://0.png::{inside}/../outside/all.zip",
    "a bucket": "s3://bucket/0.png",
    "the hub": "hf://datasets/someone/private/0.png",
    "a file's address": "file://{outside}/0.png",
    "a file's address inside": "file://{inside}/0.png",
    "an absolute path": "{outside}/0.png",
    "a path upwards": "{inside}/../outside/0.png",
    "a path that begins alike": "{inside}side/0.png",
    "a relative path": "../outside/0.png",
    "a relative path in the working folder": "0.png",
    "a path from home": "~/0.png",
    "a device": "/dev/zero",
    "a pipe inside": "{inside}/pipe.png",
    "a folder inside": "{inside}/images",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", FOREIGN)
def test_an_image_elsewhere_is_not_opened(
    case: str, way: Any, tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (inside / "images", outside, tmp_path / "inside", tmp_path / "work"):
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(encoded(50))
    os.mkfifo(inside / "pipe.png")
    with zipfile.ZipFile(outside / "all.zip", "w") as archive:
        archive.writestr("0.png", encoded(50))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(outside))
    path = FOREIGN[case].format(address=server.address, inside=inside, outside=outside)
    way(inside, naming(path))
    (inside / "images" / "0.png").rename(inside / "0.bin")  # else these are the dataset's images
    with pytest.raises(RecipeError, match=r"^data\.path: .*, row 0 names the image .*, expected a file in") as caught:
        read(inside)
    assert "\n" not in str(caught.value)
    assert server.asked == []


@pytest.mark.parametrize("way", WAYS)
def test_an_image_file_of_ones_own_is_opened(way: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.bin").write_bytes(encoded(50))
    way(tmp_path, naming(str(tmp_path / "images" / "0.bin")))
    assert read(tmp_path).splits.train.images.unique().tolist() == [50]


def test_what_a_row_holds_itself_is_not_looked_for_under_its_name(tmp_path: Path, server: Any) -> None:
    as_parquet(tmp_path, [{"bytes": encoded(70), "path": f"{server.address}/0.png"}] * 8)
    assert read(tmp_path).splits.train.images.unique().tolist() == [70]
    assert server.asked == []


def with_table(folder: Path, names: list[str], form: str) -> None:
    """Write image files, and a table beside them that names some."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for number in range(8):
            (folder / split / f"{number}.png").write_bytes(encoded(100))
        rows = [{"file_name": name, "label": n % 2} for n, name in enumerate(names)]
        lines = [json.dumps(row) for row in rows]
        if form == "csv":
            lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
        (folder / split / f"metadata.{form}").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "name",
    ["{address}/0.png", "../../outside/0.png", "{outside}/0.png", "file://{outside}/0.png", "a/../../../outside/0.png"],
)  # fmt: skip
def test_a_table_beside_the_images_names_none_elsewhere(name: str, form: str, tmp_path: Path, server: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0.png").write_bytes(encoded(50))
    with_table(tmp_path / "in", [name.format(address=server.address, outside=outside)] * 8, form)
    with pytest.raises(RecipeError, match=r"^data\.path: ") as caught:
        read(tmp_path / "in")
    assert "\n" not in str(caught.value)
    assert server.asked == []


def test_images_in_an_archive_of_ones_own(tmp_path: Path, server: Any) -> None:
    def pack(name: str) -> None:
        for split in ("train", "test"):
            with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as archive:
                archive.writestr("0.png", encoded(50))
                lines = ["file_name,label", *(f"{name},{n % 2}" for n in range(8))]
                archive.writestr("metadata.csv", "\n".join(lines))

    pack("0.png")
    assert read(tmp_path).splits.train.images.unique().tolist() == [50]
    pack(f"{server.address}/0.png")
    with pytest.raises(RecipeError, match=r"^data\.path: "):
        read(tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("hidden_as", ["0.png", "0.eps"])
def test_no_image_is_drawn_by_another_program(hidden_as: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    drawing = tmp_path / "bin" / "gs"
    drawing.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n", encoding="utf-8")
    drawing.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow has not looked for the program yet
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                (tmp_path / "data" / split / name / f"{number}{hidden_as}").write_bytes(encoded(50, "EPS"))
    with pytest.raises(RecipeError, match=r"row 0 has an image in PostScript, .*: convert it to PNG first"):
        read(tmp_path / "data")
    assert not (tmp_path / "ran").exists()
    with Image.open(tmp_path / "data" / "train" / "a" / f"0{hidden_as}") as image, suppress(OSError):
        image.load()
    assert (tmp_path / "ran").exists(), "Pillow itself runs it"
