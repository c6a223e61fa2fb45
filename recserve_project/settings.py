"""Django settings: embedded defaults, changed by environment variables (docs/settings.md)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import environ
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _

from recserve_project.secret_key import read_or_create

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = Path(env.str("RECSERVE_VAR", str(BASE_DIR / "var")))
"""Everything this installation writes: database, models, secrets."""
VAR.mkdir(mode=0o700, parents=True, exist_ok=True)

DEBUG = env.bool("RECSERVE_DEBUG", False)
SECRET_KEY = env.str("RECSERVE_SECRET_KEY", "") or read_or_create(VAR / "secret.key")
ALLOWED_HOSTS = env.list("RECSERVE_ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("RECSERVE_CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",  # leaves the choice of the admin site to AdminConfig
    "recserve_project.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "rest_framework_simplejwt.token_blacklist",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "plugins",
    "cache_app",
    "serving_app",
]

MIDDLEWARE = [
    "serving_app.api.request_ids.request_ids",
    "corsheaders.middleware.CorsMiddleware",
    "serving_app.api.answers.api_answers",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "serving_app.api.for_browsers.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "serving_app.api.for_browsers.AuthenticationMiddleware",
    "serving_app.api.for_browsers.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "recserve_project.urls"
WSGI_APPLICATION = "recserve_project.wsgi.application"
ASGI_APPLICATION = "recserve_project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "recserve_project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": env.db("RECSERVE_DATABASE_URL", f"sqlite:///{VAR / 'db.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # WAL lets readers and one writer work at once; IMMEDIATE makes a writer wait for its turn
    # at the start, where it can, and not fail in the middle.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = reverse_lazy("admin:login")
LOGIN_REDIRECT_URL = reverse_lazy("admin:index")

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = VAR / "static"
STATIC_ROOT.mkdir(exist_ok=True)
STATICFILES_DIRS = [BASE_DIR / "recserve_project" / "static"]
WHITENOISE_USE_FINDERS = True  # serves the apps' static files without a collectstatic step

DATA_UPLOAD_MAX_MEMORY_SIZE = 2_500_000
FILE_UPLOAD_MAX_MEMORY_SIZE = 1_000_000  # larger artifacts go through a temporary file

SECURE_CONTENT_TYPE_NOSNIFF = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env.bool("RECSERVE_HTTPS", False)
SECURE_SSL_REDIRECT = env.bool("RECSERVE_HTTPS", False)
SECURE_HSTS_SECONDS = env.int("RECSERVE_HSTS_SECONDS", 0)

# Browsers of other origins reach the API by bearer tokens, never with cookies.
CORS_ALLOWED_ORIGINS = env.list("RECSERVE_CORS_ALLOWED_ORIGINS", default=[])
CORS_URLS_REGEX = r"^/(api|v2)/"
CORS_ALLOW_METHODS = ("GET", "POST", "PATCH", "DELETE", "OPTIONS")
CORS_ALLOW_HEADERS = (
    *("accept", "authorization", "content-type", "if-none-match"),
    *("x-request-id", "traceparent", "tracestate"),
    *("content-encoding", "inference-header-content-length"),
)
CORS_EXPOSE_HEADERS = (
    *("ETag", "Retry-After", "Server-Timing", "X-Request-ID"),
    "Inference-Header-Content-Length",
)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "serving_app.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["serving_app.api.permissions.CanAdminister"],
    "DEFAULT_THROTTLE_CLASSES": ["serving_app.api.throttles.RoleThrottle"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "serving_app.api.negotiation.Negotiation",
    "DEFAULT_PARSER_CLASSES": ["serving_app.api.json.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": [
        "serving_app.api.json.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_PAGINATION_CLASS": "serving_app.api.pagination.PageNumberPagination",
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.OrderingFilter",
        "rest_framework.filters.SearchFilter",
    ],
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "serving_app.api.problems.exception_handler",
}

SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=15),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=1),
    "UPDATE_LAST_LOGIN": False,
    "ROTATE_REFRESH_TOKENS": True,
    "BLACKLIST_AFTER_ROTATION": True,
    "CHECK_REVOKE_TOKEN": True,  # a new password ends the tokens given before
    "AUDIENCE": "recserve",
    "ISSUER": "recserve",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "recserve",
    "DESCRIPTION": "Recommendations from trained models.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "AlertState": "serving_app.alert_models.Alert.State",
        "WarmupRunState": "serving_app.warmup_models.WarmupRun.State",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "serving_app.api.schema.describe",
    ],
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "plain": {"()": "serving_app.log_format.PlainFormatter"},
        "json": {"()": "serving_app.log_format.JSONFormatter"},
    },
    "handlers": {
        "console": {
            "class": "serving_app.log_writer.Lines",
            "formatter": env.str("RECSERVE_LOG_FORMAT", "plain"),
        }
    },
    "root": {"handlers": ["console"], "level": env.str("RECSERVE_LOG_LEVEL", "INFO")},
    # A refused request is the caller's affair; the access log has it already.
    "filters": {"unexpected": {"()": "serving_app.log_format.Unexpected"}},
    "loggers": {
        "django.request": {"level": "ERROR", "filters": ["unexpected"]},
        "absl": {"level": "WARNING"},
    },
}

UNFOLD = {
    "SITE_TITLE": "recserve",
    "SITE_HEADER": "recserve",
    "SITE_SUBHEADER": _("Recommendations from trained models"),
    "SITE_SYMBOL": "recommend",
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda _request: static("recserve/favicon.svg"),
        }
    ],
    "SHOW_BACK_BUTTON": True,
    "STYLES": [lambda _request: static("recserve/pages.css")],
    "SCRIPTS": [lambda _request: static("recserve/labels.js")],
    "SIDEBAR": {
        "show_search": False,
        "navigation": [
            {
                "title": _("Overview"),
                "items": [
                    {
                        "title": _("Dashboard"),
                        "icon": "speed",
                        "link": reverse_lazy("admin:dashboard"),
                    },
                    {
                        "title": _("Analysis"),
                        "icon": "query_stats",
                        "link": reverse_lazy("admin:analysis"),
                    },
                    {
                        "title": _("History"),
                        "icon": "history",
                        "link": reverse_lazy("admin:history"),
                    },
                    {
                        "title": _("Settings in force"),
                        "icon": "tune",
                        "link": reverse_lazy("admin:settings"),
                    },
                    {
                        "title": _("Plugins"),
                        "icon": "extension",
                        "link": reverse_lazy("admin:plugins"),
                    },
                    {"title": _("API"), "icon": "api", "link": reverse_lazy("api-docs")},
                ],
            },
            {
                "title": _("Serving"),
                "items": [
                    {
                        "title": _("Models"),
                        "icon": "model_training",
                        "link": reverse_lazy("admin:serving_app_servedmodel_changelist"),
                    },
                    {
                        "title": _("Versions"),
                        "icon": "deployed_code",
                        "link": reverse_lazy("admin:serving_app_modelversion_changelist"),
                    },
                    {
                        "title": _("Aliases"),
                        "icon": "label",
                        "link": reverse_lazy("admin:serving_app_alias_changelist"),
                    },
                    {
                        "title": _("Roll-outs"),
                        "icon": "rocket_launch",
                        "link": reverse_lazy("admin:serving_app_rollout_changelist"),
                    },
                    {
                        "title": _("Activations"),
                        "icon": "memory",
                        "link": reverse_lazy("admin:serving_app_activation_changelist"),
                    },
                    {
                        "title": _("Logged requests"),
                        "icon": "history",
                        "link": reverse_lazy("admin:serving_app_loggedrequest_changelist"),
                    },
                ],
            },
            {
                "title": _("Cache"),
                "items": [
                    {
                        "title": _("Cache"),
                        "icon": "cached",
                        "link": reverse_lazy("admin:cache"),
                    },
                    {
                        "title": _("Warm-up"),
                        "icon": "local_fire_department",
                        "link": reverse_lazy("admin:serving_app_warmupschedule_changelist"),
                    },
                    {
                        "title": _("Warm-up runs"),
                        "icon": "directions_run",
                        "link": reverse_lazy("admin:serving_app_warmuprun_changelist"),
                    },
                ],
            },
            {
                "title": _("People"),
                "items": [
                    {
                        "title": _("Activity"),
                        "icon": "monitoring",
                        "link": reverse_lazy("admin:serving_app_activitycount_changelist"),
                    },
                    {
                        "title": _("Events"),
                        "icon": "shopping_cart",
                        "link": reverse_lazy("admin:serving_app_event_changelist"),
                    },
                    {
                        "title": _("Segments"),
                        "icon": "group_work",
                        "link": reverse_lazy("admin:serving_app_segment_changelist"),
                    },
                    {
                        "title": _("Drift"),
                        "icon": "explore",
                        "link": reverse_lazy("admin:serving_app_driftdecision_changelist"),
                    },
                ],
            },
            {
                "title": _("Alerts"),
                "items": [
                    {
                        "title": _("Alerts"),
                        "icon": "notifications",
                        "link": reverse_lazy("admin:serving_app_alert_changelist"),
                    },
                    {
                        "title": _("Alert rules"),
                        "icon": "rule",
                        "link": reverse_lazy("admin:serving_app_alertrule_changelist"),
                    },
                    {
                        "title": _("Silences"),
                        "icon": "notifications_off",
                        "link": reverse_lazy("admin:serving_app_alertsilence_changelist"),
                    },
                    {
                        "title": _("Alert channels"),
                        "icon": "campaign",
                        "link": reverse_lazy("admin:serving_app_alertchannel_changelist"),
                    },
                ],
            },
            {
                "title": _("Access"),
                "items": [
                    {
                        "title": _("Users"),
                        "icon": "person",
                        "link": reverse_lazy("admin:auth_user_changelist"),
                    },
                    {
                        "title": _("Groups"),
                        "icon": "group",
                        "link": reverse_lazy("admin:auth_group_changelist"),
                    },
                    {
                        "title": _("Service tokens"),
                        "icon": "key",
                        "link": reverse_lazy("admin:serving_app_servicetoken_changelist"),
                    },
                    {
                        "title": _("Signing keys"),
                        "icon": "signature",
                        "link": reverse_lazy("admin:serving_app_signingkey_changelist"),
                    },
                ],
            },
        ],
    },
}

REDIS_URL = env.str("RECSERVE_REDIS_URL", "")
if REDIS_URL:
    CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": "recserve",
            "OPTIONS": {
                "CLIENT_CLASS": "cache_app.redis_caches.BreakingClient",
                "CONNECTION_FACTORY": "cache_app.redis_caches.BreakingFactory",
                "CONNECTION_POOL_CLASS": "redis.connection.BlockingConnectionPool",
                "CONNECTION_POOL_KWARGS": {"max_connections": 32, "timeout": 0.05},
                "SERIALIZER": "django_redis.serializers.json.JSONSerializer",  # never pickle
                "SOCKET_TIMEOUT": 0.05,
                "SOCKET_CONNECT_TIMEOUT": 0.1,
                "IGNORE_EXCEPTIONS": True,  # a Redis that fails is a miss, not a failed request
            },
        }
    }
RECSERVE: dict[str, object] = {
    "SERVING": {
        "MODEL_STORE": str(VAR / "models"),
        "MODEL_HOST": env.str("RECSERVE_MODEL_HOST", "auto"),
        "LANE": env.str("RECSERVE_LANE", "auto"),
        "LANE_ENTRANCE": env.str("RECSERVE_LANE_ENTRANCE", "protocol"),
    },
    "CACHE": {
        "L2": {"BACKEND": "redis", "ALIAS": "default"}
        if REDIS_URL
        else {"BACKEND": "embedded", "PATH": str(VAR / "cache")},
        "EPOCH_FILE": str(VAR / "cache" / "epoch"),
    },
    "TRACING": {"ENDPOINT": env.str("RECSERVE_OTLP_ENDPOINT", "")},
}
"""recserve's own settings; every key has a default (docs/settings.md)."""
