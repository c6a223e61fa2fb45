"""The lane's protocol class for uvicorn: ``--http recserve_project.protocol:LaneProtocol``.

uvicorn loads it before the application, so what that sets up is set up here, too.
"""

from recserve_project import asgi as asgi  # noqa: PLC0414  (for what its import does)
from serving_app.api.protocol import LaneProtocol

__all__ = ["LaneProtocol"]
