"""What the server is told when it starts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from commandr_gguf.errors import ArgumentError
from commandr_gguf.sampling import SamplingParams


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See the options of `commandr serve`.

    Raises:
        ArgumentError: the server could be reached from other machines, and there is no key.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes a free one."""
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins may use the server; "*" stands for all."""
    model_alias: str | None = None
    """The model's name in answers; None takes the file's."""
    timeout: float | None = 600.0
    """Seconds that a request may take, waiting included."""
    body_timeout: float = 60.0
    """Seconds in which a request's body must arrive."""
    grace: float = 10.0
    """Seconds that requests have to end when the server stops."""
    max_body_bytes: int = 32 << 20
    max_documents: int = 1000
    max_tokens: int | None = None
    """Of a reply; a request may ask for fewer."""
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.3))
    """What a request leaves out."""
    log_prompts: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.api_key:
            raise ArgumentError(f"--host {self.host} lets other machines in, which needs --api-key")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise ArgumentError("--api-key must be one or more printable ASCII characters")


def is_loopback(host: str) -> bool:
    """Whether a server at this address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
