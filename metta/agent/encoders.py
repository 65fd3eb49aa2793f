"""From one agent's observation to features: vectors, images, MettaGrid tokens, and what is made of several."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metta.envs.env_spec import EnvSpec, TokenSpec
from metta.moments import merged

M = TypeVar("M", bound=nn.Module)


def orthogonal(layer: M, gain: float = math.sqrt(2)) -> M:
    """PPO's customary initialisation (Huang et al. 2022, "The 37 implementation details of PPO", detail 2)."""
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
        else:
            nn.init.orthogonal_(parameter, gain)
    return layer


class Normalizer(nn.Module):
    """Running mean and variance of the observations, kept in the agent so that its file acts alone.

    `update` merges a batch by Chan et al.'s parallel formula; until the first one it passes its input on.
    """

    count: Tensor
    mean: Tensor
    var: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.clip = 10.0
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("shift", torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale).clamp_(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, *batches: Tensor, gather: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        """batches: `[N, size]` of each shard; gather: from their moments `[batches, ...]` to those of all shards."""
        moments = np.stack([column_moments(batch) for batch in batches])
        n, mean, m2 = merged(moments if gather is None else gather(moments))
        n, mean, m2 = n[0], *(torch.from_numpy(column).to(self.mean.device) for column in (mean, m2))
        total = self.count + n
        delta = mean - self.mean
        self.var.copy_((self.var * self.count + m2 + delta.square() * self.count * n / total) / total)
        self.mean.add_(delta * n / total)
        self.count.copy_(total)
        self.scale.copy_(self.var.add(1e-8).rsqrt())
        self.shift.copy_(-self.mean * self.scale)


def column_moments(batch: Tensor) -> np.ndarray:
    """`Moments` of each column of `[N, size]`, as `[size, 3]`."""
    if len(batch) == 0:
        return np.zeros((batch.shape[1], 3))
    var, mean = (column.cpu().numpy() for column in torch.var_mean(batch.double(), 0, correction=0))
    return np.stack((np.full_like(mean, len(batch)), mean, var * len(batch)), -1)


class VectorEncoder(nn.Module):
    """Two separate tanh networks of two layers, one for the policy and one for the value, computed side by side.

    The pair is one batched product for each layer (half the calls of two Sequentials, and small networks cost their
    calls). Returns `[..., 2 * hidden_size]`: the policy's features, then the value's.
    """

    def __init__(self, env: EnvSpec, hidden_size: int | None, normalize: bool = True):
        super().__init__()
        hidden_size = hidden_size or 64
        size = math.prod(env.observation_shape)
        self.dims = len(env.observation_shape)
        self.output_size = 2 * hidden_size
        self.head_size = hidden_size
        self.normalizer = Normalizer(size) if normalize else nn.Identity()
        self.weight1 = nn.Parameter(torch.empty(2, size, hidden_size))
        self.weight2 = nn.Parameter(torch.empty(2, hidden_size, hidden_size))
        self.bias1 = nn.Parameter(torch.zeros(2, 1, hidden_size))
        self.bias2 = nn.Parameter(torch.zeros(2, 1, hidden_size))
        for weight in (*self.weight1.data, *self.weight2.data):
            nn.init.orthogonal_(weight, math.sqrt(2))

    def forward(self, observations: Tensor) -> Tensor:
        x = self.normalizer(observations.reshape(-1, self.weight1.shape[1]).float())
        h = torch.baddbmm(self.bias1, x.expand(2, -1, -1), self.weight1).tanh()
        h = torch.baddbmm(self.bias2, h, self.weight2).tanh()
        lead = observations.shape[: observations.dim() - self.dims]
        return torch.cat(h.unbind(), -1).view(*lead, self.output_size)


class ImageEncoder(nn.Module):
    """From 36 pixels up the convolutions of Mnih et al. 2015 ("Nature CNN"); for smaller grids sixteen 3x3 filters, as
    in MinAtar (Young and Tian 2019, arXiv 1903.03176), and a layer norm (Ba et al. 2016, arXiv 1607.06450).

    A small grid's values may be names of 0 to 10, as MiniGrid's are, in a space that says 0 to 255: whatever scale they
    come in, what follows the norm sees the same.
    """

    def __init__(self, env: EnvSpec, hidden_size: int | None):
        super().__init__()
        shape = env.observation_shape
        self.channels_last = env.channels_last
        channels, height, width = (shape[-1], *shape[:-1]) if self.channels_last else shape
        self.scale = 1 / 255 if env.observation_dtype == "uint8" else 1.0
        self.output_size = hidden_size = hidden_size or (512 if env.large_image else 128)
        if env.large_image:
            layers = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()]
            layers += [nn.Conv2d(64, 64, 3, 1), nn.ReLU(), nn.Flatten()]
        else:
            padding = int(min(height, width) < 3)
            layers = [nn.Conv2d(channels, 16, 3, 1, padding), nn.GroupNorm(1, 16), nn.ReLU(), nn.Flatten()]
        flat = nn.Sequential(*layers)(torch.zeros(1, channels, height, width)).shape[1]
        self.layers = nn.Sequential(*layers, nn.Linear(flat, hidden_size), nn.ReLU())
        for layer in self.layers:
            if not isinstance(layer, nn.GroupNorm):
                orthogonal(layer)
        # Nature CNN, 256 pictures, forward and backward on one core: 168 ms channels first, 115 ms channels last.
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observations: Tensor) -> Tensor:
        lead = observations.shape[:-3]
        x = observations.reshape(-1, *observations.shape[-3:])
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        x = x.contiguous(memory_format=torch.channels_last).float() * self.scale
        return self.layers(x).view(*lead, self.output_size)


