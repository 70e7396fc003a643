"""The names that training loops give to what they save: metrics, counts, settings, weights. Data, in one place.

A number is a metric only because its name says so; which names do is written here and shown on the manual's page on
facts. Everything is compared in lower case. Pure.

A name is split into *words* at everything that is no letter or digit: ``val/acc1`` has the words ``val`` and ``acc1``.
Its last word says what it is, whatever digits it ends in: ``focal_loss`` is a loss, ``loss_weight`` a weight.
"""

from __future__ import annotations

import functools
import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What is measured: the last word of a metric's name.
METRIC_WORDS = _words(
    """
    loss losses err error metric metrics score scores fitness reward return acc accuracy top prec precision recall
    hmean f fscore fmeasure sensitivity specificity auc auroc auprc ap map ar mar iou miou dice jaccard kappa mcc
    pck em ned mrr ndcg hits mae mse rmse mape smape r rsquared pearson spearman nll elbo kl kld bpc bpd ppl
    perplexity psnr ssim lpips fid kid bleu sacrebleu rouge rougel chrf meteor cider spice comet cer wer per eer sdr
    sisdr snr pesq stoi
    """
) | {"f1", "f2", "r2", "top1", "top5", "rouge1", "rouge2"}
NEEDS_DIGIT = frozenset({"f", "r", "top"})  # f1, r2, top5 are metrics; f, r and top alone say nothing
MEASURED_ON = _words("val valid validation test train training eval evaluation dev")
HELD_OUT = _words("val valid validation test eval evaluation dev")  # val_* is a metric
AVERAGES = _words(
    """
    mean avg average ema macro micro weighted total epoch step batch running std
    """
)
# The last word of names that count or set something, and measure nothing.
SETTING_WORDS = _words(
    """
    epoch epochs step steps iteration iterations iter iters batch batches update updates fold folds seed lr bs wd
    momentum dropout rank run trial version v n k id idx index date time seconds size sizes samples tokens workers
    gpu gpus node nodes port world layers width depth dim dims len length count num weight weights scale threshold
    thresh thr alpha beta gamma lambda coef eps margin temperature interval every freq frequency split fraction
    ratio patience tolerance delta warmup decay target bits smoothing accumulation accum shuffle limit duration
    runtime subset set res resolution crop year subject patient cycle rate holdout stride only nfe beam speaker
    speakers hours files file percent pct percentage images start end period mode prob probability kl threads
    """
)
BEST_WORDS = _words("best lowest highest peak record")  # of the run, not of this checkpoint
EXTREME_WORDS = _words("min max minimum maximum")  # the same behind a metric's name; before one, mostly a limit
REACHED_WORDS = _words("loss acc accuracy")  # but for these: ``min_val_loss``, ``max_accuracy``

# The first word of numbers that are a setting, or another checkpoint's.
FOREIGN_WORDS = _words(
    """
    num n use target lambda alpha beta gamma weight w nms match label previous prev old initial init
    """
)

# A dict of numbers holds metrics if its key has one of these as a word …
METRIC_GROUP_WORDS = _words("metric metrics result results score scores")
STRONG_GROUP_WORDS = _words("metric metrics result results")  # any number in one is a metric
NO_METRIC_WORDS = _words("vocab vocabulary token tokens label labels class classes word words file files")
# … or begins with what it was measured on, unless its last word says that it holds something else.
NO_GROUP_WORDS = (
    _words(
        """
    args arguments cfg config configs conf opt opts options params parameters hparams settings kwargs state states
    dict loader dataloader dataset data sampler transform transforms classes class map mapping vocab tokenizer ids
    labels weights history progress loop callback callbacks
    """
    )
    | SETTING_WORDS
)

