"""Horovod's own tests and examples, with our compressors: ``make test-horovod``, docs/reference/horovod-tests.md."""
