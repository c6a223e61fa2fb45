"""Plugins: which there are, what they did wrong, and switching them on again."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cache_app.plugin_switches import switch_on
from plugins import UnknownPlugin
from plugins.apps import failures_everywhere, get_registry
from plugins.registry import PluginRecord
from serving_app import wiring
from serving_app.api.authentication import access_of
from serving_app.api.permissions import CanOperate


class PartSerializer(serializers.Serializer[Any]):
    """What one part of a plugin did wrong, in all processes that serve."""

    part = serializers.CharField(help_text="Such as `eviction policy random`, or `fallback`.")
    failures = serializers.IntegerField()
    error = serializers.CharField(help_text="The last of them.")
    at = serializers.FloatField(help_text="When that was, in seconds since the epoch.")
    off = serializers.IntegerField(help_text="In how many processes it is switched off.")


class PluginSerializer(serializers.Serializer[Any]):
    """One plugin that was found, and what became of it."""

    name = serializers.CharField()
    version = serializers.CharField()
    distribution = serializers.CharField()
    origin = serializers.CharField()
    state = serializers.ChoiceField(choices=["loaded", "blocked", "failed"])
    reason = serializers.CharField(help_text="Why it is blocked or failed.")
    api = serializers.IntegerField(allow_null=True, help_text="The plugin API it was written for.")
    hooks = serializers.ListField(child=serializers.CharField())
    provides = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))
    parts = PartSerializer(many=True, help_text="Those that failed since the server started.")


class PluginsView(APIView):
    """The plugins."""

    permission_classes = (CanOperate,)

    @extend_schema(operation_id="plugins_list", responses={200: PluginSerializer(many=True)})
    def get(self, request: Request) -> Response:
        """Return every plugin that was found, with what its parts did wrong."""
        failures = failures_everywhere()
        return Response(
            [
                {
                    **_described(record),
                    "parts": [
                        {
                            "part": part,
                            "failures": one.failures,
                            "error": one.error,
                            "at": one.at,
                            "off": one.off,
                        }
                        for part, one in failures.get(record.name, {}).items()
                    ],
                }
                for record in get_registry().records
            ]
        )


class PluginSwitchView(APIView):
    """The switch of one plugin."""

    permission_classes = (CanOperate,)

    @extend_schema(request=None, responses={204: None})
    def post(self, request: Request, plugin: str) -> Response:
        """Let every part of a plugin that was switched off work again, in every process."""
        access_of(request).check_every_model("operate")
        try:
            switch_on(plugin)
        except UnknownPlugin as error:
            raise NotFound(str(error)) from error
        wiring.wake()
        return Response(status=204)


def _described(record: PluginRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "version": record.version,
        "distribution": record.distribution,
        "origin": record.origin,
        "state": record.state,
        "reason": record.reason,
        "api": record.api,
        "hooks": list(record.hooks),
        "provides": {plural: list(names) for plural, names in record.provides.items()},
    }
