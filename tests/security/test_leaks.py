"""Secrets stay out of results, names stay inside the outputs, and what data say stays text."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from influx.api import run
from influx.datasets.download import download_and_unpack
from influx.results import save_table
from influx.store import Folder
from tests.faults.conftest import TINY, Program
from tests.security.conftest import SMALL, Command

SECRET = "hunter2-correct-horse"
EVIL = "\x1b[2J\x1b]0;owned\x07"


@pytest.mark.fault(33, "refused in one sentence; the value is stored nowhere")
@pytest.mark.parametrize(
    "spelling",
    [
        "a${oc.env:S_E}",
        "${ oc.env : S_E }",
        "${oc.${oc.decode:env}:S_E}",
        "${oc.env:NONE,${oc.env:S_E}}",
    ],
)
def test_the_environment_is_not_read(
    spelling: str, influx: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("S_E", SECRET)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "evil.yaml").write_text(f"# @package _global_\nname: '{spelling}'\n")
    said = influx.refused("--config-dir", str(tmp_path / "mine"), "experiment=evil")
    assert "environment" in said and SECRET not in said
    code, said = influx("run", "-m", *SMALL, f"paths.outputs={tmp_path}/x_${{oc.env:S_E}}")
    assert code == 2 and "environment" in said and SECRET not in said
    (tmp_path / "mine" / "experiment" / "evil.yaml").write_text(f"defaults:\n  - /model: '{spelling}'\n")
    said = influx.refused("--config-dir", str(tmp_path / "mine"), "experiment=evil")
    assert SECRET not in said
    code, said = influx(
        "run", "-m", *SMALL, f"paths.outputs={tmp_path}/out", f"hydra.sweep.dir={tmp_path}/x_${{oc.env:S_E}}"
    )
    assert code == 2 and SECRET not in said
    assert not [p for p in tmp_path.rglob("*") if SECRET in p.name or (p.is_file() and SECRET in p.read_text())]


def test_the_environment_may_be_read_again_afterwards(influx: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    monkeypatch.setenv("S_E", SECRET)
    influx.refused("name=${oc.env:S_E}")
    assert OmegaConf.create({"a": "${oc.env:S_E}"}).a == SECRET


@pytest.mark.fault(33, "no part of the environment is in any file of a run")
def test_no_file_of_a_run_holds_the_environment(influx: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert influx.run()[0] == 0
    files = [p for p in influx.outputs.rglob("*") if p.is_file()]
    assert files and not [p for p in files if SECRET.encode() in p.read_bytes()]


@pytest.mark.fault(34, "refused in one sentence that names the setting")
@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/b", "..", ".", "a\\b", "\n", "-rf", "a\x00b", "~", "x.corrupt"]
)
def test_names_cannot_leave_the_outputs(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    from influx.config import Settings, compose
    from influx.errors import ConfigError
    from influx.job import assemble

    settings = compose([*SMALL, f"paths.outputs={tmp_path}/out"])
    with pytest.raises(ConfigError, match="name must be") as refused:
        assemble(Settings(values={**settings.values, "name": name}, choices=settings.choices))
    record_property("said", str(refused.value).replace(f"{tmp_path}/", ""))
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(34, "refused in one sentence; nothing is written elsewhere")
@pytest.mark.parametrize("place", ["runs/tiny", "problems/*", "problems/*/checkpoints", "problems/*/retrain"])
def test_links_cannot_lead_out_of_the_outputs(place: str, finished: Program, tmp_path: Path) -> None:
    folder, elsewhere = min(finished.outputs.glob(place)), tmp_path / "elsewhere"
    folder.rename(tmp_path / "aside")
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    folder.symlink_to(elsewhere)
    if place != "runs/tiny":
        (finished.run_folder / "truth.npy").unlink()
    code, said = finished.again()
    assert code == 2 and "symbolic link" in said and str(folder) in said and said.count("\n") == 1
    assert [p.name for p in elsewhere.iterdir()] == ["mine.txt"]


@pytest.mark.fault(34, "refused, or the link itself is replaced; its target stays as it is")
@pytest.mark.parametrize(
    "name", ["log.txt", ".lock", "influence.npy", "manifest.json", "checksums.json", "report.html"]
)
def test_a_planted_link_does_not_lead_to_a_file_of_mine(name: str, finished: Program, tmp_path: Path) -> None:
    (tmp_path / "bashrc").write_text("mine")
    (finished.run_folder / name).unlink(missing_ok=True)
    (finished.run_folder / name).symlink_to(tmp_path / "bashrc")
    code, said = finished.again()
    assert code in (0, 2) and said.count("\n") <= 2
    assert (tmp_path / "bashrc").read_text() == "mine"


def archive(member: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.type, info.linkname, info.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(b"evil") if info.size else None)
    return file.getvalue()


@pytest.mark.fault(34, "refused; nothing is written outside")
@pytest.mark.parametrize(
    "content",
    [
        archive("../evil.txt"),
        archive("a/../../evil.txt"),
        archive("link", tarfile.SYMTYPE, "/etc/passwd"),
        archive("link", tarfile.SYMTYPE, "../.."),
        archive("link", tarfile.LNKTYPE, "../secret"),
        archive("device", tarfile.CHRTYPE),
    ],
    ids=["above", "above by a folder", "absolute link", "link above", "hard link above", "device"],
)
def test_members_of_an_archive_stay_in_its_folder(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()

    def serve(address: str, root: str, filename: str, md5: str) -> None:
        (Path(root) / filename).write_bytes(content)

    monkeypatch.setattr("influx.datasets.download.download_url", serve)
    with pytest.raises(tarfile.TarError) as refused:
        download_and_unpack("nowhere", str(folder), "a.tar.gz", "0")
    record_property("said", str(refused.value).replace(f"{tmp_path}/", ""))
    assert [p.name for p in tmp_path.rglob("*")] == ["data", "a.tar.gz"]


@pytest.mark.fault(34, "an absolute member is unpacked below the folder")
def test_an_absolute_member_stays_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    content = archive(f"{tmp_path}/evil.txt")
    monkeypatch.setattr(
        "influx.datasets.download.download_url",
        lambda address, root, filename, md5: (Path(root) / filename).write_bytes(content),
    )
    download_and_unpack("nowhere", str(folder), "a.tar.gz", "0")
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.fault(33, "labels and names stay text")
def test_names_in_data_stay_text_everywhere(influx: Command, tmp_path: Path) -> None:
    evil = ("<script>alert(1)</script>", f"={EVIL}cmd|' /C calc'!A0")
    rows = "\n".join(f'{i % 7},{(i * 5) % 11},"{evil[i % 2]}"' for i in range(40))
    (tmp_path / "evil.csv").write_text(f'"<img src=x onerror=alert(1)>","{EVIL}b",label\n{rows}\n')
    overrides = [*SMALL[3:], "dataset=csv", f"dataset.path={tmp_path}/evil.csv", "dataset.n_test=10"]
    folder = run([*(o for o in overrides if o != "quiet=true"), "name=evil", f"paths.outputs={influx.outputs}"]).folder
    page = (folder / "report.html").read_text()
    assert "<script>alert" not in page and "<img src=x" not in page and "&lt;script&gt;" in page
    said = influx("show", str(folder))[1] + influx("show", str(folder), "--test", "0", "--top", "3")[1]
    said += influx("status", str(influx.outputs))[1] + (folder / "log.txt").read_text() + page
    assert "\x1b" not in said and "\x07" not in said


@pytest.mark.fault(33, "an apostrophe makes it text in a spreadsheet")
def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    text = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "plain", ""]
    save_table(Folder(tmp_path), "t.csv", pd.DataFrame({"label": text, "value": [-1.5] * 7}))
    lines = (tmp_path / "t.csv").read_text().splitlines()[1:]
    assert [line.rpartition(",")[0].strip('"')[:1] for line in lines] == ["'"] * 5 + ["p", ""]
    assert all(line.endswith(",-1.5") for line in lines)
    save_table(Folder(tmp_path), "t.parquet", pd.DataFrame({"label": text}))
    assert pd.read_parquet(tmp_path / "t.parquet")["label"].tolist() == text


@pytest.mark.fault(33, "control characters become blanks in the log")
def test_the_log_cannot_move_or_colour_a_terminal(finished: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from influx import results

    def fail(*_: object) -> None:
        raise ValueError(f"bad label {EVIL}")

    monkeypatch.setattr(results, "save_influence", fail)
    (finished.run_folder / "influence.npy").unlink()
    code, said = finished.again()
    assert code == 1 and "\x1b" not in said
    assert "bad label" in finished.log() and "Traceback" in finished.log() and "\x1b" not in finished.log()


@pytest.mark.fault(33, "no socket is opened")
def test_no_server_listens(fresh: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("bind", "listen", "connect"):
        monkeypatch.setattr(socket.socket, name, refuse)
    run([*TINY, "quiet=true", f"paths.outputs={fresh.outputs}"])
