"""Fetching a dataset's official archives with torchvision, which checks their MD5 sums."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets.utils import download_url, extract_archive

from influx.datasets.settings import looked_up
from influx.errors import DataError


def fetch(name: str, folder: Path, addresses: Sequence[str], file: str, md5: str) -> None:
    """Download one archive into ``folder`` and unpack it; the addresses are tried in turn.

    Only torchvision's download is used: its dataset classes would go on to unpickle what they find.

    Raises:
        DataError: no address answered with the right file, or the folder cannot be written.
    """
    reasons = []
    for address in addresses:
        try:
            download_and_unpack(address, str(folder), filename=file, md5=md5)
            return
        except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
            reasons.append(" ".join(str(error).split()) or type(error).__name__)
    raise DataError(
        f"{name} could not be downloaded to {folder} ({reasons[-1]}); check the network, or copy {file} there and "
        f"unpack it, and set dataset.path"
    )


def download_and_unpack(address: str, folder: str, filename: str, md5: str) -> None:
    """Fetch one archive and unpack it; no member may leave ``folder``, be a device or carry odd permissions.

    Raises:
        OSError, RuntimeError: it was not fetched, or its MD5 sum is another.
        tarfile.TarError: it is damaged, or a member may not be unpacked.
    """
    download_url(address, folder, filename=filename, md5=md5)
    archive = Path(folder).expanduser() / filename
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            tar.extractall(archive.parent, filter="data")
    else:
        extract_archive(str(archive), str(archive.parent))


def data_folder(path: str | None) -> Path:
    """Where torchvision's datasets lie: ``dataset.path``, or ``data`` in the current folder."""
    return looked_up("data" if path is None else path, "folder")