# In names of files: what counts how far training had come. It does so at the name's beginning, after a number, and
# after the words below; after any other word it may count something else (``ddim_steps``, ``drop_epoch``).
EPOCH_WORDS = frozenset({"epoch"})  # "epochs" is how many there are to be
STEP_WORDS = _words("step steps global_step globalstep iteration iterations iter iters")
# In names of files: what stands before a metric's name and is no part of it.
FILE_WORDS = _words("best last model checkpoint ckpt net network weights")
COUNTED_WORDS = FILE_WORDS | _words(
    "train training trainer global latest final current run exp experiment version at netg netd"
)
NAME_ENDINGS = ("model", "net", "former", "gan", "vae", "nn", "exp", "run")  # of models and experiments: "mymodel"
# Lightning writes ``name-epoch=3`` for any name; the word before is no experiment's name if it is one of these.
NO_COUNT_WORDS = _words(
    """
    max min total num n no of per every time diffusion denoising denoise inner outer warmup warm warmdown cooldown
    start stop end save eval grad sub log from resume resumed init initial ddim ddpm dpm lcm euler sample sampling
    sampler inference infer rollout unroll unrolled accum accumulate accumulation decay milestone drop freeze frozen
    unfreeze unfrozen pretrain pretrained pretraining finetune distill adv adversarial pgd attack raft gru refine
    refinement critic disc turbo lightning schedule patience one two three four single multi few next swa ema mixup
    restart cycle lookahead skip swap switch reset off on
    """
)
# In names of files, words for a measure that are as often a setting: ``kl=0.01`` weighs a term, ``snr=5.0`` is noise.
DOUBTFUL_MEASURES = _words("kl kld snr per em")
PLAIN_WORDS = _words("top key")  # they change no measure: ``top_5_acc``, MONAI's ``key_metric``

# How far training had come: where it stands, the most specific first.
EPOCH_PATHS = (
    "epoch", "current_epoch", "cur_epoch", "epochs_completed", "epochs_run", "meta.epoch", "trainer.epoch",
    "trainer.current_epoch", "trainer.epochs_completed", "train_state.epoch", "training_state.epoch",
    "trainer_state.epoch", "extra_state.epoch", "extra_state.train_iterator.epoch", "state.timestamp.epoch",
    "state.timestamp.Timestamp.epoch", "state.epoch", "info.epoch", "metadata.epoch", "ss_epoch", "epochs",
)  # fmt: skip
STEP_PATHS = (
    "global_step",
    "global_steps",
    "step",
    "current_step",
    "iteration",
    "iter",
    "iter_num",
    "current_iter",
    "num_updates",
    "step_count",
    "meta.iter",
    "meta.iteration",
    "meta.step",
    "trainer.global_step",
    "trainer.step",
    "trainer.iteration",
    "train_state.step",
    "training_state.step",
    "trainer_state.global_step",
    "extra_state.num_updates",
    "extra_state.global_step",
    "state.timestamp.batch",
    "state.timestamp.Timestamp.batch",
    "state.global_step",
    "state.step",
    "info.step",
    "metadata.global_step",
    "metadata.step",
    "ss_steps",
    "steps",
    "iterations",
    "total_steps",
)  # fmt: skip - the last ones may be how many there are to be: only where nothing else is said

# Names of counts that may be how many there are to be: not where such settings stand beside them.
PLANNED = _words("epochs steps iterations total_steps")
PLANS = _words("lr learning_rate batch_size timesteps sampler cfg_scale num_epochs max_epochs max_steps")

# Where the weights stand: one model, by the names under which training loops save it.
MODEL_KEYS = (
    "state_dict", "model_state_dict", "model", "module", "model_state", "net", "network", "net_state_dict", "weights",
    "params",
)  # fmt: skip
# One of these words in a key says that a model stands there, or a part of one that is saved by itself.
MODEL_WORDS = _words(
    """
    model module net network weights params encoder decoder backbone neck head generator discriminator critic actor
    policy value student teacher g d netg netd gen disc vae unet transformer classifier detector projector predictor
    embedder ema shadow swa
    """
)
# Averages of a model: never a second one.
AVERAGE_WORDS = _words("ema swa shadow averaged averaging avg target")
# The same, and what may be a copy: it is where it has the same names as what stands beside it.
COPY_WORDS = AVERAGE_WORDS | _words("teacher best current init initial prev previous old last reference ref")
# What is no model, whatever tensors it holds …
NO_MODEL_WORDS = _words(
    """
    optim optimizer optimizers optimiser opt scheduler schedulers scaler loss losses criterion rng random callbacks
    loops buffer replay sampler fragments args config importance fisher grad grads gradient gradients mask masks decay
    momentum lr
    """
)
# … and what is none unless it has parameters' names.
DOUBTFUL_WORDS = _words("center queue stats statistics metrics history embeddings data dataset")

