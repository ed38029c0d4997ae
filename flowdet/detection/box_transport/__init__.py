"""BoxTransportDetector: a detector with noise on boxes, not on query embeddings.

- `paths`: from noise boxes to object boxes, by diffusion or along straight lines.
- `states`: scaled boxes, and the padding of objects with random boxes.
- `query_position`: positional encodings and sample points of queries that are boxes.
- `sampling`: settings, steps and noise of the sampling.
- `detector`: the model, trained end to end.
"""

from flowdet.detection.box_transport.detector import BoxTransportDetector

__all__ = ["BoxTransportDetector"]
