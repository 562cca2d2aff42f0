"""Settings of `genretag tag`, which `evaluate`, `train` and `bench` use for scoring too."""

from dataclasses import dataclass

from genretag.errors import UsageError
from genretag.settings import FORMS

RETRIES = 3
COUNTS = ("batch_size", "fetch_actors", "fetch_threads", "predict_actors", "engine_threads", "rows_per_file")
MOST_BYTES = 256 * 2**20  # of the probabilities, float32, that a write task holds
MOST = 0.5  # share of all posters that may have failed; without it, 100 failures of 100 posters would be a success


@dataclass(frozen=True)
class TagSettings:
    """Settings of `tag`. Engine, batch size and actors default to values that suit the CPUs and GPUs of the cluster."""

    engine: str | None = None
    """Runtime of the network: openvino on CPUs; on GPUs jax, tensorflow or torch, which means Keras on that backend.
    When not set: openvino on CPUs. On GPUs: KERAS_BACKEND if that is installed, else the first installed one of
    jax, tensorflow and torch."""
    profile: str = "balanced"
    """Threshold profile of the bundle that decides the genres: balanced, precise (fewer, surer genres) or generous.
    top-3 (or top-1, top-5, ...) gives every poster that number of its most probable genres."""
    precision: str | None = None
    """Number format that the network computes in: native, float32, bfloat16 or int8. native means bfloat16 if the
    hardware has it, else float32. When not set: int8 on CPU if the bundle has it, else native."""
    batch_size: int | None = None
    """Posters per call of the engine. The shape is fixed, so the last batch is padded. When not set: 8 on CPU, because
    CPU caches hold no more, and 64 on a GPU."""
    fetch_actors: int | None = None
    """Number of actors that fetch and decode posters. On CPUs the predict actors also do this work, unless this option
    is set."""
    fetch_threads: int = 16
    """Posters that one fetching actor has in flight. At most four of them are decoded at a time."""
    decode_timeout_s: float = 60.0
    """Seconds that one poster may take to decode. If a decoder hangs, its actor ends, and the poster becomes a failure
    row."""
    predict_actors: int | None = None
    """Number of actors that run the network. When not set: one for each GPU, or one for every few CPUs."""
    engine_threads: int | None = None
    """CPU threads of one engine. When not set: four, or all CPUs of a node that has fewer."""
    rows_per_file: int | None = None
    """Posters in one part file. Larger files are read faster; smaller files lose less work when a job dies. When not
    set: a twentieth of the worklist, between 500 and 50,000."""
    form: str | None = None
    """Form of the predictions: columns (`is_*` and `p_*` for each label) or lists (one list of labels and one of
    probabilities in each row). When not set: columns for up to 1,000 labels, else lists."""
    floor: float = 0.01
    """In the form lists: least probability of a label in a row's lists. A row always lists its predicted labels and its
    ten most probable ones."""
    embeddings: bool = False
    """Add the column `embedding` to the predictions: the vector before the network's last layer, in float16. `similar`
    and `duplicates` need it."""
    carry: tuple[str, ...] = ()
    """Columns of the manifest to copy to the output."""
    error_budget: float = 0.05
    """Share of the worklist that may fail before the job fails. Up to 100 posters may always fail, as long as at most
    half of all posters failed. Files that are no posters do not count."""
    retries: int = RETRIES
    """Number of later runs that try a poster again if the store did not deliver it (`unavailable`, or `timeout` during
    the fetch). Posters that failed for another reason are tried again only with `--retry-failed`."""
    retry_failed: bool = False
    """Try all posters again that failed on an earlier run and have not changed since."""
    break_lock: bool = False
    """Take the output over from the run that holds it. Use this only when you know that the other run is dead."""
    report: bool = True
    """Draw `runs/<run_id>/run.html`, the page of the run, after the run's record is published."""
    date: str | None = None
    """Date of the `dt=` folders that the run writes to, YYYY-MM-DD. When not set: today, in UTC."""

    def __post_init__(self) -> None:
        from datetime import date

        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if self.retries < 0:
            raise UsageError(f"retries must be at least 0, not {self.retries}")
        if not self.decode_timeout_s > 0:
            raise UsageError(f"decode_timeout_s must be positive, not {self.decode_timeout_s:g}")
        if self.form not in (None, *FORMS):
            raise UsageError(f"form must be one of {', '.join(FORMS)}, not {self.form!r}")
        if not 0 <= self.floor <= 1:
            raise UsageError(f"floor is a probability between 0 and 1, not {self.floor}")
        if not 0 <= self.error_budget <= 1:
            raise UsageError(f"error_budget is a share between 0 and 1, not {self.error_budget}")
        if self.date is not None:
            try:
                date.fromisoformat(self.date)
            except ValueError as error:
                raise UsageError(f"date must be YYYY-MM-DD, not {self.date!r}") from error

    def allowed_failures(self, posters: int) -> int:
        """Return how many of `posters` posters to score may fail: the share `error_budget`, but at least 100."""
        return max(100, int(self.error_budget * posters))

    def allowed_of_all(self, posters: int) -> int:
        """Return how many of all `posters` posters may have failed, on this run and earlier runs together.

        The limit is half of the posters, or the share `error_budget` if that is larger.
        """
        return int(max(MOST, self.error_budget) * posters)

    def rows_per_file_for(self, posters: int, values: int) -> int:
        """Return how many posters go into one Parquet file of the output, if there are `posters` posters to score.

        The number is `rows_per_file`. If `rows_per_file` is not set, the number is a twentieth of `posters`, but at
        least 500 and at most 50,000. `values` is the number of probabilities and of values of the embedding of one
        poster. If there are very many, a file has fewer posters, so that the values fit into `MOST_BYTES` of memory.
        """
        fitting = max(1, MOST_BYTES // (4 * values))
        return self.rows_per_file or min(max(posters // 20, 500), 50_000, fitting)
