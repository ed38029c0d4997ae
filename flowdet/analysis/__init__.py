"""What turns runs into tables and figures."""

from flowdet.analysis.results import changed_keys, result_rows, write_results

__all__ = ["changed_keys", "result_rows", "write_results"]
