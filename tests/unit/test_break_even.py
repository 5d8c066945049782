"""Where compression would not pay, gradients go to the plain all-reduce: on every rank, said once, and exact."""

from __future__ import annotations
