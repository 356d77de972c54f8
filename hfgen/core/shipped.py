"""What comes with the package."""

from pathlib import Path

DIGITS_CLASSIFIER = Path(__file__).parents[1] / "evaluation" / "digit_classifier"
