"""Imports a framework when its first model is loaded."""

from __future__ import annotations

import importlib
from typing import Any

from plugins.errors import ArtifactRejected


def import_framework(module: str, requirement: str) -> Any:
    """Return a framework's module.

    Args:
        module: The module's name.
        requirement: What to install where it is missing, as ``pip install`` takes it.

    Raises:
        ArtifactRejected: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # something that the framework itself lacks
        raise ArtifactRejected(
            f"Models of this framework need {module}, which is not installed here: "
            f"pip install {requirement}"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
