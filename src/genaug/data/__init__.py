"""Datasets: one file each. A new one is a file here and a yaml in ``conf/dataset``."""
