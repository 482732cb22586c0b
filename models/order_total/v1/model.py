"""The total price of each order: a class whose predict uses data loaded by initialize_model."""

import os
from pathlib import Path

import pandas as pd


class OrderTotal:
    def initialize_model(self):
        """Called once in each pod, before the first file."""
        prices = pd.read_csv(Path(__file__).with_name("prices.csv"))
        self.prices = prices.set_index("product")["price"]
        # The execution's parameters are passed as environment variables.
        self.tax_rate = float(os.environ.get("TAX_RATE", "0"))

    def predict(self, df):
        """Called once per file, with the whole file."""
        total = df["quantity"] * df["product"].map(self.prices) * (1 + self.tax_rate)
        return df.assign(total=total.round(2))
