"""The views of the shop, which enqueue tasks."""

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.tasks import default_task_backend
from django.urls import path

from .models import Order
from .tasks import pay


def order(request: HttpRequest, name: str) -> JsonResponse:
    """Store an order and enqueue its payment; ``cancel`` rolls both back."""
    with transaction.atomic():
        stored = Order.objects.create(name=name)
        result = pay.enqueue(stored.pk, by="cash")
        early = result.enqueued_at is not None
        if "cancel" in request.GET:
            transaction.set_rollback(True)
    return JsonResponse({"id": result.id, "early": early})


def result(request: HttpRequest, id: str) -> JsonResponse:
    """Return the result of a task."""
    found = default_task_backend.get_result(id)
    value = found.return_value if found.is_finished else None
    return JsonResponse({"status": found.status, "value": value, "workers": found.worker_ids})


urlpatterns = [path("order/<name>", order), path("result/<id>", result)]
