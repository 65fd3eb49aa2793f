"""What the policy head's numbers mean, by torch.distributions: the tests' own reading of them."""

from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal


def distribution(params: Tensor, continuous: bool) -> Distribution:
    """Of the actions in each of the states `[...]` whose params are `[..., P]`."""
    if not continuous:
        return Categorical(logits=params)
    mean, log_std = params.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)
