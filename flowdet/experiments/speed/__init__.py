"""How fast flowdet is and how much memory it takes: what `make bench` measures.

- `setup`: the configs that are measured, and the rows of the result file.
- `inference`, `training`, `peers`, `throughput`: times, measured in turn in one process.
- `loader`: images per second of the training loader.
- `memory`: peak memory, each setting in a process of its own.
- `comparison`: what is slower than in an earlier result file.
- `tables`: the tables of docs/speed.md.
- `cost_model`: predicts step time and memory from the number of blocks, queries and pixels.
"""
