"""Horovod's own tests and examples, with compressors of ours: ``make test-horovod``, docs/horovod-tests.md."""
