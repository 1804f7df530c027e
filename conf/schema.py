"""What a composed configuration must look like.

One frozen dataclass per config group. Hydra composes YAML, :mod:`qexp.runner.compose` turns the result into an
:class:`ExperimentConfig`, and from there on nothing in qexp sees an untyped dictionary. Validation is pydantic's: an
unknown key, a wrong type or a value out of range is an error that names the key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False)

Objective = Literal[
    "causal_lm", "masked_lm", "classification", "regression", "image_classification", "question_answering"
]
Embedded = Literal["pydocs_text", "pydocs_labels", "pydocs_questions", "digits"]
"""Kinds of tasks that need no data."""
ScalingRole = Literal["attention_norm", "ffn_norm", "value", "up", "ffn_hidden"]
"""Where a scale for each channel can fold into the weights around it (not everywhere in every family)."""
ScalingRoles = Annotated[tuple[ScalingRole, ...], Field(min_length=1)]
RangeEstimator = Literal["minmax", "running_minmax", "percentile", "mse"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]


@dataclass(frozen=True, config=STRICT)
class MethodChoice:
    """One method of the run: its registry name and its settings, validated by the method's own ``Settings``."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class PlantConfig:
    """Outliers planted in the loaded network without changing its function: scales folded into its weights."""

    channels: Positive
    """How many channels of each scaled tensor are outliers."""
    factor: Annotated[float, Field(gt=1.0)]
    """How many times larger they become; a power of two leaves the network's outputs the same bit for bit."""
    roles: ScalingRoles | None = None
    """Where: null takes the normalisations that fold, and where none does (BERT) ``value``."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses the channels, the same ones in every layer; the run's own seed does not."""


