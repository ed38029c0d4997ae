"""Why the average precision of a detector is what it is.

- `matching`: matches the detections of a dataset with its objects, as VOC and COCO do.
- `average_precision`: average precision from true and false positives.
- `tide`: the error types of TIDE, and the average precision that mending each would bring.
- `breakdowns`: curves, confusion matrix, average precision of groups of objects, calibration.
- `examples`: the most confident false positives and the largest misses.
- `analysis`: all of these for saved detections.
"""

from flowdet.evaluation.error_analysis.analysis import (
    ErrorAnalysis,
    analyze,
    analyze_dataset,
    analyze_saved,
)

__all__ = ["ErrorAnalysis", "analyze", "analyze_dataset", "analyze_saved"]
