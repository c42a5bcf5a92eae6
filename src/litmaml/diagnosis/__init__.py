"""The theory as an instrument: what holds of it for a model and its tasks."""

from litmaml.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
