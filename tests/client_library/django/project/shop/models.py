"""The data of the shop."""

from django.db import models


class Order(models.Model):
    """An order."""

    name: "models.CharField[str, str]" = models.CharField(max_length=50)
    paid: "models.BooleanField[bool, bool]" = models.BooleanField(default=False)