# Features whose value is a name, not an amount: each value gets a channel of its own.
CATEGORICAL_FEATURES = {"tag": "tags", "last_action": "action_names"}
PADDING = 255  # feature id of an empty token
GLOBAL_LOCATION = 0xFE


class TokenEncoder(nn.Module):
    """MettaGrid's (location, feature, value) tokens through a sparse first layer, then one dense layer.

    The tokens are a sparse picture of a grid `[cells + 1 global, channels]`; its product with a dense matrix is the sum
    over the real tokens of (value / normalization) times a row of `table`: `embedding_bag`, at a thirtieth of the
    dense product's cost when 40 of 6,000 cells are set.
    """

    BY_NUMBER = ("table", "slot", "channel", "weight")  # of no use where a token's numbers mean something else
    slot: Tensor  # [256]: where a location's channels begin in the table
    channel: Tensor  # [65,536]: of each pair of feature and value
    weight: Tensor  # [65,536]: what such a token counts

    def __init__(self, env: EnvSpec, hidden_size: int | None):
        super().__init__()
        assert env.tokens is not None
        self.output_size = hidden_size = hidden_size or 128
        channel, weight, num_channels = self._channels(env.tokens)
        height, width = env.tokens.window
        location = torch.arange(256, dtype=torch.int32)
        row, column = location >> 4, location & 15
        inside = (row < height) & (column < width) & (location < GLOBAL_LOCATION)
        slot = torch.where(inside, row * width + column, height * width)  # anything odd counts as global
        self.register_buffer("slot", slot * num_channels, persistent=True)
        self.register_buffer("channel", channel, persistent=True)
        self.register_buffer("weight", weight, persistent=True)
        # Small, so that what is learned soon outweighs the noise of thousands of rows: on arena, seed 0, the return
        # after 576k steps was 11.8, and 9.3 with 0.2 in place of 0.02.
        self.table = nn.Parameter(torch.randn((height * width + 1) * num_channels, hidden_size) * 0.02)
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.dense = orthogonal(nn.Linear(hidden_size, hidden_size))

    @staticmethod
    def _channels(tokens: TokenSpec) -> tuple[Tensor, Tensor, int]:
        """Channel and weight for each (feature id, value) pair, as tables of 65,536 entries."""
        channel = torch.zeros(256, 256, dtype=torch.int32)
        weight = torch.zeros(256, 256)
        count = 0
        for feature, name, normalization in tokens.features:
            if name in CATEGORICAL_FEATURES:
                names = getattr(tokens, CATEGORICAL_FEATURES[name])
                values = torch.arange(256).clamp(max=len(names) - 1)
                channel[feature] = count + values.int()
                weight[feature] = 1.0
                count += len(names)
            else:
                channel[feature] = count
                # Inventories are small counts, and one ore matters more than the tenth: log2(1 + n) / 4, not n / 256.
                values = torch.arange(256.0)
                weight[feature] = (values + 1).log2() / 4 if name.startswith("inv:") else values / normalization
                count += 1
        return channel.flatten(), weight.flatten(), count

    def forward(self, observations: Tensor) -> Tensor:
        lead = observations.shape[:-2]
        x = F.relu(self.first_layer(observations.reshape(-1, *observations.shape[-2:])), inplace=True)
        return F.relu(self.dense(x), inplace=True).view(*lead, self.output_size)

    def first_layer(self, observations: Tensor) -> Tensor:
        """observations: uint8 `[N, tokens, 3]` -> `[N, hidden_size]`."""
        width = 32  # or its double, ...: real tokens come first
        while width < observations.shape[1] and bool((observations[:, width, 1] != PADDING).any()):
            width *= 2
        location, feature, value = observations[:, :width].int().unbind(2)
        real = feature != PADDING
        counts = real.sum(1)
        where = real.flatten().nonzero().squeeze(1)
        location = location.flatten().index_select(0, where)
        pair = (feature * 256 + value).flatten().index_select(0, where)
        index = self.slot.index_select(0, location) + self.channel.index_select(0, pair)
        return self.bias + SparseProduct.apply(self.table, index, self.weight.index_select(0, pair), counts)


