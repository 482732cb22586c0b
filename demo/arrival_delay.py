"""The demo's model, as contained in its build: how many minutes late will a flight arrive?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib

if TYPE_CHECKING:
    import pandas as pd


class ArrivalDelay:
    """Predicts arrival delays from what is known once a flight has departed."""

    def initialize_model(self) -> None:
        """Load the trained model, once per pod."""
        self._features: list[str]
        self._model: Any
        self._features, self._model = joblib.load(Path(__file__).with_name("model.joblib"))

    def predict(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the flights with an additional column, the predicted delay in minutes."""
        return df.assign(predicted_arr_delay=self._model.predict(df[self._features]))
