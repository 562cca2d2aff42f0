"""Simulated hosts with their own addresses: Linux network namespaces on a bridge.

If namespaces cannot be made (no root, or no `ip`), every host has the loopback address, and only ports differ.
"""

import os
import random
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Host:
    """A host: its address, and the words (`prefix`) to put before a command so that it runs on this host."""

    address: str
    prefix: tuple[str, ...] = ()
    device: str = ""
    """The bridge's end of the host's cable. Empty: the host has no namespace of its own."""

    def hiding(self, folder: Path) -> "Host":
        """Return the host with an empty file system mounted over `folder`, which only this host sees.

        If the host has no namespace, return it unchanged.
        """
        if not self.prefix:
            return self
        # `ip netns exec` gives the command its own mounts
        mount = ("sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder))
        return replace(self, prefix=(*self.prefix, *mount))

    def go_offline(self) -> None:
        """Pull the host's cable."""
        _ip("link", "set", self.device, "down")

    def go_online(self) -> None:
        """Plug the host's cable in again."""
        _ip("link", "set", self.device, "up")


class Network:
    """A bridge with this process at the address `gateway`, and hosts that `host()` adds."""

    def __init__(self) -> None:
        self._bridge = f"gt{os.getpid()}"
        self._subnet = f"10.{random.randrange(64, 250)}"
        self._namespaces: list[str] = []
        self.gateway = f"{self._subnet}.0.1"
        # A hardware address of its own. Otherwise, a bridge takes the lowest address of its ports, so a new host can
        # change it, and for up to a minute the other hosts send to an address that nobody has any more.
        address = "02:" + secrets.token_bytes(5).hex(":")  # 02: locally administered
        _ip("link", "add", self._bridge, "address", address, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/16", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def host(self) -> Host:
        """Make a network namespace with its own address on the bridge, and return it as a host."""
        number = len(self._namespaces) + 2
        name, address = f"{self._bridge}-{number}", f"{self._subnet}.{number // 250}.{number % 250 + 1}"
        inside, outside = f"{self._bridge}i{number}", f"{self._bridge}o{number}"
        _ip("netns", "add", name)
        self._namespaces.append(name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        _ip("link", "set", outside, "master", self._bridge, "up")
        _ip("-n", name, "addr", "add", f"{address}/16", "dev", inside)
        for device in (inside, "lo"):
            _ip("-n", name, "link", "set", device, "up")
        return Host(address, ("ip", "netns", "exec", name), outside)

    def remove(self) -> None:
        """Remove the namespaces and the bridge."""
        for name in self._namespaces:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)


class Loopback:
    """Replacement for `Network` if no namespaces can be made: every host is the loopback address."""

    gateway = LOOPBACK

    def host(self) -> Host:
        """Return the loopback host."""
        return Host(LOOPBACK)

    def remove(self) -> None:
        """Do nothing."""


@contextmanager
def network() -> Iterator[Network | Loopback]:
    """Yield a `Network`, or a `Loopback` if no namespaces can be made, and remove it after the block."""
    made: Network | Loopback | None = None
    if shutil.which("ip") and os.geteuid() == 0:
        with suppress(subprocess.CalledProcessError):
            made = Network()
            made.host()  # test whether a host can be made
    made = made if isinstance(made, Network) else Loopback()
    try:
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
