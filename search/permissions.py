from rest_framework.permissions import BasePermission
from rest_framework.request import Request


def staff_with(permission: str) -> type[BasePermission]:
    """Return the DRF permission of active staff users who have Django's permission."""

    class StaffWith(BasePermission):
        def has_permission(self, request: Request, view: object) -> bool:
            user = request.user
            return bool(user and user.is_active and user.is_staff and user.has_perm(permission))

    return StaffWith
