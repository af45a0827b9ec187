"""How good restored pictures are: measured against sharp originals by named protocols, beside what they compare with.

Restored pictures are rounded to 8 bits first. Each figure is the mean of the single pictures' values, never of pooled
errors.
"""

from deblurgan.evaluation.measure import evaluate
from deblurgan.evaluation.records import Failure, Row
from deblurgan.evaluation.report import Report
from deblurgan.evaluation.scenes import Protocol, Scene

__all__ = ["Failure", "Protocol", "Report", "Row", "Scene", "evaluate"]
