"""Hosts on this machine that have addresses of their own: network namespaces on a bridge, where we may make them.

Elsewhere (no root, no `ip`) every host is the loopback address, and only ports differ.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Host:
    """An address, and what stands before a command for it to run there."""

    address: str
    prefix: tuple[str, ...] = ()

    def hiding(self, folder: Path) -> "Host":
        """The same, but for an empty disk over a folder, which only this host has."""
        if not self.prefix:
            return self
        mount = ("sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder))  # `ip netns exec` unshares mounts
        return replace(self, prefix=(*self.prefix, *mount))


class Network:
    """A bridge with us at `gateway`, and hosts that come with `host()`."""

    def __init__(self) -> None:
        self._bridge = f"gt{os.getpid()}"
        self._subnet = f"10.{random.randrange(64, 250)}.{random.randrange(250)}"
        self._namespaces: list[str] = []
        self.gateway = f"{self._subnet}.1"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def host(self) -> Host:
        """A new host."""
        number = len(self._namespaces) + 2
        name, address = f"{self._bridge}-{number}", f"{self._subnet}.{number}"
        inside, outside = f"{self._bridge}i{number}", f"{self._bridge}o{number}"
        _ip("netns", "add", name)
        self._namespaces.append(name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        _ip("link", "set", outside, "master", self._bridge, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", inside)
        for device in (inside, "lo"):
            _ip("-n", name, "link", "set", device, "up")
        return Host(address, ("ip", "netns", "exec", name))

    def remove(self) -> None:
        """Takes all of it away again."""
        for name in self._namespaces:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)


class Loopback:
    """What there is where no namespaces can be made."""

    gateway = LOOPBACK

    def host(self) -> Host:
        """The same as all others."""
        return Host(LOOPBACK)

    def remove(self) -> None:
        """There is nothing to take away."""


@contextmanager
def network() -> Iterator[Network | Loopback]:
    """Hosts for the block: with addresses of their own where that can be had."""
    made: Network | Loopback | None = None
    if shutil.which("ip") and os.geteuid() == 0:
        with suppress(subprocess.CalledProcessError):
            made = Network()
            made.host()  # so that we know that it can be done
    made = made if isinstance(made, Network) else Loopback()
    try:
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
