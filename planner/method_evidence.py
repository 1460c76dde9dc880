"""Accuracy beside memory, as PEFT published them: one model, one task, one card, one length of training for all.

meta-llama/Llama-3.2-3B, 5,000 steps of 4 rows of MetaMathQA, accuracy on GSM8K's test set; one NVIDIA L40S, bf16 base,
fp32 adapters, no gradient checkpointing; torch 2.7.1, transformers 4.52.4, peft 0.15.2.dev0, June 2025. Each row is one
result file of huggingface/peft, method_comparison/MetaMathQA/results, at the commit it names. Learning rates are those
of that comparison and were not tuned for every method: a low figure says what happened there, not what is possible.
"""

from vramplan.planner.values import Value

MODEL = "meta-llama/Llama-3.2-3B"
FOLDER = "method_comparison/MetaMathQA/results"
SOURCE = f"huggingface/peft, {FOLDER}"


class PublishedRun(Value):
    """One result file."""

    kind: str
    """Our name of the method."""
    setting: str
    test_accuracy: float
    """Share of GSM8K's 1,319 test questions answered rightly."""
    max_reserved_bytes: int
    """``max_memory_reserved`` of the whole process, generation included."""
    trainable_params: int
    file_bytes: int
    """The saved adapter; of the full run, parameters times their size."""
    file: str
    commit: str


PUBLISHED: tuple[PublishedRun, ...] = (
    PublishedRun(
        kind="full",
        setting="learning rate 1e-5",
        test_accuracy=0.5003790750568613,
        max_reserved_bytes=37241225216,
        trainable_params=3212749824,
        file_bytes=6425499648,
        file="full-finetuning--llama-3.2-3B-lr_0.00001.json",
        commit="f650b08abb011e4cf82b76faf33360d1a8a386f1",
    ),
    PublishedRun(
        kind="lora",
        setting="r=64 on q_proj, v_proj, rsLoRA",
        test_accuracy=0.5299469294920395,
        max_reserved_bytes=22538092544,
        trainable_params=18350080,
        file_bytes=73415408,
        file="lora--llama-3.2-3B-rank64-rslora.json",
        commit="e253b5906c28ac1232cab1e68e0b0b96a674e3fa",
    ),
    PublishedRun(
        kind="lora",
        setting="r=32 on q_proj, v_proj",
        test_accuracy=0.48218347232752085,
        max_reserved_bytes=22273851392,
        trainable_params=9175040,
        file_bytes=36715216,
        file="lora--llama-3.2-3B-rank32.json",
        commit="eccc7885d35ec1b425e6aac7638d020aa3153470",
    ),
    PublishedRun(
        kind="lora",
        setting="r=32 on q_proj, v_proj, DoRA",
        test_accuracy=0.48218347232752085,
        max_reserved_bytes=24553455616,
        trainable_params=9289728,
        file_bytes=37181760,
        file="lora--llama-3.2-3B-rank32-dora.json",
        commit="9bb1ae7b230a9bc3b12e3124aa0c8f30616eb15e",
    ),
    PublishedRun(
        kind="ptuning",
        setting="20 virtual tokens",
        test_accuracy=0.3707354056103108,
        max_reserved_bytes=20937965568,
        trainable_params=28382208,
        file_bytes=245880,
        file="ptuning--llama-3.2-3B-default.json",
        commit="3a546ed24ebe9372e0b95dc9d26f10f58bbfba75",
    ),
    PublishedRun(
        kind="ia3",
        setting="k_proj, v_proj, down_proj",
        test_accuracy=0.34495830174374525,
        max_reserved_bytes=23137878016,
        trainable_params=286720,
        file_bytes=1157064,
        file="ia3--llama-3.2-3B-default.json",
        commit="711075ff3925bb3b341069ed0b9c7f37f45b8dd7",
    ),
    PublishedRun(
        kind="prompt",
        setting="200 virtual tokens",
        test_accuracy=0.25246398786959817,
        max_reserved_bytes=24408752128,
        trainable_params=614400,
        file_bytes=2457728,
        file="prompt_tuning--llama-3.2-3B-lr_0.001.json",
        commit="1bf9b5a458a364025e15ff8560e296c4d8a86c44",
    ),
    PublishedRun(
        kind="prefix",
        setting="200 virtual tokens",
        test_accuracy=0.1470811220621683,
        max_reserved_bytes=20912799744,
        trainable_params=11468800,
        file_bytes=45875328,
        file="prefixtuning--llama-3.2-3B-lr_0.001.json",
        commit="b921e124e83b5d8efea130ae24276662adcdb297",
    ),
    PublishedRun(
        kind="ln-tuning",
        setting="learning rate 1e-4",
        test_accuracy=0.0,
        max_reserved_bytes=21179138048,
        trainable_params=175104,
        file_bytes=358288,
        file="ln_tuning--llama-3.2-3B-default.json",
        commit="7f249765a74dda609e2e0efedd23289499beb720",
    ),
)
"""By accuracy, full fine-tuning first. No run on a quantised base, with bottlenecks or with BitFit was published."""


def published_for(kind: str) -> tuple[PublishedRun, ...]:
    """The runs of one method; QLoRA's are LoRA's, which says so."""
    return tuple(run for run in PUBLISHED if run.kind == kind)
