"""What `forward` changes in the agent as it trains: a normaliser's statistics, BatchNorm's, a codebook, a step counter.

Every shard computes each phase (a rollout, a minibatch) from the same buffers, and then they are brought together: of
floating ones the mean, added in the order of the shards; others have to be the same in all. So the bits depend on the
number of shards, and never on how many processes share them. What cannot be brought together is refused.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from metta.agent.policy_agent import PolicyAgent
from metta.errors import UserError
from metta.files import portable_pickle
from metta.processes.exchange import Exchange
from metta.rl.learning.random_state import seed_everything

Store = tuple[dict[str, Tensor | None], str]  # a module's buffers, and the key of one of them


class CommonBuffers:
    """Brings together the buffers that forward changes; nothing, at no cost, where it changes none."""

    def __init__(self, agent: PolicyAgent, exchange: Exchange):
        """UserError where forward changes what is no buffer, and there are several shards."""
        self.agent, self.exchange, self.num_shards = agent, exchange, exchange.dealt.num_shards
        changed, remembered = changed_by_forward(agent)
        if remembered and self.num_shards > 1:
            self._refuse(remembered[0], "no buffer: register_buffer makes it one")
        stores = {name: store_of(agent, name) for name, _ in agent.named_buffers()}
        self._changing = {name: stores[name] for name in changed if name in stores}
        several = self.num_shards > 1
        self._constant = {name: stores[name] for name in stores if name not in changed} if several else {}
        self._common: list[Tensor] = []
        self._noted: list[Tensor] = []
        self._apart: dict[int, list[Tensor]] = {}

    def begin(self) -> None:
        """Take the agent's buffers as they are now for what every shard computes the next phase from."""
        self._common = [self._now(store).clone() for store in self._changing.values()]
        self._noted = [self._now(store).clone() for store in self._constant.values()]

    def restore(self) -> None:
        for (buffers, key), value in zip(self._changing.values(), self._common, strict=True):
            buffer = buffers[key]
            if buffer is None or buffer.is_inference() or buffer.shape != value.shape:  # assigned anew
                buffers[key] = value.clone()
            else:
                buffer.copy_(value)

    def write(self, shard: int) -> None:
        """Take what a shard has made of the buffers."""
        values = [self._now(store) for store in self._changing.values()]
        for name, value, common in zip(self._changing, values, self._common, strict=True):
            if self.num_shards > 1 and (value.shape != common.shape or value.dtype != common.dtype):
                self._refuse(name, "a buffer whose shape or dtype it changes")
        self._apart[shard] = [value.clone() for value in values]

    def merge(self, shards: Iterable[int]) -> None:
        """Bring together what these shards have made of them, in whichever processes."""
        if not self._changing:
            return
        everywhere = self._everywhere()
        merged = []
        by_buffer = zip(*(everywhere[shard] for shard in shards), strict=True)
        for name, values in zip(self._changing, by_buffer, strict=True):
            first, *others = values
            same = torch.ones_like(first, dtype=torch.bool)
            for other in others:
                same &= other == first
            if first.is_floating_point() or first.is_complex():  # equal ones stay, infinite ones too
                merged.append(torch.where(same, first, sum(others, first) / len(values)))
            elif same.all():
                merged.append(first.clone())
            else:
                self._refuse(name, f"a buffer of {first.dtype} that comes out different in each")
        self._common = merged
        self.restore()

    def _everywhere(self) -> list[list[Tensor]]:
        """Each shard's buffers; those of other processes come as bytes."""
        if self.exchange.dealt.alone:
            return list(self._apart.values())
        rows = [torch.cat([bytes_of(value) for value in values]).cpu().numpy() for values in self._apart.values()]
        together = torch.from_numpy(self.exchange.gather(np.stack(rows)))
        sizes = [value.nbytes for value in self._common]
        return [
            [
                piece.clone().view(like.dtype).view(like.shape).to(like.device)
                for piece, like in zip(row.split(sizes), self._common, strict=True)
            ]
            for row in together
        ]

    def end(self) -> None:
        """UserError if a buffer has changed that never did when forward was tried."""
        for (name, store), noted in zip(self._constant.items(), self._noted, strict=True):
            if not is_same(store[0][store[1]], noted, {}):
                self._refuse(name, "a buffer that it does not change every time")

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Let forward change no buffer: in eval mode, for a BatchNorm has no statistics of a single row, and put back.

        For calls of which one shard makes more than another.
        """
        training = [module for module in self.agent.modules() if module.training] if self._changing else []
        kept = [(store, self._now(store), self._now(store).clone()) for store in self._changing.values()]
        for module in training:
            module.training = False
        yield
        for module in training:
            module.training = True
        for (buffers, key), buffer, value in kept:
            buffers[key] = buffer.copy_(value)

    @staticmethod
    def _now(store: Store) -> Tensor:
        buffer = store[0][store[1]]
        assert buffer is not None
        return buffer

    def _refuse(self, name: str, what: str) -> NoReturn:
        changes = f"{type(self.agent).__name__}'s forward changes {name}, {what}"
        raise UserError(f"{changes}; {self.num_shards} shards cannot share it, num_shards=1 trains it as it is")


def bytes_of(buffer: Tensor) -> Tensor:
    return buffer.reshape(-1).view(torch.uint8)


def store_of(agent: nn.Module, name: str) -> Store:
    module, _, key = name.rpartition(".")
    return agent.get_submodule(module)._buffers, key


def changed_by_forward(agent: PolicyAgent) -> tuple[list[str], list[str]]:
    """The buffers that forward changes, and what else it remembers from call to call; tried on copies of the agent.

    A copy that has seen other observations before, and has the same buffers, should be the same after the same call.
    """
    first, second = (portable_pickle.loads(portable_pickle.dumps(agent)) for _ in range(2))
    device = next(agent.parameters()).device
    first, second = first.to(device), second.to(device)
    # By the version, since a spectral norm's may have converged, and the content: BatchNorm changes no version.
    before = {name: (buffer, buffer._version, buffer.clone()) for name, buffer in first.named_buffers()}
    parameters = [*first.parameters()]  # kept, since a new one may lie where an old one was
    call(first, 1)
    if [*map(id, first.parameters())] != [*map(id, parameters)]:
        raise UserError(f"{type(agent).__name__}'s forward makes or replaces parameters: make them in __init__")
    for name, buffer in first.named_buffers():
        buffers, key = store_of(second, name)
        buffers[key] = buffer.detach().clone()
    call(first, 0)
    call(second, 0)
    after = dict(first.named_buffers())
    changed = [
        name
        for name, (buffer, version, content) in before.items()
        if buffer._version != version or not is_same(buffer, content, {}) or after.get(name) is not buffer
    ]
    remembered = [name for name in after if name not in before]
    tree = ("_parameters", "_buffers", "_modules")
    seen: dict[int, Any] = {}
    for (path, a), b in zip(first.named_modules(), second.modules(), strict=True):
        for key in sorted((vars(a).keys() | vars(b).keys()) - set(tree)):
            if not is_same(vars(a).get(key), vars(b).get(key), seen):
                remembered.append(f"{path}.{key}".lstrip("."))
    return changed, remembered


def call(agent: PolicyAgent, number: int) -> None:
    """Call the agent on observations that are all `number`, as in a rollout and as in an update."""
    seed_everything(0)
    env, rows = agent.env, 2 * agent.env.num_agents
    device = next(agent.parameters()).device
    observations = torch.from_numpy(np.full((rows, *env.observation_shape), number, env.observation_dtype)).to(device)
    state, starts = agent.initial_state(rows), torch.zeros(rows, dtype=torch.bool, device=device)
    with torch.no_grad():
        agent(observations, state, starts if state else None)
    agent(observations.unsqueeze(0), state, starts.unsqueeze(0))


def is_same(a: Any, b: Any, seen: dict[int, Any]) -> bool:
    """Whether two values have the same content. seen: objects that are compared already."""
    if type(a) is not type(b):
        return False
    if isinstance(a, int | float | complex | str | bytes | None):
        return repr(a) == repr(b)
    if id(a) in seen or (callable(a) and not isinstance(a, nn.Module)):
        return True
    seen[id(a)] = a
    if isinstance(a, Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return alike and bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(is_same(x, y, seen) for x, y in zip(a, b, strict=True))
    return is_same(pickled_state(a), pickled_state(b), seen)


def pickled_state(value: Any) -> list[Any]:
    """What pickle would take of an object; nothing of what only cloudpickle can, a module for one."""
    try:
        reduced = value.__reduce_ex__(4)
    except TypeError:
        return []
    parts = [reduced] if isinstance(reduced, str) else reduced
    return [list(part) if isinstance(part, Iterator) else part for part in parts]
