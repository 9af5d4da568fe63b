"""What `mtl tune` does with its command line; the search itself is in `mtl_runner.tuning`."""
