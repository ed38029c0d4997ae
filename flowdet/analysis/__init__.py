"""What turns runs into tables and figures."""

from flowdet.analysis.results import changed_keys, detection_rows, write_results

__all__ = ["changed_keys", "detection_rows", "write_results"]
