"""Evaluation: average precision, top-k accuracy, matching of detections, previews."""
