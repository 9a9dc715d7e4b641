"""One thread: the tensors of these tests are small, and two threads do not add up in the same order."""

import torch

torch.set_num_threads(1)
