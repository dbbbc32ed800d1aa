"""Names of container images, and the patterns of a policy that they match."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

_HUB: Final = "docker.io"
_OFFICIAL: Final = "library"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
#: The engine takes it for an image's id, whatever that image is.
_ID: Final = re.compile(r"(sha256:)?[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class Image:
    """An image's name, or a pattern of names: the parts of its repository, its tag and digest."""

    repository: tuple[str, ...]
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, written: str) -> Image:
        """Read a name as the engine does."""
        name, at, digest = written.partition("@")
        *folders, last = name.split("/")
        last, colon, tag = last.partition(":")
        parts = (*folders, last)
        if len(parts) == 1 or not (set(".:") & set(parts[0]) or parts[0] == "localhost"):
            parts = (_HUB, *((_OFFICIAL,) if len(parts) == 1 else ()), *parts)
        return cls(parts, tag if colon else None, digest if at else None)

    def allows(self, image: Image) -> bool:
        """Return whether ``image`` matches this pattern.

        The engine passes over the tag of an image that has a digest, so such a tag matches nothing.
        """
        if len(self.repository) != len(image.repository):
            return False
        if not all(map(fnmatchcase, image.repository, self.repository)):
            return False
        if self.digest is not None:
            return image.digest is not None and fnmatchcase(image.digest, self.digest)
        if self.tag in {None, "*"}:
            return True
        return image.digest is None and fnmatchcase(image.tag or "latest", str(self.tag))


def is_id(written: str) -> bool:
    """Return whether a name may be the id of an image that the engine has."""
    return _ID.fullmatch(written) is not None


def has_digest(written: str) -> bool:
    """Return whether a name ends in the digest of the image's content."""
    return _DIGEST.fullmatch(written.partition("@")[2]) is not None
