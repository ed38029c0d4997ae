"""The paper's tables and figures: what the commands `table1`, `table3`, `ablation`, `measure_*` and
`plot_training` run."""
