"""What turns runs into tables and figures."""

from flowdet.analysis.results import detection_rows, write_results

__all__ = ["detection_rows", "write_results"]
