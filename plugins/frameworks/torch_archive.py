"""What a PyTorch file is, told from its members, without running anything in it."""

from __future__ import annotations

import io
import json
import zipfile
from enum import Enum
from pathlib import Path
from typing import Any

from plugins.errors import ArtifactRejected
from plugins.frameworks.runtime import first_line

__all__ = ["TorchFormat", "format_of", "refuse_pickles"]


class TorchFormat(Enum):
    """The formats of PyTorch that can be served."""

    TORCHSCRIPT = "TorchScript"
    EXPORTED = "torch.export"
    COMPILED = "AOTInductor"


def format_of(path: Path) -> TorchFormat:
    """Return the format of a file.

    Raises:
        ArtifactRejected: It has none of them; the message says what to do.
    """
    if path.is_dir():
        raise ArtifactRejected(
            f"{path.name} is a directory; a PyTorch model is one file. "
            "For a TensorFlow SavedModel choose the framework tensorflow."
        )
    members = _members(path)
    if any(name.startswith("code/") for name in members):
        return TorchFormat.TORCHSCRIPT
    if any(name.startswith("data/aotinductor/") for name in members):
        return TorchFormat.COMPILED
    if "archive_format" in members and any(name.startswith("models/") for name in members):
        return TorchFormat.EXPORTED
    raise ArtifactRejected(
        f"{path.name} holds no TorchScript, no torch.export program and no AOTInductor package; a "
        "file of torch.save(model) or a state_dict cannot be served. Use torch.export.save, "
        "torch.jit.save or torch._inductor.aoti_compile_and_package of this release of PyTorch."
    )


def refuse_pickles(path: Path, torch: Any) -> None:
    """Refuse a ``torch.export`` archive of which loading would unpickle objects.

    ``torch.export.load`` unpickles whatever PyTorch's own safe loader refuses: example inputs that
    are more than tensors, weights of tensor subclasses, script and opaque objects.

    Args:
        path: The archive.
        torch: The module.

    Raises:
        ArtifactRejected: It holds such an object.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                member = name.partition("/")[2]
                if not member.startswith(("data/sample_inputs/", "data/weights/", "data/const")):
                    continue
                if member.endswith("_config.json"):
                    _refuse_objects(json.loads(archive.read(name)))
                elif member.endswith(".pt"):
                    content = archive.read(name)
                    if content:  # what the safe loader takes, PyTorch loads with it
                        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise ArtifactRejected(
            f"{path.name} cannot be loaded without running a pickle, which may be any code, or it "
            f"is damaged: {first_line(error)}. Export the program with plain tensors as its "
            "example inputs, weights and constants."
        ) from error


def _members(path: Path) -> set[str]:
    """Return the names in an archive, without the folder that all of them are in."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ArtifactRejected(
            f"{path.name} is no PyTorch archive, or it is truncated: {error}. Save it with "
            "torch.export.save or torch.jit.save."
        ) from error
    if len({name.partition("/")[0] for name in names}) > 1:
        return set()  # PyTorch writes one folder; the layouts before 2.8 were pickles
    return {name.partition("/")[2] for name in names}


def _refuse_objects(config: Any) -> None:
    for name, payload in config["config"].items():
        stored = payload["path_name"]
        if payload["use_pickle"] or not stored.startswith(("weight_", "tensor_")):
            raise ValueError(f"{name} is stored as a pickle ({stored})")
