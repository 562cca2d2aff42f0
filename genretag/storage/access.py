"""How a command reaches buckets: with credentials or without, and who pays."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """Settings for access to buckets. Credentials themselves are not here, because they expire.

    If `anonymous`, requests carry no credentials, except those for the buckets of `own` (URIs of what a command writes,
    or of its model). If `request_payer`, requests say that we pay, where the bucket's owner demands it.
    """

    anonymous: bool = False
    request_payer: bool = False
    own: tuple[str, ...] = ()
    private_hosts: bool = False  # True: an https:// URL of a manifest may lead into this machine's own network
    in_worker: bool = False  # True: the job has reached the stores already, so an outage will pass

    def is_anonymous(self, uri: str) -> bool:
        """Return whether requests for `uri` carry no credentials."""
        bucket = _bucket(uri)
        return self.anonymous and all(_bucket(own) != bucket for own in self.own)


def _bucket(uri: str) -> str:
    """Return the scheme and the bucket of a URI."""
    return "/".join(uri.split("/")[:3])
