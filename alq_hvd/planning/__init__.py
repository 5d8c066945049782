"""What an exchange costs before it is run: bytes, seconds, variance."""