class SparseProduct(torch.autograd.Function):
    """Row n of the result is the sum of weight * table[index] over the n-th run of `counts[n]` entries.

    The same as `F.embedding_bag(mode="sum", per_sample_weights=...)`, with a backward of a third of the cost: the
    gradient of the table is the product with the transposed matrix, which is another embedding_bag over the entries
    sorted by index (4,096 rows of 35 entries, 128 wide, one thread: 4.6 ms against 15). Deterministic on GPUs too.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight, counts)
        ctx.table_rows = table.shape[0]
        return _weighted_sums(table, index, weight, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        index, weight, counts = ctx.saved_tensors
        # 16 bits where they do: half the time (154,000 entries: 1.1 ms against 2.1).
        index, order = (index.short() if ctx.table_rows <= 2**15 else index).sort(stable=True)
        row = torch.repeat_interleave(counts, output_size=len(index)).index_select(0, order)
        counts = index.bincount(minlength=ctx.table_rows)
        return _weighted_sums(gradient, row, weight.index_select(0, order), counts), None, None, None


def _weighted_sums(table: Tensor, index: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    offsets = (counts.cumsum(0) - counts).to(index.dtype)
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weight)


class CompositeEncoder(nn.Module):
    """The leaves of a nested observation: convolutions for each image and a VectorEncoder for all the rest.

    Flags and one-hots are not normalised: to divide by the deviation of a place seldom seen makes it deafening.
    """

    def __init__(self, env: EnvSpec, hidden_size: int | None):
        super().__init__()
        self.num_amounts = sum(math.prod(leaf.shape) for leaf in env.leaves if leaf.kind == "vector")
        self.num_flat = sum(math.prod(leaf.shape) for leaf in env.leaves if leaf.kind != "image")
        self.normalizer = Normalizer(self.num_amounts) if self.num_amounts else None
        flat = replace(env, observation_shape=(self.num_flat,))
        self.flat = VectorEncoder(flat, hidden_size, normalize=False) if self.num_flat else None
        self.image_shapes = [image.observation_shape for image in env.images]
        self.images = nn.ModuleList(ImageEncoder(image, hidden_size) for image in env.images)
        self.output_size = sum(module.output_size for module in (self.flat, *self.images) if module is not None)
        self.head_size = self.output_size if self.flat is None or self.images else self.flat.head_size

    def forward(self, observations: Tensor) -> Tensor:
        rows = observations.flatten(0, -2)
        features = []
        if self.flat is not None:
            flat = rows[:, : self.num_flat].float()
            if self.normalizer is not None:
                amounts, flags = flat.tensor_split((self.num_amounts,), 1)
                flat = torch.cat((self.normalizer(amounts), flags), 1)
            features.append(self.flat(flat))
        begin = self.num_flat
        for shape, encoder in zip(self.image_shapes, self.images, strict=True):
            end = begin + math.prod(shape)
            features.append(encoder(rows[:, begin:end].reshape(-1, *shape)))
            begin = end
        return torch.cat(features, -1).view(*observations.shape[:-1], self.output_size)


def build_encoder(env: EnvSpec, hidden_size: int | None) -> nn.Module:
    """The encoder for the kind of observation; hidden_size None means the size customary for it."""
    kinds = {
        "vector": VectorEncoder,
        "image": ImageEncoder,
        "tokens": TokenEncoder,
        "composite": CompositeEncoder,
    }
    return kinds[env.observation_kind](env, hidden_size)
