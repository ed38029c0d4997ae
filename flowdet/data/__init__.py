"""Datasets: `detection` and `classification` for registered ones, `custom` for a folder of one's
own."""
