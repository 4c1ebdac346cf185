"""MultimodalModel: encoders, masking, fusion, and one unimodal head per modality

Remix's scores, the unimodal losses and the sufficiency metrics use the unimodal heads. The heads share no parameters
with the fusion, except with `DecisionFusion`, which is their mean.

Under autocast, only the encoders compute in the lower precision. Features, fusion and heads stay in float32, because
the two largest bfloat16 logits of a sample can be equal.
"""

# B samples, M modalities, C classes, d_m features of modality m

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from remix_study.modality import canonical_order
from remix_study.models.boosted import BoostedHead
from remix_study.models.encoder import Encoder, ImageEncoder
from remix_study.models.fusion import Fusion, linear
from remix_study.models.inside import InnerFusion, MMTMFusion, Rows
from remix_study.models.masking import Masking
from remix_study.sample import Batch

log = logging.getLogger(__name__)

Trained = Literal["all", "encoders", "fusion"]
"""What gets a gradient of fused logits."""


class Outputs(NamedTuple):
    """Outputs of a forward pass.

    `head_logits` has only modalities whose encoder ran; rows of inactive samples are meaningless.
    """

    logits_BC: torch.Tensor
    head_logits: dict[str, torch.Tensor]  # m -> (B, C)
    features: dict[str, torch.Tensor]  # m -> (B, d_m), of every modality; its replacement where it is inactive


