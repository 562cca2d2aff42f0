"""The settings of a tagging run."""

from dataclasses import dataclass

from genretag.errors import UsageError

RETRIES = 3
COUNTS = ("batch_size", "fetch_actors", "fetch_threads", "predict_actors", "engine_threads", "rows_per_file")
MOST = 0.5  # share of all posters that must not have failed, so that the 100 above do not hide that nothing works


@dataclass(frozen=True)
class TagSettings:
    """How to tag. What is not set is chosen from the CPUs and GPUs that are found."""

    engine: str | None = None
    """Runtime of the network: openvino on CPUs; jax, tensorflow or torch, which is Keras on that backend, on GPUs. When
    not set, chosen by the device; on GPUs KERAS_BACKEND, else the first of those three that is installed."""
    profile: str = "balanced"
    """Which of the bundle's threshold profiles decides the genres: balanced, precise (fewer, surer ones), generous, or
    top-3 (or top-1, top-5...) for just so many of the most probable."""
    precision: str | None = None
    """In what the network computes: native, float32, bfloat16 or int8. When not set, int8 on CPU where the bundle has
    it, else native: bfloat16 where the hardware has it."""
    batch_size: int | None = None
    """Posters in one call of the engine; its shape is fixed, the last batch is padded. When not set, 8 on CPU, whose
    caches hold no more, and 64 on a GPU."""
    fetch_actors: int | None = None
    """Actors that fetch and decode. On CPUs the predict actors do that too, unless this is set."""
    fetch_threads: int = 16
    """Posters that one such actor has in flight; four of them are decoded at a time."""
    decode_timeout_s: float = 60.0
    """How long one poster may take to decode. A decoder that hangs costs its actor, and the poster a failure row."""
    predict_actors: int | None = None
    """Actors that run the network: one for each GPU, or for every few CPUs."""
    engine_threads: int | None = None
    """CPU threads of one engine; four, or the CPUs of a node where it has fewer, when not set."""
    rows_per_file: int | None = None
    """Posters in one part file. Larger files are read faster; smaller ones lose less work when a job dies.
    By default a twentieth of the worklist, between 500 and 50,000."""
    carry: tuple[str, ...] = ()
    """Columns of the manifest that the output is to have too."""
    error_budget: float = 0.05
    """Share of the worklist that may fail before the job does. Up to 100 posters may fail in any case, as long as at
    most half of all posters failed. Files that are no posters do not count."""
    retries: int = RETRIES
    """On how many later runs to try a poster again that the store did not deliver (`unavailable`, `timeout` while it
    was fetched). Posters that failed for a reason of their own are tried again only with `--retry-failed`."""
    retry_failed: bool = False
    """Try all posters again that failed on an earlier night and have not changed since."""
    break_lock: bool = False
    """Take the output over from the run that holds it. Only when you know that it is dead."""
    report: bool = True
    """Draw `runs/<run_id>/run.html`, the page of the night, once its record is published."""
    date: str | None = None
    """The night that the output belongs to, YYYY-MM-DD; today in UTC when not set."""

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
        if not 0 <= self.error_budget <= 1:
            raise UsageError(f"error_budget is a share between 0 and 1, not {self.error_budget}")
        if self.date is not None:
            try:
                date.fromisoformat(self.date)
            except ValueError as error:
                raise UsageError(f"date must be YYYY-MM-DD, not {self.date!r}") from error

    def allowed_failures(self, posters: int) -> int:
        """How many posters of a worklist may fail."""
        return max(100, int(self.error_budget * posters))

    def allowed_of_all(self, posters: int) -> int:
        """Return how many of all posters may have failed, on this night or before: half, or a larger error budget."""
        return int(max(MOST, self.error_budget) * posters)

    def rows_per_file_for(self, posters: int) -> int:
        """How many posters go into one part file of a worklist."""
        return self.rows_per_file or min(max(posters // 20, 500), 50_000)
