"""One page out of the records of several runs: how a training scales, and what compression does to it."""