class MultimodalModel(nn.Module):
    """Encoders, a fusion of their features, and a linear head (d_m -> C) for each modality.

    Args:
        encoders: modality -> encoder.
        fusion: over the same modalities and the encoders' widths.
        masking: the replacements of the features of inactive modalities; None: zeros.

    Raises:
        ValueError: encoders and fusion do not have the same modalities, or a fusion inside the encoders gets an encoder
            without stages.
    """

    def __init__(self, encoders: Mapping[str, Encoder], fusion: Fusion, masking: Masking | None = None) -> None:
        super().__init__()
        self.modalities = canonical_order(encoders)
        if self.modalities != fusion.modalities:
            raise ValueError(
                f"encoders and fusion must have the same modalities, but the encoders have "
                f"{', '.join(self.modalities)} and the fusion {', '.join(fusion.modalities)}. "
                "Build the fusion from the encoders' widths."
            )
        if isinstance(fusion, InnerFusion) and not all(isinstance(e, ImageEncoder) for e in encoders.values()):
            raise ValueError(f"{type(fusion).__name__} needs encoders with stages. Use TinyEncoder or ResNet18.")
        self.num_classes = fusion.num_classes
        self.encoders = nn.ModuleDict({m: encoders[m] for m in self.modalities})
        self.fusion = fusion
        self.widths = {m: encoders[m].out_features for m in self.modalities}
        if fusion.shares_head:
            if len(set(self.widths.values())) > 1:
                raise ValueError(f"{type(fusion).__name__} needs features of one size, but there are {self.widths}.")
            shared = linear(next(iter(self.widths.values())), self.num_classes)
            self.heads = nn.ModuleDict(dict.fromkeys(self.modalities, shared))
        else:
            self.heads = nn.ModuleDict({m: linear(width, self.num_classes) for m, width in self.widths.items()})
        self.masking: Masking | None
        self.register_module("masking", masking)  # after all others, whose order stays that of older checkpoints
        self._warned: set[str] = set()  # modalities whose encoder kept BatchNorm statistics in a batch of one sample

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._modules.setdefault("masking", None)  # pickled by version 0.1

    def forward(self, batch: Batch) -> Outputs:
        """Fused logits and unimodal logits of a batch, whose modalities must include the model's.

        An encoder without rows does not run: its gradients stay None and its BatchNorm statistics unchanged.

        Raises:
            ValueError: a modality's input has neither all rows nor exactly the active ones.
        """
        active_BM = self._active(batch)
        rows = self._rows(batch, active_BM)
        encoded = self._encoded({m: batch.inputs[m] for m in rows}, rows, active_BM)
        features: dict[str, torch.Tensor] = {}
        head_logits: dict[str, torch.Tensor] = {}
        for column, m in enumerate(self.modalities):
            active_B = active_BM[:, column]
            if m not in rows:
                features[m] = self._replacements(m, len(active_B))
                continue
            chosen = rows[m]
            if chosen is None:
                features[m] = self._masked(m, encoded[m], active_B)
            else:
                features[m] = self._replacements(m, len(active_B)).index_copy(0, chosen, encoded[m])
            if self.training and self.masking is not None:
                self.masking.observe(m, encoded[m], active_B if chosen is None else None)
            head_logits[m] = self.classify(m, features[m])
        # The head of an inactive modality outputs its bias; detached, so that its gradient stays None.
        inactive = (
            {m: self._at_zero(m).expand(len(active_BM), -1) for m in features.keys() - head_logits}
            if self.fusion.uses_heads
            else {}
        )
        between = {name: values_Bd for name, values_Bd in encoded.items() if name not in features}
        with _no_autocast(active_BM):
            logits_BC: torch.Tensor = self.fusion(features | between, active_BM, head_logits | inactive)
        return Outputs(logits_BC, head_logits, features)

    def encode(self, modality: str, x: torch.Tensor) -> torch.Tensor:
        """One modality's input (B, ...) -> its features alone (B, d_m), in float32 also under autocast."""
        if isinstance(self.fusion, InnerFusion):
            encoder = self.encoders[modality]
            assert isinstance(encoder, ImageEncoder)  # for the type checker
            return _at_least_float32(self.fusion.encode_alone(encoder, modality, x))
        return _at_least_float32(self.encoders[modality](x))

    def classify(self, modality: str, features_Bd: torch.Tensor) -> torch.Tensor:
        """One modality's features (B, d_m) -> the logits (B, C) of its head, in float32 also under autocast."""
        with _no_autocast(features_Bd):
            logits_BC: torch.Tensor = self._head(modality)(features_Bd)
        return logits_BC

    def classify_each(self, modality: str, features_Bd: torch.Tensor) -> list[torch.Tensor]:
        """The logits (B, C) of each head of a modality that is in use, whose sum `classify` returns."""
        head = self._head(modality)
        if not isinstance(head, BoostedHead):
            return [self.classify(modality, features_Bd)]
        with _no_autocast(features_Bd):
            return head.each(features_Bd)

    def prepare_heads(self, further: int) -> None:
        """Make the unimodal heads such that `add_head` can be called `further` times for each modality."""
        for m in self.modalities:
            self.heads[m] = BoostedHead(self._head(m), further)

    def add_head(self, modality: str) -> None:
        """Take one more head of a modality into use.

        Raises:
            ValueError: none is left, or `prepare_heads` was not called.
        """
        head = self._head(modality)
        if not isinstance(head, BoostedHead):
            raise ValueError("call `prepare_heads` before heads are added")
        head.grow()

    def mask(
        self, features: Mapping[str, torch.Tensor], active_BM: torch.Tensor, *, trains: Trained = "all"
    ) -> dict[str, torch.Tensor]:
        """Features m -> (B, d_m) with the replacement where a modality is inactive.

        Args:
            active_BM: columns follow the model's `modalities`.
            trains: see `fuse`.
        """
        columns = zip(self.modalities, active_BM.unbind(dim=1), strict=True)
        return {m: self._masked(m, features[m], active_B, trains) for m, active_B in columns}

    def fuse(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,
        *,
        trains: Trained = "all",
        heads: Collection[str] | None = None,
    ) -> torch.Tensor:
        """Fused logits (B, C) of features with only `active_BM` active, as of `mask`.

        Evaluating another subset of modalities needs no further pass of the encoders, except for a row of `ZeroInput`.

        Args:
            trains: what gets a gradient. `encoders`: the features of active modalities only, so that fusion, heads and
                replacements are constants. `fusion`: all but encoders.
            heads: the modalities whose heads get a gradient, if the fusion uses heads; None: all.

        Raises:
            ValueError: the fusion is inside the encoders, so that features are not enough (see `subsets` and `only`).
        """
        if isinstance(self.fusion, InnerFusion):
            raise ValueError(
                f"{type(self.fusion).__name__} fuses inside the encoders, not their features. Use `subsets` or `only`."
            )
        masked = self.mask(features, active_BM, trains=trains)
        constant = trains == "encoders"
        with _no_autocast(active_BM):
            head_logits = {
                m: _call(head, constant or (heads is not None and m not in heads), masked[m])
                for m, head in (self.heads if self.fusion.uses_heads else {}).items()
            }
            return _call(self.fusion, constant, masked, active_BM, head_logits)

    def only(self, batch: Batch, outputs: Outputs, kept: Collection[str]) -> torch.Tensor:
        """Fused logits (B, C) of a batch whose outputs are known, with only the modalities in `kept` active.

        The replacements of the others pass no gradient.
        """
        active_BM = self._active(batch) & self._columns(kept, batch.active_BM)
        if not isinstance(self.fusion, InnerFusion):
            return self.fuse(outputs.features, active_BM, trains="encoders")
        inputs = {m: x for m, x in batch.inputs.items() if m in kept}
        logits_BC: torch.Tensor = self(
            Batch(self.modalities, inputs, active_BM, batch.labels_B, batch.samples_B)
        ).logits_BC
        return logits_BC

    def subsets(
        self,
        inputs: Mapping[str, torch.Tensor],
        subsets: Iterable[frozenset[str]],
        known: Mapping[str, torch.Tensor] | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[frozenset[str], torch.Tensor]]:
        """Features alone of each modality, m -> (B, d_m), and fused logits (B, C) of each subset of the modalities.

        A fusion inside the encoders needs a pass of the encoders for every subset; others need one for all.

        Args:
            inputs: all B rows of every modality that is not in `known`.
            known: features of these inputs, m -> (B, d_m), from encoders that have not changed since; of none with a
                fusion inside the encoders.
        """
        if not isinstance(self.fusion, InnerFusion):
            known = known or {}
            features = {m: known[m] if m in known else self.encode(m, inputs[m]) for m in self.modalities}
            some = next(iter(features.values()))
            return features, {each: self.fuse(features, self._columns(each, some)) for each in subsets}
        some = next(iter(inputs.values()))
        number_B = torch.arange(len(some), device=some.device)
        features, fused = {}, {}
        for each in subsets:
            active_BM = self._columns(each, some)
            batch = Batch(self.modalities, {m: inputs[m] for m in each}, active_BM, number_B, number_B)
            outputs = self(batch)
            fused[each] = outputs.logits_BC
            if len(each) == 1:
                features |= {m: outputs.features[m] for m in each}
        return {m: features[m] if m in features else self.encode(m, inputs[m]) for m in self.modalities}, fused

    def split_logits(
        self, features: Mapping[str, torch.Tensor], head_logits: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The part of the fused logits, m -> (B, C), that each modality contributes (`Fusion.split`).

        Args:
            features: m -> (B, d_m) of every modality; its replacement where it is inactive.
            head_logits: m -> (B, C) of the encoders that ran.

        Raises:
            ValueError: the fusion mixes modalities, so that its logits have no such parts.
        """
        if not self.fusion.splits:
            raise ValueError(f"{type(self.fusion).__name__} has no split logits. Use concat, sum or decision fusion.")
        heads = head_logits
        if self.fusion.uses_heads:
            heads = {m: heads[m] if m in heads else self.classify(m, features[m]) for m in self.modalities}
        with _no_autocast(next(iter(features.values()))):
            return self.fusion.split(features, heads)

    def end_epoch(self) -> None:
        """Call it after the last training step of an epoch, when the buffers are equal on all ranks."""
        if self.masking is not None:
            self.masking.end_epoch()

    def encoder_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The parameters of one modality's encoder."""
        return self.encoders[modality].parameters()

    def encoder_buffers(self, modality: str) -> Iterator[torch.Tensor]:
        """The buffers of one modality's encoder, such as BatchNorm's running statistics."""
        return self.encoders[modality].buffers()

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The parameters of one modality's unimodal head."""
        return self.heads[modality].parameters()

    def gate_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The parameters that a modality's gates inside its encoder depend on, with those that all gates share."""
        if isinstance(self.fusion, MMTMFusion):
            yield from self.fusion.gate_parameters(modality)

    def hold_gates(self, held_M: torch.Tensor) -> None:
        """Replace the gates of these modalities by their running means in training, until the next call.

        Args:
            held_M: bool (M,).

        Raises:
            ValueError: the model has no running means of gates.
        """
        if not isinstance(self.fusion, MMTMFusion) or self.fusion.held_M is None:
            raise ValueError("the model must be built with running means of gates (`MMTMFusion(..., holds=True)`)")
        self.fusion.held_M.copy_(held_M)

    def fusion_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the fusion, without those of the unimodal heads."""
        return self.fusion.parameters()

    def fusion_gradients(self, modality: str) -> Iterator[torch.Tensor]:
        """Views of the gradients of the weights that only one modality's part of the fused logits depends on."""
        for parameter, columns in self.fusion.own_weights(modality):
            if parameter.grad is not None:
                yield parameter.grad[..., columns]
        if self.fusion.uses_heads:
            yield from (p.grad for p in self._head(modality).parameters() if p.grad is not None)

    def _replacements(self, modality: str, rows: int, trains: Trained = "all") -> torch.Tensor:
        """The replacement of a modality's feature in each row, (rows, d_m)."""
        if self.masking is None:
            return self._head(modality).weight.new_zeros(rows, self.widths[modality])

        def encode_zeros(shape: Sequence[int]) -> torch.Tensor:
            norms = [n for n in self.encoders[modality].modules() if isinstance(n, _BatchNorm) and n.training]
            for norm in norms:
                norm.eval()
            try:
                with torch.set_grad_enabled(torch.is_grad_enabled() and trains == "all"):
                    return self.encode(modality, self._head(modality).weight.new_zeros(1, *shape))[0]
            finally:
                for norm in norms:
                    norm.train()

        return self.masking.replacement(modality, encode_zeros).expand(rows, -1)

    def _masked(
        self, modality: str, features_Bd: torch.Tensor, active_B: torch.Tensor, trains: Trained = "all"
    ) -> torch.Tensor:
        """A modality's features (B, d_m) with the replacement where it is inactive."""
        features_Bd = features_Bd.detach() if trains == "fusion" else features_Bd
        if self.masking is None:
            return features_Bd.masked_fill(~active_B[:, None], 0.0)
        if bool(active_B.all()):  # else a learned token would get a gradient of zero, with which the optimizer moves it
            return features_Bd
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains != "encoders"):
            replacements_Bd = self._replacements(modality, len(features_Bd), trains)
        return torch.where(active_B[:, None], features_Bd, replacements_Bd)

    def _rows(self, batch: Batch, active_BM: torch.Tensor) -> dict[str, Rows]:
        """Modality -> the samples that its input has, in order, None for all; without modalities that have no input."""
        rows: dict[str, Rows] = {}
        for column, m in enumerate(self.modalities):
            x, active_B = batch.inputs.get(m), active_BM[:, column]
            if x is None or len(x) == 0:
                # On the CPU only: on a GPU this check would synchronise every unimodal step.
                if active_B.device.type == "cpu" and bool(active_B.any()):
                    raise _rows_error(m, 0, active_B)
            elif len(x) == len(active_B):
                rows[m] = None
            else:
                chosen = active_B.nonzero().squeeze(1)
                if len(chosen) != len(x):
                    raise _rows_error(m, len(x), active_B)
                rows[m] = chosen
        return rows

    def _encoded(
        self, inputs: Mapping[str, torch.Tensor], rows: Mapping[str, Rows], active_BM: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Features (rows, d_m) of every modality with an input, and what a fusion inside the encoders adds to them."""
        parts = [(m, self.encoders[m]) for m, x in inputs.items() if len(x) == 1]
        if len(active_BM) == 1:
            parts.append((", ".join(inputs), self.fusion))
        norms = {
            norm: name
            for name, part in parts
            for norm in part.modules()
            if isinstance(norm, _BatchNorm) and norm.training
        }
        with _running_statistics_for_one_value(list(norms)) as affected:
            if isinstance(self.fusion, InnerFusion):
                encoders = {m: e for m, e in self.encoders.items() if isinstance(e, ImageEncoder)}
                found = self.fusion.encode(encoders, inputs, rows, active_BM)
                encoded = {name: _at_least_float32(values_bd) for name, values_bd in found.items()}
            else:
                encoded = {m: self.encode(m, x) for m, x in inputs.items()}
        counts = Counter(norms[norm] for norm in affected)
        for name in counts.keys() - self._warned:
            self._warned.add(name)
            log.warning(
                "a batch holds one sample of %s, of which %d BatchNorm layers see one value per channel; they use "
                "their running statistics for it. Use larger batches, or `smallest_batch: 2` or more.",
                name, counts[name],
            )  # fmt: skip
        return encoded

    def _columns(self, kept: Collection[str], like: torch.Tensor) -> torch.Tensor:
        active_M = torch.tensor([m in kept for m in self.modalities], device=like.device)
        return active_M.expand(len(like), -1)

    @torch.no_grad()
    def _at_zero(self, modality: str) -> torch.Tensor:
        """The logits (C,) of a modality's head for features of zeros."""
        head = self._head(modality)
        if not isinstance(head, BoostedHead):
            return head.bias.detach()
        return self.classify(modality, head.weight.new_zeros(1, self.widths[modality]))[0]

    def _head(self, modality: str) -> nn.Linear:
        head = self.heads[modality]
        assert isinstance(head, nn.Linear)  # for the type checker
        return head

    def _active(self, batch: Batch) -> torch.Tensor:
        if batch.modalities == self.modalities:
            return batch.active_BM
        if unknown := set(self.modalities) - set(batch.modalities):
            raise ValueError(
                f"the batch must have every modality of the model, but lacks {', '.join(sorted(unknown))}. "
                "Read it from a store that has them, or build the model without them."
            )
        return batch.active_BM[:, [batch.modalities.index(m) for m in self.modalities]]


@contextmanager
def _running_statistics_for_one_value(norms: Sequence[_BatchNorm]) -> Iterator[list[_BatchNorm]]:
    """Let BatchNorm layers that see one value per channel, which has no variance, use and keep their statistics.

    A layer on feature maps sees H x W values of a single sample, and trains as usual. Yields the affected layers, which
    are known after the forward pass.
    """
    affected: list[_BatchNorm] = []

    def before(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        x: torch.Tensor = inputs[0]
        if x.numel() == x.shape[1]:
            assert isinstance(norm, _BatchNorm)  # for the type checker
            affected.append(norm.eval())

    hooks = [norm.register_forward_pre_hook(before) for norm in norms]
    try:
        yield affected
    finally:
        for hook in hooks:
            hook.remove()
        for norm in affected:
            norm.train()


def _call(module: nn.Module, constant: bool, *args: Any) -> torch.Tensor:
    """The output of a module, whose parameters get no gradient if they are `constant`."""
    parameters = {name: p.detach() for name, p in module.named_parameters()} if constant else {}
    output: torch.Tensor = functional_call(module, parameters, args) if constant else module(*args)
    return output


def _no_autocast(like: torch.Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _rows_error(modality: str, given: int, active_B: torch.Tensor) -> ValueError:
    return ValueError(
        f"`inputs[{modality!r}]` must have all {len(active_B)} rows of the batch or its {int(active_B.sum())} active "
        f"ones, but has {given}. Select the input's rows with the `active_BM` of the batch."
    )
