"""Results as plain values, all metrics in one place, for tests that look at many of them."""

from dataclasses import asdict

from hfgen.results import EvaluationResult


def flat(result: EvaluationResult) -> dict:
    """Keys of the result and of its likelihood's facts beside each other."""
    values = result.to_json()
    likelihood, samples = values.pop("likelihood"), values.pop("samples")
    if likelihood is not None:
        values |= {k: v for k, v in likelihood.items() if k not in ("facts", "metrics")} | likelihood["facts"]
    if samples is not None:
        values["samples"] = {k: v for k, v in samples.items() if k != "metrics"}
    return values | {"metrics": {key: asdict(metric) for key, metric in result.metrics.items()}}
