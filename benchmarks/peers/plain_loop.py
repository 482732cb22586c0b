"""The peer: one process with a for loop over the files, using pandas and pyarrow. Prints its duration in seconds."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

started = time.perf_counter()

import joblib  # noqa: E402  the imports are part of what is measured
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
from pyarrow import csv  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("model", type=Path, help="a joblib file containing (feature names, model)")
    arguments = parser.parse_args()
    features, model = joblib.load(arguments.model)
    arguments.destination.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.source.glob("*.csv")):
        frame = pd.read_csv(path)
        frame["predicted_arr_delay"] = model.predict(frame[features])
        csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), arguments.destination / path.name)
    print(f"{time.perf_counter() - started:.3f}")


if __name__ == "__main__":
    main()
