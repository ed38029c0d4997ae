"""BoxTransportDetector: a detector whose noise is on boxes, not on query embeddings.

- `paths`: from noise boxes to object boxes, by diffusion or along straight lines.
- `states`: scaled boxes, and the padding of objects with random boxes.
- `query_position`: positional encodings and sample points of queries that are boxes.
- `detector`: the model, trained end to end.
"""

from flowdet.detection.box_transport.detector import BoxTransportDetector

__all__ = ["BoxTransportDetector"]