# Names of tensors that are data or what was made of them, in a file of nothing but tensors.
DATA_WORDS = _words(
    """
    features feature labels label targets target inputs input outputs output images image ids x y xs ys latents latent
    mean std mu sigma var cov preds pred predictions logits probs obs observations actions rewards dones states samples
    edge index data embeddings embedding centroids cpu cuda state
    """
)

# Settings that the user gave: hyper-parameters, wherever training loops put them.
HYPER_PARAMETER_KEYS = (
    "hyper_parameters", "hparams", "hyperparameters", "hyper_params", "hyperparams", "params", "args", "arguments",
    "train_args", "training_args", "config", "cfg", "conf", "opt", "opts", "options", "model_args", "model_config",
    "model_cfg", "model_kwargs", "model_params", "model_hparams", "dims", "settings",
)  # fmt: skip

# The names under which the model's architecture stands.
ARCHITECTURE_KEYS = ("arch", "architecture", "model_name", "model_arch", "model_type", "model")
# One of these words in a key, where there is no model, says that training needs the file to go on.
TRAINING_WORDS = _words("rng random optim optimizer scheduler sched scaler sampler loops arguments args")
TRAINING_KEYS = _words("last_epoch _step_count param_groups")  # the same of whole keys: a scheduler's, an optimizer's
RANDOM_WORDS = _words("rng random")
RANDOM_KEYS = _words(
    "python numpy cpu cuda torch xla npu mps hpu mlu global_state"
)  # all that a file of their states has
# Dicts that hold the run's best so far beside other things (early stopping; timm's saver).
BEST_HOLDERS = ("early_stopping", "early_stopper", "earlystopping", "saver", "trainer_state")

# The checkpoints of a run have the same names; splitting one takes 2 us. Callers bound a name's length.
_kept = functools.lru_cache(maxsize=4096)
_WORD = re.compile(r"[a-z]+[0-9]*|[0-9]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z])")


@_kept
def words_of(name: str) -> tuple[str, ...]:
    """Split a name into its words, in lower case; numbers alone are none.

    >>> words_of("metrics/mAP50-95(B)"), words_of("valLoss"), words_of("val/acc1")
    (('metrics', 'map50', 'b'), ('val', 'loss'), ('val', 'acc1'))
    """
    return tuple(word for word in _WORD.findall(_HUMP.sub("_", name).lower()) if not word.isdigit())


@_kept
def is_metric_name(name: str) -> bool:
    """Return whether a number of this name is a measurement of one checkpoint.

    >>> [is_metric_name(n) for n in ("loss", "val/hmean", "acc1", "loss_val", "mAP_0.5", "val_anything", "focal_loss")]
    [True, True, True, True, True, True, True]
    >>> [is_metric_name(n) for n in ("loss_scale", "val_batch_size", "best_acc", "fold", "f", "min_loss", "r")]
    [False, False, False, False, False, False, False]
    """
    words = words_of(name)
    if not words or is_of_run(name) or (len(words) > 1 and words[0] in FOREIGN_WORDS):
        return False
    words = words[:-1] if len(words) > 1 and len(words[-1]) == 1 and words[-1] not in METRIC_WORDS else words  # "(B)"
    first, last = words[0], words[-1]
    if is_setting_name(name) or (_ends_as_setting(words) and last not in AVERAGES):
        return False
    if _is_measure(last):
        return True
    if _is_measure(first) and all(word in MEASURED_ON or word in AVERAGES for word in words[1:]):
        return True
    return len(words) > 1 and first in HELD_OUT


@_kept
def is_setting_name(name: str) -> bool:
    """Return whether a name counts or sets something and has no word for a measure.

    >>> [is_setting_name(name) for name in ("lr", "trainer/global_step", "val_loss_epoch", "NDS")]
    [True, True, False, False]
    """
    words = words_of(name)
    return (not words or _ends_as_setting(words)) and not any(map(_is_measure, words))


