"""Whether the machines that share this database share SECRET_KEY too: a digest of it tells.

What one machine signs is refused by another with another key, and an API key that one has made or re-digested as well.
"""

import hashlib
import re
import secrets

from django.conf import settings
from django.db import models
from django.utils.crypto import constant_time_compare

_ROW = 1
_SALT = re.compile("[0-9a-f]{32}")  # of anything else, a row that somebody has written, it is no key's digest
_COST = 2**12  # 4 MB and some 10 ms for each key that is compared


class SecretKeyDigestManager(models.Manager["SecretKeyDigest"]):
    def agrees(self, *, note: bool) -> bool:
        """Tell whether SECRET_KEY, or one of its fallbacks, is the key of those that share this database.

        note: the first who asks decides which one that is; who has another, and that one among the fallbacks, is in
        the midst of a change of keys, and the new one counts from now on.
        """
        known = self.filter(pk=_ROW).first()
        if known is None and note:
            known, _ = self.get_or_create(pk=_ROW, defaults={"digest": _digest(settings.SECRET_KEY)})
        if known is None or known.is_of(settings.SECRET_KEY):
            return True
        if not any(map(known.is_of, settings.SECRET_KEY_FALLBACKS)):
            return False
        if note:
            self.filter(pk=_ROW, digest=known.digest).update(digest=_digest(settings.SECRET_KEY))
        return True

    def accept(self) -> None:
        """Have this process's SECRET_KEY count from now on, whatever the others have."""
        self.update_or_create(pk=_ROW, defaults={"digest": _digest(settings.SECRET_KEY)})


class SecretKeyDigest(models.Model):
    """The one row; it tells nothing about the key."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=_ROW)
    digest = models.CharField(max_length=100, help_text="Salt and scrypt of SECRET_KEY, in hexadecimal.")

    OTHER_KEY = (
        "SECRET_KEY is not that of the other machines with this database: API keys, logins and links made on one would "
        "be refused on the other. Set it to theirs (a machine without SECRET_KEY keeps its own in .secret_key). To "
        "change it, keep the earlier one in SECRET_KEY_FALLBACKS. If that is lost, run manage.py accept_secret_key, "
        "and make all API keys anew."
    )

    objects = SecretKeyDigestManager()

    def __str__(self) -> str:
        return "Digest of SECRET_KEY"

    def is_of(self, key: str) -> bool:
        salt = self.digest.partition("$")[0]
        return bool(_SALT.fullmatch(salt)) and constant_time_compare(self.digest, _digest(key, salt=salt))


def _digest(key: str, *, salt: str = "") -> str:
    """Return a digest with its salt before it. salt: hexadecimal; "" draws one."""
    salt = salt or secrets.token_hex(16)
    return f"{salt}${hashlib.scrypt(key.encode(), salt=bytes.fromhex(salt), n=_COST, r=8, p=1).hex()[:64]}"
