"""The ranks of a run that torchrun has started: who they are, and how numbers and calls get from one to another.

torch.distributed carries everything: gloo between CPUs, nccl between GPUs. What is added up goes along the tree of
metta/processes/exchange.py: all_reduce would round otherwise for every number of ranks.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from metta.errors import RankError, UserError
from metta.processes.exchange import add_tree

JOIN_S = 60  # to find rank 0
START_S = 300  # until the last rank has started
EXCHANGE_S = 50  # that one rank may wait for another in the midst of a sum
CALL_S = 3600  # that the first rank may be busy between two calls, evaluating for one
LEAVE_S = 3.0  # to see who is left once somebody has gone


class Ranks:
    """This process's place among the ranks. What a rank that is gone leaves undone is a RankError in the others."""

    def __init__(self, identity: dict[str, str]):
        """Join them. UserError where rank 0 cannot be reached, and where another rank has another `identity`."""
        self.rank, self.size = number("RANK"), number("WORLD_SIZE")
        self.on_this_machine = number("LOCAL_WORLD_SIZE", 1)
        self._store = reach(self.rank, self.size)
        self._require_same(identity)
        gpus = torch.cuda.device_count() >= self.on_this_machine and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        self._nccl = gpus
        exchange, calls = timedelta(seconds=EXCHANGE_S), timedelta(seconds=CALL_S)
        with self._watched():
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size, timeout=exchange)
            self._calls: Any = dist.new_group(timeout=calls, backend="gloo")

    def _require_same(self, identity: dict[str, str]) -> None:
        mine = "\n".join(f"{name} {value}" for name, value in identity.items())
        self._store.set(f"identity/{self.rank}", mine)
        waiting = timedelta(seconds=START_S)
        for other in range(self.size) if self.rank == 0 else [0]:
            try:
                self._store.wait([f"identity/{other}"], waiting)
            except RuntimeError:
                raise UserError(f"rank {other} has not started within {START_S} seconds") from None
            theirs = self._store.get(f"identity/{other}").decode()
            for one, two in zip(mine.split("\n"), theirs.split("\n"), strict=False):
                if one != two:
                    raise UserError(f"rank {self.rank} has {one}, and rank {other} has {two}: they must have the same")

    def broadcast(self, content: bytes = b"") -> bytes:
        """What the first rank says, in all."""
        length = torch.tensor([len(content)])
        with self._watched():
            dist.broadcast(length, 0, group=self._calls)
            said = torch.empty(int(length), dtype=torch.uint8)
            if self.rank == 0:
                said = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            dist.broadcast(said, 0, group=self._calls)
        return said.numpy().tobytes()

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """What each rank says, in the first; nothing in the others."""
        lengths = torch.zeros(self.size, dtype=torch.int64)
        with self._watched():
            dist.all_gather_into_tensor(lengths, torch.tensor([len(content)]), group=self._calls)
            longest = int(lengths.max())
            mine = torch.zeros(longest, dtype=torch.uint8)
            mine[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else 0
            rows = [torch.empty_like(mine) for _ in range(self.size)] if self.rank == 0 else None
            dist.gather(mine, rows, 0, group=self._calls)
        return [row[:n].numpy().tobytes() for row, n in zip(rows or [], lengths.tolist(), strict=False)]

    def sum(self, nodes: Tensor) -> Tensor:
        """As metta.processes.exchange.Transport: each rank adds up its slice of all, and sends the sum to all."""
        count, size = nodes.shape
        cut = -(-size // self.size)
        slices = pad(nodes, (0, cut * self.size - size)).view(count, self.size, cut).transpose(0, 1).contiguous()
        slices = slices if self._nccl else slices.cpu()
        received = torch.empty_like(slices)
        with self._watched():
            dist.all_to_all_single(received, slices)
            parts = received.view(self.size * count, cut)
            add_tree(parts.unbind())
            total = parts.new_empty(self.size * cut)
            dist.all_gather_into_tensor(total, parts[0])
        return total[:size].to(nodes.device)

    def gather(self, rows: Tensor) -> Tensor:
        """As metta.processes.exchange.Transport."""
        everywhere = rows.new_empty(len(rows) * self.size, *rows.shape[1:])
        with self._watched():
            dist.all_gather_into_tensor(everywhere, rows)
        return everywhere

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:
            raise self._lost() from None

    def _lost(self) -> BaseException:
        """What has become of the others, now that one of them does not answer. SystemExit: a rank before says it."""
        self._leave("")
        time.sleep(LEAVE_S)
        try:
            left = {other: self._said(other) for other in range(self.size)}
        except RuntimeError:  # the store was rank 0's
            left = {0: None, self.rank: ""}
        speaker = next(other for other, said in left.items() if said is not None)
        failed = {other: said for other, said in left.items() if said}
        if speaker != self.rank:
            return SystemExit(int((left[0] or "1").split()[0]))
        for other, said in failed.items():
            return RankError(f"rank {other}: {said.partition(' ')[2]}")
        gone = [other for other, said in left.items() if said is None]
        which = f"rank {gone[0]} has" if len(gone) == 1 else f"ranks {', '.join(map(str, gone))} have"
        return RankError(f"{which} died" if gone else "a rank was not heard of for too long")

    def _said(self, other: int) -> str | None:
        """How another rank has left; None: without a word."""
        return self._store.get(f"left/{other}").decode() if self._store.check([f"left/{other}"]) else None

    def fail(self, exit_status: int, why: str) -> None:
        """Tell the others that this rank cannot go on, so that the first one says it, and all end."""
        with suppress(RuntimeError):
            if self._said(self.rank) is None:
                self._leave(f"{exit_status} {why}")
            until = time.perf_counter() + LEAVE_S + 2
            while self.rank == 0 and time.perf_counter() < until and not self._all_left():
                time.sleep(0.05)

    def _all_left(self) -> bool:
        return self._store.check([f"left/{other}" for other in range(self.size)])

    def _leave(self, why: str) -> None:
        """Close all connections, for the others to notice."""
        with suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", why)
        self._calls = None
        if dist.is_initialized():
            dist.destroy_process_group()

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def number(name: str, default: int | None = None) -> int:
    """A number that torchrun puts into the environment."""
    text = os.environ.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text!r} in the environment: torchrun sets it to a number") from None


def reach(rank: int, size: int) -> Any:
    """The store of rank 0, or of its torchrun. UserError where nobody answers."""
    host, port = os.environ.get("MASTER_ADDR", ""), number("MASTER_PORT")
    where = f"rank 0 at MASTER_ADDR={host} MASTER_PORT={port}"
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise UserError(f"cannot find {where}: {error.strerror}") from None
    try:
        return next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=JOIN_S)))[0]
    except RuntimeError:
        raise UserError(f"cannot reach {where} within {JOIN_S} seconds") from None
