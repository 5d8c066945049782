"""What several test files need: a stand-in for Horovod's optimizer, and a launcher of real ranks."""
