"""The experiments behind the paper's tables and figures.

The commands `table1`, `table3`, `table45`, `ablation`, `measure_*` and `plot_training` run them.
"""
