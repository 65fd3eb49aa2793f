"""torch's Adam without torch's compiler, which its methods load only to be left out of it: 1.8 s of each start."""

from inspect import unwrap

import torch


class Adam(torch.optim.Adam):
    """The same computation and the same state; `torch.compile` would not find its way around it."""

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
