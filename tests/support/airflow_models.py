"""The model that tests run in a real Airflow, and its input files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.storage.local import LocalStorage

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MODEL_SOURCE", "expected", "frame", "publish_model"]

# A file's ``mood`` column determines what happens to it; names in capitals are parameters of the execution. ``gated`` files
# wait until the file GATE exists, ``called`` files until a file with their name exists in the folder GATE.
MODEL_SOURCE = """
import os
import time
from pathlib import Path


class Model:
    def initialize_model(self):
        print("model is ready")
        self.factor = int(os.environ.get("FACTOR", "2"))

    def predict(self, df):
        name = df["name"].iloc[0]
        if "CALLS" in os.environ:
            with open(os.environ["CALLS"], "a") as calls:
                calls.write(name + "\\n")
        mood = df["mood"].iloc[0]
        if mood == "fail" and Path(os.environ["BROKEN"]).exists():
            raise ValueError("this file upsets me")
        if mood == "hang":
            time.sleep(600)
        if mood == "slow":
            time.sleep(float(os.environ["PAUSE"]))
        while mood == "gated" and not Path(os.environ["GATE"]).exists():
            time.sleep(0.1)
        while mood == "called" and not Path(os.environ["GATE"], name).exists():
            time.sleep(0.1)
        return df.assign(y=df["x"] * self.factor)
"""


def publish_model(folder: Path, model_id: str) -> None:
    """Publish the model to a repository on disk, and deploy it."""
    source = folder / f"source-{model_id}"
    source.mkdir(parents=True)
    (source / "model.py").write_text(MODEL_SOURCE)
    (source / "model.toml").write_text('entrypoint = "model:Model"\n')
    repository = ModelRepository(
        root=Location.of_path(folder / "repository"), storage=LocalStorage(), cache=folder / "cache"
    )
    repository.publish(source, model_id=model_id, build_id="b1")
    repository.deploy(model_id, "b1", instance="tiny")


def frame(name: str, rows: int, *, mood: str = "calm") -> pd.DataFrame:
    """The rows of one input file."""
    return pd.DataFrame({"name": name, "x": [i + 0.5 for i in range(rows)], "mood": mood})


def expected(data: pd.DataFrame, *, factor: int = 2) -> pd.DataFrame:
    """The expected result, computed with pandas alone."""
    return data.assign(y=data["x"] * factor)
