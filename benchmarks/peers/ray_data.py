"""The peer: Ray Data on this machine, with one pool of actors that predict, and write one result per file.

Ray Data reads the files in blocks of several; each actor loads the model once. Ray is started and stopped by this
process, listens on loopback only, and sends no usage statistics.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

# Ray reads this when it is imported.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import joblib
import pandas as pd
import pyarrow as pa
import ray
from pyarrow import csv


class Predictor:
    def __init__(self, model: str, destination: str) -> None:
        self.features, self.model = joblib.load(model)
        self.destination = Path(destination)

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame["predicted_arr_delay"] = self.model.predict(frame[self.features])
        for path, rows in frame.groupby("path", sort=False):
            table = pa.Table.from_pandas(rows.drop(columns="path"), preserve_index=False)
            csv.write_csv(table, self.destination / Path(str(path)).name)
        return pd.DataFrame({"rows": [len(frame)]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("model", type=Path, help="a joblib file containing (feature names, model)")
    parser.add_argument("--actors", type=int, default=2)
    arguments = parser.parse_args()
    arguments.destination.mkdir(parents=True, exist_ok=True)
    # The paths of Ray's sockets are in this folder and must be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(
            num_cpus=arguments.actors,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            print(f"{predict(arguments):,} rows")
        finally:
            ray.shutdown()


def predict(arguments: argparse.Namespace) -> int:
    files = ray.data.read_csv(str(arguments.source.resolve()), include_paths=True)
    predicted: Any = files.map_batches(
        Predictor,
        fn_constructor_args=(str(arguments.model.resolve()), str(arguments.destination.resolve())),
        batch_format="pandas",
        # Whole blocks: a block contains whole files.
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=arguments.actors),
        # The other half of each CPU is for reading.
        num_cpus=0.5,
    )
    return sum(row["rows"] for row in predicted.take_all())


if __name__ == "__main__":
    main()