@dataclass(frozen=True, config=STRICT)
class PretrainConfig:
    """Training of a model from scratch before the run proper: on which text, and how long.

    Without any method but one that only starts from scratch (``unit_scaling``), which both trainings have.
    """

    task: str
    """The name of a running text, or a folder of one."""
    train: str | None = None
    """The recipe; null: ``pretrain_clm`` or ``pretrain_mlm``, as the family asks."""
    max_steps: Positive | None = None
    """Instead of the recipe's."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Further values of ``train`` instead of the recipe's: ``learning_rate``, ``precision``."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """Which network, and where its weights come from.

    ``source``: ``hub`` (a model id or a local folder in ``path``), ``package`` (weights inside an installed Python
    package named by ``path``), ``gguf_package`` (a GGUF file inside a package), ``scratch`` (random weights from
    ``dimensions``, keys of the family's Hugging Face configuration). A ``hub`` model of images may name its sizes
    there too, so that composing needs no network.
    """

    name: str
    source: Literal["hub", "package", "gguf_package", "scratch"]
    family: Literal["auto", "bert", "roberta", "ernie", "gpt2", "opt", "llama", "charlm", "vit"] = "auto"
    path: str | None = None
    revision: str | None = None
    dimensions: dict[str, Any] = Field(default_factory=dict)
    tokenizer: str = "own"
    """``own`` (the checkpoint's), ``train`` (trained on the task's text), ``characters`` (every character of that text
    is a token), or a model id or local folder."""
    vocab_size: Annotated[int, Field(ge=64)] = 8192
    """Size of a tokenizer that is trained here, and its limit for ``characters``; ignored otherwise."""
    train: str | None = None
    """The ``train=`` recipe of this model when the user names none (``none`` for models too large to train here)."""
    plant_outliers: PlantConfig | None = None
    """Outlier channels to plant right after loading, before training."""
    pretrain: PretrainConfig | None = None
    """A model from scratch only: train it first, so that the run starts from trained weights and their tokenizer."""
    patch_layer_norm: bool = False
    """Image models from scratch: a LayerNorm behind the patch embedding (arXiv 2306.12929, table 7)."""


@dataclass(frozen=True, config=STRICT)
class PixelConfig:
    """Images: their columns, their size, and how their pixels are normalised for a model from scratch.

    ``mean`` and ``std`` are of pixels between 0 and 1, a number for each channel: one (grey) or three (RGB).
    """

    size: Positive
    """Pixels a side for a model from scratch whose ``model.dimensions`` name no ``image_size``."""
    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]
    std: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Field(min_length=1, max_length=3)]
    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Evaluation: the middle of an image that is cut out, as a share of its shorter side."""
    image_column: str = "image"
    label_column: str = "label"


@dataclass(frozen=True, config=STRICT)
class AugmentConfig:
    """What is done to training images, a function of (seed, epoch, image). Zero, false and null leave a thing out."""

    shift: Annotated[int, Field(ge=0)] = 0
    """Moved by up to so many pixels in either direction; the border is black."""
    min_area: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """A random part of at least this share of the area and of aspect 3:4 to 4:3, resized."""
    flip: bool = False
    """Half of them mirrored, left to right."""
    color_jitter: Fraction = 0.0
    """Brightness, contrast and saturation each times up to 1 ± this."""
    operations: Annotated[int, Field(ge=0)] = 0
    """RandAugment (arXiv 1909.13719): so many operations an image, drawn from fourteen."""
    magnitude: Annotated[float, Field(ge=0.0, le=10.0)] = 9.0
    """RandAugment: their strength, of 10."""
    mixup: NonNegative = 0.0
    """alpha of Beta(alpha, alpha): an image is a weighted mean of two, and so is its label (arXiv 1710.09412)."""
    cutmix: NonNegative = 0.0
    """alpha of Beta(alpha, alpha): a rectangle of an image is another's (1905.04899). With both, either."""
    label_smoothing: Fraction = 0.0
    """This share of every label is spread over all classes."""


@dataclass(frozen=True, config=STRICT)
class TaskConfig:
    """What is learnt and measured.

    ``kind``: ``text`` (running text; causal or masked language modelling), ``characters`` (running text, of which every
    next character is predicted), ``glue``, ``squad`` (questions whose answers stand in a text), ``pydocs_text``,
    ``pydocs_labels`` and ``pydocs_questions`` (made from the Python standard library's documentation).
    ``images`` are classified, and so are the ``digits`` that scikit-learn ships.
    ``path`` and ``subset`` are the hub's names; with ``data_dir`` the same splits are read as parquet below it.
    """

    name: str
    kind: Literal["text", "characters", "glue", "squad", "images", Embedded]
    path: str | None = None
    subset: str | None = None
    folder: str | None = None
    """Folder of this task below ``data_dir`` (``glue/sst2``, ``wikitext/wikitext-2-v1``), or an absolute path."""
    text_column: str = "text"
    joined_by: str | None = None
    """Running text by tokens only: join the rows with this and tokenise them as one text (published WikiText
    perplexities use a blank line). Null tokenises every row with its special tokens."""
    objective: Literal["auto"] | Objective = "auto"
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens of one example or window; of images settled: their patches and the class token."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """Characters: how many of a window's first ones belong to the window before too, and are not scored again.
    Questions: how many tokens of the text two neighbouring windows share."""
    mask_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    train_examples: Positive | None = None
    """Use only the first N training examples (after a seeded shuffle); all when null."""
    eval_examples: Positive | None = None
    """Use only the first N evaluation examples or windows; all when null."""
    eval_split: str = "validation"
    recipe: int = 1
    """Raised whenever the same configuration would give other figures."""
    ood: tuple[str, ...] = ()
    """Running text only: tasks or folders of text of other distributions, evaluated too with ``eval.ood``."""
    pixels: PixelConfig | None = None
    """Images only."""
    augment: AugmentConfig | None = None
    """Images only: what is done to them in training."""


@dataclass(frozen=True, config=STRICT)
class QuantizerConfig:
    """How one kind of tensor (weights, or activations) is quantized. Bits are in ``QuantConfig.bits``."""

    symmetric: bool
    granularity: Literal["per_tensor", "per_channel", "per_token"] = "per_tensor"
    """``per_token`` is dynamic: the range is each token's own. ``per_channel`` is for weights (output channels)."""
    range: RangeEstimator = "minmax"
    momentum: Fraction = 0.9
    """running_minmax: ``new = (1 - momentum) * batch + momentum * old``."""
    percentile: Annotated[float, Field(gt=50.0, le=100.0)] = 99.999


@dataclass(frozen=True, config=STRICT)
class CalibrationConfig:
    batches: Positive = 16
    batch_size: Positive = 16
    seed: Annotated[int, Field(ge=0)] = 2000


BitsName = Annotated[str, Field(pattern=r"^w([2-9]|1[0-6]|32)a([2-9]|1[0-6]|32)$")]


@dataclass(frozen=True, config=STRICT)
class QuantConfig:
    """Post-training quantization settings: every name in ``bits`` is one evaluated setting of the same trained model.

    ``w8a6`` means 8-bit weights and 6-bit activations; 32 leaves that kind in floating point.
    """

    name: str
    bits: tuple[BitsName, ...] = ("w8a8",)
    weights: QuantizerConfig = Field(default_factory=lambda: QuantizerConfig(symmetric=True))
    activations: QuantizerConfig = Field(
        default_factory=lambda: QuantizerConfig(symmetric=False, range="running_minmax")
    )
    roles: tuple[str, ...] = ("all",)
    """Site roles to quantize (``qexp show --sites`` lists them); ``all`` is the paper's set."""
    exclude: tuple[str, ...] = ()
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig)
    weight_step_ratio: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """Evaluation only: every weight's step is this many times what calibration or training found (KURE's robustness
    curves, arXiv 2002.07686). Activations are calibrated with it in place."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """The training recipe. ``max_steps=0`` evaluates the model as it is."""

    name: str
    max_steps: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 32
    gradient_accumulation: Positive = 1
    devices: Positive = 1
    """GPUs of this machine that share every batch of ``batch_size``; with ``device=cpu``, processes (data parallel)."""
    optimizer: str = "adamw_torch_fused"
    """Any ``optim`` that transformers' ``TrainingArguments`` takes, bitsandbytes' 8-bit ones included."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    weight_decay: NonNegative = 0.01
    decay_layernorm: bool = False
    """Apply weight decay to LayerNorm gains too (the paper's OPT runs do)."""
    schedule: str = "linear"
    """Any ``lr_scheduler_type`` of ``TrainingArguments``."""
    schedule_options: dict[str, float] = Field(default_factory=dict)
    """Further settings of the schedule, its ``lr_scheduler_kwargs``: ``min_lr`` of ``cosine_with_min_lr``."""
    warmup_steps: NonNegative = 0
    """Steps, or below 1 a fraction of ``max_steps``."""
    max_grad_norm: NonNegative = 1.0
    dropout: Fraction | None = None
    """Overrides the model's hidden and attention dropout; null keeps the model's own."""
    freeze: tuple[str, ...] = ()
    """Parts that are not trained: ``embeddings``, or substrings of parameter names."""
    ffn_output_penalty: NonNegative = 0.0
    """lambda of ``lambda * sum over layers of mean(ffn_output ** 2)``, added to the loss (any method)."""
    precision: Literal["fp32", "fp16", "bf16", "fp8"] = "fp32"
    """Number format of training. ``fp16``, ``bf16``: weights, activations, gradients, first moment. ``fp8``: what is
    multiplied by linear layers and attention, forward and backward; weights and optimizer stay in float32."""
    fp8_formats: Literal["paper", "hardware"] = "paper"
    """fp8 only: E4M3 and E5M2 as in arXiv 2303.11257 (fnuz, up to 240), or as an H100 multiplies them (up to 448)."""
    rounding: Literal["nearest", "stochastic"] | None = None
    """Of the weights after each step in fp16 and bf16 (null: stochastic), of all casts in fp8 (null: nearest)."""
    loss_scale: Annotated[float, Field(gt=0.0)] | Literal["dynamic"] | None = None
    """What multiplies the loss for the backward pass; gradients are divided by it before the optimizer. ``dynamic``:
    halved, and the step left out, where a gradient overflows; doubled after 2000 good steps."""
    scales_every: Positive | None = None
    """Measure the standard deviation of every weight, activation and gradient before the first step, every so many
    steps after it and before the last. Changes nothing of the training."""
    save_steps: Positive = 100
    logging_steps: Positive = 10
    keep_model: bool = True
    recipe: int = 1


