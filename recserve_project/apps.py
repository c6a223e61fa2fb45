"""The admin app, with recserve's own site."""

from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminConfig(DjangoAdminConfig):
    """Django's admin, on `recserve_project.admin_site.RecserveAdminSite`."""

    default_site = "recserve_project.admin_site.RecserveAdminSite"
