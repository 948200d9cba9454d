"""Methods: what is particular to one paper. One file each."""
