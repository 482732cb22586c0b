"""Purchase options of the machines that run an execution's pods."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["PurchaseOption"]


class PurchaseOption(StrEnum):
    """Spot machines are cheaper than on-demand machines, and can be reclaimed at any time."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"

    @classmethod
    def parse(cls, text: str) -> PurchaseOption:
        """Parse an option, ignoring case; ``on_demand`` and ``ondemand`` are accepted for ``on-demand``.

        Raises:
            ValueError: The option is unknown; the message lists the valid ones.
        """
        try:
            return cls(cls.normalize(text))
        except ValueError:
            raise ValueError(f"{text!r} is neither {cls.SPOT} nor {cls.ON_DEMAND}.") from None

    @staticmethod
    def normalize(text: str) -> str:
        """The canonical spelling of an option, or of a pattern that is matched against options."""
        return text.strip().lower().replace("_", "-").replace("ondemand", "on-demand")
