"""How the machines of an execution's pods are bought."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["PurchaseOption"]


class PurchaseOption(StrEnum):
    """Spot machines are cheaper and may be taken away at any time."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"

    @classmethod
    def parse(cls, text: str) -> PurchaseOption:
        """The option of this name, in any case; ``on_demand`` and ``ondemand`` are spellings of ``on-demand``.

        Raises:
            ValueError: There is no such option; the message names those there are.
        """
        try:
            return cls(cls.normalize(text))
        except ValueError:
            raise ValueError(f"{text!r} is neither {cls.SPOT} nor {cls.ON_DEMAND}.") from None

    @staticmethod
    def normalize(text: str) -> str:
        """The usual spelling of a name or, where names are matched, of a pattern."""
        return text.strip().lower().replace("_", "-").replace("ondemand", "on-demand")