def is_plain_metric_name(name: str) -> bool:
    """Return whether a name is a measure, what it was measured on and how it was averaged, and no more.

    Names of files run together: ``focal_loss-2.0`` in one is a setting.

    >>> [is_plain_metric_name(name) for name in ("val/hmean", "test_mean_dice", "focal_loss", "val_batch", "val")]
    [True, True, False, False, False]
    >>> [is_plain_metric_name(name) for name in ("per", "val_per", "top_5_acc", "target_acc", "recall_k")]
    [False, True, True, False, False]
    """
    words = words_of(name)
    measures = [word for word in words if word not in MEASURED_ON | AVERAGES | PLAIN_WORDS]
    if len(measures) != 1 or (measures[0] in DOUBTFUL_MEASURES and MEASURED_ON.isdisjoint(words)):
        return False
    return _is_measure(measures[0]) and is_metric_name(name)


@_kept
def metric_of_best(name: str) -> str | None:
    """Return the metric whose best value in the run a number of this name is; ``None`` if it is no such number.

    >>> [metric_of_best(n) for n in ("best_acc1", "best_val_loss", "val_loss_min", "best", "best_metric")]
    ['acc1', 'val_loss', 'val_loss', '', 'metric']
    >>> [metric_of_best(n) for n in ("best_epoch", "acc", "max_steps", "max_epochs")]
    [None, None, None, None]
    >>> [metric_of_best(n) for n in ("max_accuracy", "min_val_loss", "max_iou", "min_score")]
    ['accuracy', 'val_loss', None, None]
    """
    words = words_of(name)
    marks = {word for word in (*words[:1], *words[-1:]) if word in BEST_WORDS or word in EXTREME_WORDS}
    if not marks or _ends_as_setting(words):
        return None
    mark = next(iter(marks & BEST_WORDS), None) or next(iter(marks))
    parts = re.split(r"([^A-Za-z0-9]+)", _HUMP.sub("_", name))
    at = next(i for i in (0, len(parts) - 1) if parts[i].lower() == mark) if mark in _ends(parts) else None
    if at is None:
        return None
    left = "".join(parts[2:] if at == 0 else parts[:-2])
    left = re.sub(r"^(?:model_score|so_far|model|checkpoint_callback)$", "", left)
    if mark in BEST_WORDS:
        return left
    is_reached = at > 0 or words[-1] in REACHED_WORDS
    return left if is_reached and left and is_metric_name(left) else None


def _ends(parts: list[str]) -> tuple[str, str]:
    return parts[0].lower(), parts[-1].lower()


@_kept
def is_metric_group(key: str) -> bool:
    """Return whether a dict of numbers under this key holds metrics.

    >>> [is_metric_group(k) for k in ("metrics", "cleval_metrics", "val", "eval_results", "test", "train_metrics")]
    [True, True, True, True, True, True]
    >>> [is_metric_group(k) for k in ("vocab", "eval_args", "scaler", "val_loader", "best_metrics", "train")]
    [False, False, False, False, False, False]
    """
    words = words_of(key)
    if not words or is_of_run(key) or words[-1] in NO_GROUP_WORDS or not NO_METRIC_WORDS.isdisjoint(words):
        return False
    return (
        words[-1] in METRIC_GROUP_WORDS or words[0] in HELD_OUT or (words[0] in METRIC_GROUP_WORDS and len(words) > 1)
    )


def is_of_run(name: str) -> bool:
    """Return whether a number of this name is the run's best, or a limit, and no value of this checkpoint.

    >>> [is_of_run(n) for n in ("best_f1", "max_acc", "val_loss_best", "peak_acc", "acc")]
    [True, True, True, True, False]
    """
    words = words_of(name)
    return bool(words) and (
        metric_of_best(name) is not None or not BEST_WORDS.isdisjoint(words) or words[0] in EXTREME_WORDS
    )


def _ends_as_setting(words: tuple[str, ...]) -> bool:
    return words[-1] in SETTING_WORDS or _bare(words[-1]) in SETTING_WORDS


def _is_measure(word: str) -> bool:
    bare = _bare(word)
    return word in METRIC_WORDS - NEEDS_DIGIT or (bare in METRIC_WORDS and (bare not in NEEDS_DIGIT or bare != word))


def _bare(word: str) -> str:
    return word.rstrip("0123456789")
