"""The peer: the mapped DAG that people write by hand, in which every task imports pandas and loads the model."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, Param, task

FOLDERS = {name: Param("", type="string") for name in ("source", "destination", "model")}

with DAG("peer_handwritten", schedule=None, params=FOLDERS):

    @task
    def files(params: dict[str, str] | None = None) -> list[str]:
        assert params is not None
        Path(params["destination"]).mkdir(parents=True, exist_ok=True)
        return sorted(path.name for path in Path(params["source"]).iterdir())

    @task
    def predict(name: str, params: dict[str, str] | None = None) -> None:
        import joblib  # noqa: PLC0415  not for parsing
        import pandas as pd  # noqa: PLC0415  as above

        assert params is not None
        features, model = joblib.load(params["model"])
        frame = pd.read_csv(Path(params["source"], name))
        frame["predicted_arr_delay"] = model.predict(frame[features])
        frame.to_csv(Path(params["destination"], name), index=False)

    predict.expand(name=files())
