"""Presents the results of trainings: result files, run folders, figures, HTML reports."""
