"""What turns runs into tables and figures."""

from flowdet.analysis.results import describe_machine, detection_rows, write_results

__all__ = ["describe_machine", "detection_rows", "write_results"]
