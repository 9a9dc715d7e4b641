"""The hosts: small networks of the kinds that people have, none of which was written for growing."""

# What torch types the call of a module as is Any, in every class here.
# mypy: disable-error-code="no-any-return"

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A GRU or an LSTM with layers before and behind it."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.cell = kind(8, 8, batch_first=True)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Classes of sequences."""
        states, _ = self.cell(self.embed(x_BTF))
        return self.head(torch.relu(self.hidden(states[:, -1])))


class Transformer(nn.Module):
    """Two layers of torch's own encoder, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Classes of sequences."""
        return self.head(self.encoder(self.embed(x_BTF)).mean(1))


class Attention(nn.Module):
    """Attention written by hand: every projection is a layer that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(4, 4) for _ in range(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Classes of sequences."""
        mixed = F.scaled_dot_product_attention(self.query(x_BTF), self.key(x_BTF), self.value(x_BTF))
        return self.head(F.gelu(self.mix(mixed)).mean(1))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and across by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up, self.last = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images of images."""
        across = F.relu(self.first(x_BCHW))
        return self.last(torch.cat([across, F.relu(self.up(F.relu(self.down(across))))], dim=1))


class Residual(nn.Module):
    """A residual block with batch norm, and activations in place as in every ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), *(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2, self.relu, self.fc = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Classes of images."""
        x = self.relu(self.stem(x_BCHW))
        x = self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Separable convolutions, as in MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth, self.point = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Classes of images."""
        return self.head(F.relu6(self.point(F.relu6(self.depth(F.relu6(self.stem(x_BCHW)))))).mean((2, 3)))


class Signals(nn.Module):
    """Convolutions over one dimension and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 4, 5, padding=2), nn.ReLU(), nn.Conv1d(4, 4, 5, stride=2, padding=2), nn.ReLU())
        self.head = nn.Conv1d(4, 3, 1)

    def forward(self, x_BCL: Tensor) -> Tensor:
        """Classes of signals."""
        return self.head(self.body(x_BCL)).mean(-1)


class Shared(nn.Module):
    """One layer under two names, each of them called."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.left, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.right = self.left

    def forward(self, x_BF: Tensor) -> Tensor:
        """Classes of vectors."""
        x = torch.tanh(self.entry(x_BF))
        return self.head(torch.tanh(self.right(torch.tanh(self.left(x)))))


class Repeated(nn.Module):
    """One layer that is called three times in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.step, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Classes of vectors."""
        x = torch.tanh(self.entry(x_BF))
        for _ in range(3):
            x = x + torch.tanh(self.step(x))
        return self.head(x)


class Functional(nn.Module):
    """A layer whose weight is read and whose forward is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.middle, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Classes of vectors."""
        x = torch.tanh(self.entry(x_BF))
        return self.head(torch.tanh(F.linear(x, self.middle.weight, self.middle.bias)))


class Bags(nn.Module):
    """Bags of words, with a sparse lookup behind an index."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.hidden, self.head = nn.EmbeddingBag(20, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, words_BN: Tensor) -> Tensor:
        """Classes of bags."""
        return self.head(torch.relu(self.hidden(self.bag(words_BN))))


class Branching(nn.Module):
    """A pass that depends on its input: one of two layers is called, which of them differs from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.high, self.low, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Classes of vectors."""
        x = torch.tanh(self.entry(x_BF))
        chosen = self.high if float(x_BF[0, 0]) > 0 else self.low
        return self.head(torch.tanh(chosen(x)))


class Backbone(nn.Module):
    """A frozen backbone, in eval mode for ever, with a new head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3), nn.ReLU()
        )
        self.backbone.requires_grad_(False)
        self.head = nn.Linear(6, 3)

    def train(self, mode: bool = True) -> "Backbone":
        """The head's mode; the backbone stays as it is."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Classes of images."""
        return self.head(self.backbone(x_BCHW).mean((2, 3)))


class Mixed(nn.Module):
    """A part in float64 within a network in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exact, self.head = nn.Linear(8, 6), nn.Linear(6, 6).double(), nn.Linear(6, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Classes of vectors."""
        return self.head(torch.tanh(self.exact(torch.tanh(self.entry(x_BF)).double())).float())


class Autoencoder(nn.Module):
    """A bottleneck; the target is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
        self.decode = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 8))

    def forward(self, x_BF: Tensor) -> Tensor:
        """The vectors again."""
        return self.decode(self.encode(x_BF))


class Language(nn.Module):
    """A language model whose output layer has the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.feed, self.head = nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of each next token."""
        x = self.embed(tokens_BT)
        past = x.cumsum(1) / torch.arange(1, x.shape[1] + 1).unsqueeze(-1)
        x = x + torch.tanh(self.mix(past))
        return self.head(x + torch.tanh(self.feed(x)))


class Siamese(nn.Module):
    """One tower over both halves of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.join, self.head = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Classes of pairs."""
        left, right = self.tower(x_BF[:, :4]), self.tower(x_BF[:, 4:])
        return self.head(torch.tanh(self.join(left - right)))


class Experts(nn.Module):
    """A mixture of experts: each takes the samples that its gate sends, which may be none."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.gate, self.head = nn.Linear(8, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x_BF: Tensor) -> Tensor:
        """Classes of vectors."""
        x = torch.tanh(self.entry(x_BF))
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero()[:, 0]
            if len(rows):
                y = y.index_add(0, rows, weight[rows, None] * torch.tanh(expert(x[rows])))
        return self.head(x + y)


def perceptron() -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


def compiled() -> nn.Module:
    """The perceptron, compiled without code generation: what wraps it is the same."""
    found: object = torch.compile(perceptron(), backend="eager")
    assert isinstance(found, nn.Module)
    return found
