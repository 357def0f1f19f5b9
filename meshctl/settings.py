"""The whole settings file: what all services share, and a section for each."""

from __future__ import annotations

import os

from channel_gateway.sandbox.settings import SandboxSettings
from channel_gateway.settings import ChannelGatewaySettings
from pay_core.settings import PayCoreSettings
from paykit.errors import ConfigurationError
from paykit.settings import CommonSettings, ServiceSettings, load
from recon.settings import ReconSettings
from trade_core.settings import TradeCoreSettings

# In the order in which they are started: recon asks the others. Each is also the name of its package and section.
SERVICES = ("pay_core", "channel_gateway", "trade_core", "recon")
SANDBOX = "sandbox"  # the provider, which is no service of ours


class MeshSettings(CommonSettings):
    """One TOML file. A section that a process does not need may be left out."""

    trade_core: TradeCoreSettings | None = None
    pay_core: PayCoreSettings | None = None
    channel_gateway: ChannelGatewaySettings | None = None
    recon: ReconSettings | None = None
    sandbox: SandboxSettings | None = None

    def service(self, name: str) -> ServiceSettings:
        """The section of a service; ConfigurationError where there is no such service or section."""
        if name not in SERVICES:
            raise ConfigurationError(f"unknown service {name}: there are {', '.join(sorted(SERVICES))}")
        section: ServiceSettings | None = getattr(self, name)
        if section is None:
            raise ConfigurationError(f"{name}: missing: the configuration has no section [{name}]")
        return section

    def services(self) -> dict[str, ServiceSettings]:
        """The sections that there are, by name, in the order in which the services are started."""
        return {name: self.service(name) for name in SERVICES if getattr(self, name) is not None}


def load_mesh(path: str | os.PathLike[str]) -> MeshSettings:
    """Reads and checks the whole file, with overrides from the environment; ConfigurationError names what is wrong."""
    return load(MeshSettings, path)
