"""All environment variables, collected from the settings that declare them.

A new variable is one field of a settings class (``core.config.variable``). A new settings class is
one more ``Section`` here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.core.config.variable import Variable, variables_of
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.server.config.redis_settings import RedisSettings
from ojs_cluster.server.config.settings import (
    AccessSettings,
    ListenSettings,
    LogSettings,
    ShardSettings,
    TelemetrySettings,
)
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings
from ojs_cluster.webhooks.settings import WebhookSettings
from ojs_scheduler.settings import SchedulerSettings


@dataclass(frozen=True, slots=True)
class Section:
    """The variables of one settings class.

    Attributes:
        name: name of the field of ``Settings`` that holds an instance of the class.
        heading: heading in docs/configuration.md. Sections with the same heading share a table.
        settings: the settings class.
    """

    name: str
    heading: str
    settings: type[Any]

    @property
    def variables(self) -> dict[str, Variable]:
        """The variables, by the name of the field that each variable fills."""
        return variables_of(self.settings)


SECTIONS: Final = (
    Section("listen", "Listening", ListenSettings),
    Section("access", "Access", AccessSettings),
    Section("http", "HTTP API", HttpSettings),
    Section("bodies", "HTTP API", BodyLimits),
    Section("limits", "HTTP API", PayloadLimits),
    Section("ui", "Dashboard", UiSettings),
    Section("oidc", "Dashboard", OidcSettings),
    Section("redis", "Redis", RedisSettings),
    Section("layout", "Jobs", ShardSettings),
    Section("store", "Jobs", StoreSettings),
    Section("webhooks", "Webhooks", WebhookSettings),
    Section("scheduler", "Scheduler", SchedulerSettings),
    Section("log", "Logs and traces", LogSettings),
    Section("telemetry", "Logs and traces", TelemetrySettings),
)
VARIABLES: Final = tuple(each for section in SECTIONS for each in section.variables.values())
