from typing import Any

from django.db import models


class SavedOnce(models.Model):
    """A row that is saved when it is made. From then on UPDATEs change it that say what they rely on.

    An instance may know an old state of its row: saved, it would cancel a cancellation, or bring a revoked key back.
    """

    class Meta:
        abstract = True

    def save(self, *args: Any, **options: Any) -> None:
        if not self._state.adding:
            raise TypeError(f"{self._meta.verbose_name} {self.pk} is changed by its own methods, and never saved again")
        super().save(*args, **options)
