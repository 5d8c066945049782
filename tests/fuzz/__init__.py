"""Inputs that nobody has written, for all that reads bytes or states from elsewhere: ``make fuzz``."""
