"""locust users of the soak: photos whose answers are known for each model, and one request in
twenty that must be refused.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

from locust import FastHttpUser, events, task

PLAN: dict[str, Any] = json.loads(Path(os.environ["SOAK_PLAN"]).read_text())
PHOTOS = {name: Path(path).read_bytes() for name, path in PLAN["photos"].items()}
BAD = [(Path(entry["path"]).read_bytes(), entry["status"]) for entry in PLAN["bad"]]
COUNTS: Counter[str] = Counter()
WRONG: list[Any] = []


class Seller(FastHttpUser):
    network_timeout = connection_timeout = 60.0

    @task
    def ask(self) -> None:
        if random.random() < PLAN["bad_share"]:
            self.refused(*random.choice(BAD))
        else:
            self.answered(*random.choice(list(PHOTOS.items())))

    def post(self, data: bytes) -> Any:
        return self.client.post(
            "/v1/predict", data=data, headers={"Content-Type": "image/jpeg"}, catch_response=True
        )

    def answered(self, name: str, data: bytes) -> None:
        with self.post(data) as response:
            response.success()
            if response.status_code == 200:
                said = response.json()
                label, probability = PLAN["expected"][said["model"]["sha256"]][name]
                result = said["results"][0]
                right = result["label"] == label and abs(result["probability"] - probability) < 1e-4
                COUNTS["right" if right else "wrong"] += 1
                COUNTS[f"model {said['model']['sha256'][:8]}"] += 1
                if not right:
                    WRONG.append([name, said])
            else:
                COUNTS[f"status {response.status_code}"] += 1
                WRONG.append([name, response.status_code, response.text])

    def refused(self, data: bytes, status: int) -> None:
        with self.post(data) as response:
            response.success()
            COUNTS[
                "refused as it should be"
                if response.status_code == status
                else f"bad input got {response.status_code} for {status}"
            ] += 1
            if response.status_code != status:
                WRONG.append([status, response.status_code, response.text])


@events.quitting.add_listener
def write(environment: Any, **_: Any) -> None:
    total = environment.stats.total
    said = {
        "counts": dict(COUNTS),
        "wrong": WRONG[:20],
        "requests": total.num_requests,
        "failures": total.num_failures,
        "p50_ms": total.get_response_time_percentile(0.5),
        "p99_ms": total.get_response_time_percentile(0.99),
    }
    Path(os.environ["SOAK_RESULT"]).write_text(json.dumps(said))
