"""MLflow. `MLFLOW_TRACKING_URI` is its own; `MLFLOW_EXPERIMENT_NAME` holds where the recipe is silent."""

from __future__ import annotations

import os
import time
from typing import Any

from galore.trainer.recipe.dump import dotted
from galore.trainer.record.metrics import End
from galore.trainer.record.trackers.tracker import PROJECT, Start, Values, numbers

LONGEST_PARAM = 500  # letters, as every version takes
MOST_PARAMS = 100  # of one request
STATUSES: dict[End, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowTracker:
    """Metrics are sent by a thread of MLflow's. Its client, unlike `mlflow.start_run`, notes neither user nor code."""

    def __init__(self, mlflow: Any, start: Start) -> None:
        self._mlflow, self._client = mlflow, mlflow.MlflowClient()
        experiment = start.log.wandb_project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        self._run = start.identity("mlflow", lambda: self._new(experiment, start))
        self._client.update_run(self._run, status="RUNNING")
        start.tell(f"mlflow records run {self._run} of experiment {experiment}")

    def _new(self, experiment: str, start: Start) -> str:
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known is not None else self._client.create_experiment(experiment)
        made = str(self._client.create_run(number, run_name=start.log.run_name or start.name).info.run_id)
        param = self._mlflow.entities.Param
        params = [param(name, value[:LONGEST_PARAM]) for name, value in dotted(start.config)]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(made, params=params[first : first + MOST_PARAMS])
        return made

    def log(self, step: int, values: Values) -> None:
        metric, now = self._mlflow.entities.Metric, int(time.time() * 1000)
        metrics = [metric(name, value, now, step) for name, value in numbers(values).items()]
        self._client.log_batch(self._run, metrics=metrics, synchronous=False)

    def close(self, end: End) -> None:
        self._mlflow.flush_async_logging()
        self._client.set_terminated(self._run, status=STATUSES[end])
