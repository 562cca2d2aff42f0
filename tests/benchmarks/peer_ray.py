"""A peer: Ray Data as in its documentation, with `read_images`, a class in `map_batches`, and `write_parquet`."""

from typing import Any

import numpy as np
import ray
from peer_common import BATCH, Job, arrow_s3, job_of_command_line, load_network, stamps


class Classifier:
    def __init__(self, job: Job) -> None:
        self.predict = load_network(job)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        probabilities = self.predict(batch["image"])
        return {"uri": batch["path"], "probabilities": probabilities, "scored_at": stamps(len(probabilities))}


def main() -> None:
    job = job_of_command_line()
    ray.init(address="local", _node_ip_address="127.0.0.1")
    images = ray.data.read_images(
        job.images.removeprefix("s3://"),
        filesystem=arrow_s3(),
        size=(job.height, job.width),
        mode="RGB",
        include_paths=True,
    )
    predictions = images.map_batches(
        Classifier,
        fn_constructor_args=(job,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=1),  # with two CPUs, the other CPU reads and decodes
    )
    predictions.write_parquet(job.output.removeprefix("s3://"), filesystem=arrow_s3())


if __name__ == "__main__":
    main()
