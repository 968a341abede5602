"""Chains that HyperGPU knows by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Preset:
    """A public chain: id, RPC endpoints, and where people look transactions up."""

    name: str
    chain_id: int
    rpc_urls: tuple[str, ...]
    explorer: str

    def transaction_link(self, tx_hash: str) -> str:
        """Page of a transaction in the explorer."""
        return f"{self.explorer}/tx/{tx_hash}"


PRESETS: Final = {
    preset.name: preset
    for preset in (
        Preset("monad-mainnet", 143, ("https://rpc.monad.xyz", "https://rpc1.monad.xyz"), "https://monadvision.com"),
        Preset("monad-testnet", 10143, ("https://testnet-rpc.monad.xyz",), "https://testnet.monadvision.com"),
    )
}


def preset_of(chain_id: int) -> Preset | None:
    """Preset of a chain id, if it is a known chain."""
    return next((preset for preset in PRESETS.values() if preset.chain_id == chain_id), None)