@dataclass(frozen=True, config=STRICT)
class EvalConfig:
    batch_size: Positive = 32
    outliers: bool = True
    outlier_batches: Positive = 8
    heatmaps: bool = True
    integer: bool = False
    """After every quantized setting, run it in integers too: its own figures, the gap, and a certificate."""
    ood: bool = False
    """Evaluate every setting on the text of ``task.ood`` too: its figures are ``perplexity@NAME``."""


@dataclass(frozen=True, config=STRICT)
class KernelsConfig:
    """Which implementations compute. All of them are exact, so by intent none of this changes a figure."""

    int8: Literal["auto", "reference", "tiled", "avx2", "vnni", "amx", "cuda", "triton"] = "auto"
    """The integer product's back end; ``auto`` takes the fastest that is exact here (``qexp doctor`` lists them)."""


@dataclass(frozen=True, config=STRICT)
class TrackingConfig:
    """``mode``: ``auto`` is online where a W&B login exists and offline otherwise; ``none`` logs nothing."""

    name: str
    mode: Literal["auto", "online", "offline", "none"] = "auto"
    project: str = "qexp"
    entity: str | None = None
    group: str | None = None


@dataclass(frozen=True, config=STRICT)
class Pretraining:
    """What ``model.pretrain`` names, settled while composing."""

    task: TaskConfig
    train: TrainConfig


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One experiment: everything that ``run_experiment`` needs, and nothing that it does not."""

    method: tuple[MethodChoice, ...]
    model: ModelConfig
    task: TaskConfig
    quant: QuantConfig
    train: TrainConfig
    eval: EvalConfig
    tracking: TrackingConfig
    kernels: KernelsConfig = Field(default_factory=KernelsConfig)
    scale: Literal["smoke", "small", "medium", "paper"] = "small"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1000
    device: str = "auto"
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``."""
    threads: Positive | None = None
    """CPU threads of torch; its own choice when null."""
    data_dir: str | None = None
    results_dir: str = "runs"
    table: str = "adhoc"
    """Sub-folder of ``results_dir`` that the record is filed under."""
    ood: tuple[TaskConfig, ...] = ()
    """What ``task.ood`` names, settled while composing; empty without ``eval.ood``."""
    pretraining: Pretraining | None = None
    """What ``model.pretrain`` names, settled while composing."""


IMAGE_KINDS = ("images", "digits")
QUESTION_KINDS = ("squad", "pydocs_questions")
"""Kinds of tasks whose examples are images."""
