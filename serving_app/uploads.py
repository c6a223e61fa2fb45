"""Files uploaded in the admin, kept in the model store."""

from __future__ import annotations

import secrets
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from django.core.files.uploadedfile import UploadedFile
from django.utils.text import get_valid_filename

from plugins import ArtifactRejected


class UploadFolder:
    """A new folder of the model store for the files of one upload."""

    def __init__(self, store: Path, *, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._folder = store / "uploads" / secrets.token_hex(8)

    def keep(self, upload: UploadedFile[bytes]) -> str:
        """Write an uploaded file, and return its path in the store.

        A ``.zip`` is unpacked: that is how a SavedModel, a directory, is uploaded.

        Raises:
            ArtifactRejected: It is too large, or a zip that is damaged or unsafe.
        """
        name = get_valid_filename(Path(upload.name or "upload").name)
        if (upload.size or 0) > self._limit:
            raise ArtifactRejected(f"{name} is larger than {self._limit} bytes.")
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        with path.open("wb") as file:
            for chunk in upload.chunks():
                file.write(chunk)
        if path.suffix == ".zip":
            path = self._unpack(path)
        return path.relative_to(self._store).as_posix()

    def discard(self) -> None:
        """Remove all that was kept."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _unpack(self, path: Path) -> Path:
        target = path.with_suffix("")
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > self._limit:
                    raise ArtifactRejected(f"{path.name} unpacks to over {self._limit} bytes.")
                for member in members:
                    name = PurePosixPath(member.filename)
                    link = stat.S_ISLNK(member.external_attr >> 16)
                    if name.is_absolute() or ".." in name.parts or link:
                        raise ArtifactRejected(f"{path.name} holds the unsafe path {name}.")
                archive.extractall(target)
        except zipfile.BadZipFile as error:
            raise ArtifactRejected(f"{path.name} is no zip file, or is damaged: {error}") from error
        path.unlink()
        # A zip of a folder holds that one folder; the folder is the artifact then.
        inside = list(target.iterdir())
        return inside[0] if len(inside) == 1 and inside[0].is_dir() else target
