"""A peer: a Daft data frame with `download`, `decode_image`, `resize`, and a class with a batch method."""

import os

import daft
import numpy as np
import pyarrow as pa
from daft import DataType
from daft.functions import decode_image, download, resize
from daft.io import IOConfig, S3Config
from peer_common import BATCH, Job, job_of_command_line, load_network, stamps

ROW = DataType.struct({"probabilities": DataType.list(DataType.float32()), "scored_at": DataType.float64()})


@daft.cls(max_concurrency=1)
class Classifier:
    def __init__(self, job: Job) -> None:
        self.network = load_network(job)

    @daft.method.batch(return_dtype=ROW, unnest=True, batch_size=BATCH)
    def predict(self, images: daft.Series) -> pa.StructArray:
        probabilities = self.network(np.stack(images.to_pylist()))
        columns = [pa.array(list(probabilities)), pa.array(stamps(len(probabilities)))]
        return pa.StructArray.from_arrays(columns, ["probabilities", "scored_at"])


def main() -> None:
    job = job_of_command_line()
    s3 = IOConfig(
        s3=S3Config(
            endpoint_url=os.environ["AWS_ENDPOINT_URL"],
            region_name=os.environ["AWS_REGION"],
            key_id=os.environ["AWS_ACCESS_KEY_ID"],
            access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            use_ssl=False,
        )
    )
    posters = daft.from_glob_path(f"{job.images}/*.jpg", io_config=s3)
    image = decode_image(download(posters["path"], io_config=s3), mode="RGB")
    scored = posters.select(posters["path"].alias("uri"), Classifier(job).predict(resize(image, job.width, job.height)))
    scored.write_parquet(job.output, io_config=s3)


if __name__ == "__main__":
    main()
