"""The jobs of `mtl-run -m`: which there are, which need to run, where, and what became of them."""
