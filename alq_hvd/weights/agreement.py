"""How ranks find out that their quantised weights have come apart, and which rank it was."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator, as_payload
from alq_hvd.errors import WeightsMismatch

Tensor: TypeAlias = Any
torch = backends.torch()
_BYTES = 16


def require_agreement(communicator: Communicator, tensors: Mapping[str, Sequence[Tensor | None]], step: int) -> None:
    """Compare checksums of ``tensors`` over all ranks; every rank raises the same error when one of them differs.

    1. Every rank digests each entry, 16 bytes. 2. All-gather. 3. What most ranks have is right, rank 0 in a tie.

    Args:
        communicator: of all ranks.
        tensors: name -> what has to be equal bit for bit, in the same order on all ranks.
        step: for the error's text.

    Raises:
        WeightsMismatch: naming the ranks and the first tensor in which they differ.
    """
    own = b"".join(_digest(parts) for parts in tensors.values())
    everyone = [raw.tobytes() for raw in communicator.allgather(as_payload(own), "alq_hvd.weights.checksum").wait()]
    right, _ = Counter(everyone).most_common(1)[0]  # the first seen where several are as common
    wrong = [rank for rank, digest in enumerate(everyone) if digest != right]
    if not wrong:
        return
    other = everyone[wrong[0]]
    places = range(0, len(right), _BYTES)
    name = next(name for name, at in zip(tensors, places, strict=True) if right[at:][:_BYTES] != other[at:][:_BYTES])
    ranks = f"rank {wrong[0]} differs" if len(wrong) == 1 else f"ranks {', '.join(map(str, wrong))} differ"
    raise WeightsMismatch(
        f"quantised weights after step {step}: {ranks} from the other ranks, first in {name} (seen on rank "
        f"{communicator.rank}): give every rank the same start (broadcast parameters and optimizer), the same options "
        "and the same averaged gradients"
    )


def _digest(parts: Sequence[Tensor | None]) -> bytes:
    digest = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        if part is not None:
            plain = part.detach().cpu().contiguous()
            digest.update(plain.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
