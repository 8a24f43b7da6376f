"""Find the tenant of a request: that of its API key, or that of its header ``X-OJS-Tenant``.

A header is not a proof of who the client is. So an API key may be bound to a tenant, and then its
requests have this tenant, with or without the header (spec: ojs-multi-tenancy 5.2 and 5.3).
"""

from __future__ import annotations

from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.core.errors import PermissionDenied
from ojs_cluster.core.jobs.tenant import check_tenant
from ojs_cluster.http.routing.router import Route, TenantAccess


def find_tenant(principal: Principal, given: str | None, *, field: str) -> str | None:
    """Return the tenant of a request, None for none.

    Args:
        principal: the owner of the API key.
        given: the tenant that the request names, None for none.
        field: the part of the request that names it, for errors.

    Raises:
        InvalidRequest: the given tenant has a wrong form.
        PermissionDenied: the API key is bound to another tenant.
    """
    bound = principal.tenant
    if given is None:
        return bound
    check_tenant(given, field=field)
    if bound is not None and given != bound:
        raise PermissionDenied(
            f"the API key '{principal.name}' is bound to another tenant",
            field=field,
            principal=principal.name,
        )
    return given


def check_route(route: Route, tenant: str | None) -> None:
    """Check that a request with a tenant may use a route.

    Raises:
        PermissionDenied: the route is about all tenants.
    """
    if tenant is not None and route.access_of_tenants is TenantAccess.REFUSED:
        raise PermissionDenied(
            f"this request is for the tenant '{tenant}', and the endpoint is about all tenants"
        )
