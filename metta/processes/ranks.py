"""The ranks of a run that torchrun has started: who they are, and how numbers and calls get from one to another.

torch.distributed carries everything: gloo between CPUs, nccl between GPUs. What is added up goes along one tree
(`tree_sum`): all_reduce would round otherwise for every number of ranks.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from metta.errors import RankError, UserError, one_line

JOIN_S = 45  # to find rank 0
START_S = 300  # until the last rank has started
EXCHANGE_S = 50  # that one rank may wait for another in the midst of a sum
CALL_S = 3600  # that the first rank may be busy between two calls, evaluating for one
LEAVE_S = 3.0  # to see who is left once somebody has gone


class Ranks:
    """This process's place among the ranks. What a rank that is gone leaves undone is a RankError in the others."""

    joined: ClassVar["Ranks | None"] = None  # a process is in one group, or in none

    def __init__(self, identity: dict[str, str]):
        """Join them. UserError where rank 0 cannot be reached, and where another rank has another `identity`."""
        self.rank, self.size = number("RANK"), number("WORLD_SIZE")
        self.on_this_machine = number("LOCAL_WORLD_SIZE", 1)
        self._store = reach(self.rank, self.size)
        self._calls: Any = None
        self._require_same(identity)
        gpus = torch.cuda.device_count() >= self.on_this_machine and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        self._nccl = gpus
        exchange, calls = timedelta(seconds=EXCHANGE_S), timedelta(seconds=CALL_S)
        with self._watched():
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size, timeout=exchange)
            self._calls = dist.new_group(timeout=calls, backend="gloo")
        self.speaks = self.rank == 0  # says what went wrong
        Ranks.joined = self

    def _require_same(self, identity: dict[str, str]) -> None:
        """UserError in rank 0 where another rank differs; SystemExit in the others."""
        mine = "\n".join(f"{name} {value}" for name, value in identity.items())
        self._store.set(f"identity/{self.rank}", mine)
        if self.rank > 0:
            if self._wait("verdict", 0):
                self._store.set(f"left/{self.rank}", "")
                raise SystemExit(UserError.exit_status)
            return
        differ = ""
        for other in range(1, self.size):
            theirs = self._wait(f"identity/{other}", other)
            for one, two in zip(mine.split("\n"), theirs.split("\n"), strict=True):
                if one != two:
                    differ = differ or f"rank 0 has {one}, and rank {other} has {two}: they must have the same"
        self._store.set("verdict", differ)
        if differ:
            self.fail(UserError.exit_status, differ)
            raise UserError(differ)

    def _wait(self, key: str, other: int) -> str:
        """What another rank says under this key."""
        try:
            self._store.wait([key], timedelta(seconds=START_S))
            return self._store.get(key).decode()
        except RuntimeError:
            raise UserError(f"rank {other} has not started within {START_S} seconds, or has ended") from None

    def broadcast(self, said: Any = None) -> Any:
        """What the first rank says, in all."""
        box = [said]
        with self._watched():
            dist.broadcast_object_list(box, 0, group=self._calls)
        return box[0]

    def gather_objects(self, said: Any = None) -> list[Any]:
        """What each rank says, in the first; nothing in the others."""
        heard = [None] * self.size if self.rank == 0 else None
        with self._watched():
            dist.gather_object(said, heard, 0, group=self._calls)
        return heard or []

    def sum(self, nodes: Tensor) -> Tensor:
        """The sum `[size]` of all ranks' nodes `[n, size]`, in the order of the tree over all of them.

        Each rank adds up its slice of all, and sends the sum to all.
        """
        count, size = nodes.shape
        cut = -(-size // self.size)
        slices = pad(nodes, (0, cut * self.size - size)).view(count, self.size, cut).transpose(0, 1).contiguous()
        slices = slices if self._nccl else slices.cpu()
        received = torch.empty_like(slices)
        with self._watched():
            dist.all_to_all_single(received, slices)
            part = tree_sum(received.view(self.size * count, cut).unbind())
            total = part.new_empty(self.size * cut)
            dist.all_gather(list(total.split(cut)), part)
        return total[:size].to(nodes.device)

    def gather(self, rows: Tensor) -> Tensor:
        """All ranks' rows `[n, ...]`, one rank's below the other's."""
        everywhere = rows.new_empty(len(rows) * self.size, *rows.shape[1:])
        with self._watched():
            dist.all_gather(list(everywhere.split(len(rows))), rows)
        return everywhere

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:
            raise self._lost() from None

    def _lost(self) -> BaseException:
        """What has become of the others, now that one of them does not answer. SystemExit: another rank says it."""
        self._disconnect("here")
        until = time.perf_counter() + LEAVE_S
        try:
            while time.perf_counter() < until and not self._said(0):
                time.sleep(0.05)
            here = [other for other in range(self.size) if self._has_come(other)]
            failed = {other: said for other in here if (said := self._said(other))}
        except RuntimeError:  # the store was rank 0's
            here, failed = [self.rank], {}
        self.speaks = self.rank == min(here)
        if not self.speaks:
            self._disconnect("left")
            return SystemExit(int(failed.get(0, "1").split()[0]))
        for other, said in failed.items():
            return RankError(f"rank {other}: {said.partition(' ')[2]}")
        gone = [other for other in range(self.size) if other not in here]
        which = f"rank {gone[0]} has" if len(gone) == 1 else f"ranks {', '.join(map(str, gone))} have"
        return RankError(f"{which} died" if gone else f"a rank kept the others waiting for {EXCHANGE_S} seconds")

    def _has_come(self, other: int) -> bool:
        return any(self._store.check([f"{key}/{other}"]) for key in ("here", "left"))

    def _said(self, other: int) -> str:
        """Why another rank has left; "" if it has not."""
        return self._store.get(f"left/{other}").decode() if self._store.check([f"left/{other}"]) else ""

    def fail(self, exit_status: int, why: str) -> None:
        """Tell the others that this rank cannot go on: all end, and the first one says it, once they have heard it."""
        self._disconnect("left", f"{exit_status} {why}")
        until = time.perf_counter() + LEAVE_S
        with suppress(RuntimeError):
            while self.rank == 0 and time.perf_counter() < until:
                if self._store.check([f"left/{other}" for other in range(self.size)]):
                    break
                time.sleep(0.05)

    def _disconnect(self, key: str, why: str = "") -> None:
        """Close all connections, for the others to notice, and leave word."""
        with suppress(RuntimeError):
            self._store.set(f"{key}/{self.rank}", why)
        self.close()

    def close(self) -> None:
        self._calls = None
        if dist.is_initialized():
            dist.destroy_process_group()


def tree_sum(nodes: Sequence[Tensor]) -> Tensor:
    """The sum of neighbours, then of pairs, fours, ...: the same to the bit whoever has added up which part."""
    while len(nodes) > 1:
        pairs = [a + b for a, b in zip(nodes[::2], nodes[1::2], strict=False)]
        nodes = [*pairs, *nodes[2 * len(pairs) :]]  # the last one, of an odd number
    return nodes[0]


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
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        until = time.monotonic() + JOIN_S
        while (rank > 0 or agents) and not answers(host, port):
            if time.monotonic() > until:
                raise UserError(f"cannot reach {where} within {JOIN_S} seconds")
            time.sleep(0.5)
        store = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=JOIN_S)))[0]
        # torchrun's store outlives the ranks: what those before a restart have said is not for these.
        return dist.PrefixStore(f"metta/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    except socket.gaierror as error:
        raise UserError(f"cannot find {where}: {error.strerror}") from None
    except RuntimeError as error:
        raise UserError(f"cannot start as {where}: {one_line(str(error))}") from None


def answers(host: str, port: int) -> bool:
    """Whether a server is there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except socket.gaierror:
        raise
    except OSError:
        return False
    return True
