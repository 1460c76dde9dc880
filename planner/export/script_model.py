"""The part of the standalone script that loads the model, quantises it, and puts the method on."""

from typing import Any

from vramplan.planner.export.python_text import Code, call
from vramplan.planner.export.ranks import several
from vramplan.planner.export.trainer import TORCH_NAMES, adapter_config, compute_dtype, on_cpu, quantised
from vramplan.planner.export.yaml_text import quoted
from vramplan.planner.methods import Bitfit, Prompt, quant_of, trainable_blocks, trains_base
from vramplan.planner.plan import Plan


def load_model(plan: Plan) -> str:
    """``load_model``, with what trains."""
    setup = plan.setup
    options: dict[str, Any] = {
        "dtype": Code(f"torch.{TORCH_NAMES[setup.precision.dtype]}"),
        "attn_implementation": setup.attention,
        "device_map": Code(_device_map(plan)),
        "use_safetensors": True,
        "trust_remote_code": False,
    }
    if quantised(plan):
        options["quantization_config"] = Code(_quantization(plan))
    loaded = call("AutoModelForCausalLM.from_pretrained", options, first="places.model", last="**ORIGIN")
    lines = [
        "def load_model():",
        '    """The model on its device, with what trains."""',
        f"    model = {loaded}",
        "    model.config.use_cache = False",
        *_method(plan),
    ]
    return "\n".join(["", *lines, ""])


def _device_map(plan: Plan) -> str:
    """Where a process loads the model: FSDP2 moves shards to the GPU by itself."""
    if plan.setup.sharding == "fsdp" and not quantised(plan):
        return "None"
    if on_cpu(plan) or plan.setup.sharding == "fsdp":
        return '{"": "cpu"}'
    return '{"": int(os.environ["LOCAL_RANK"])}' if several(plan) else '{"": 0}'


def _quantization(plan: Plan) -> str:
    quant = quant_of(plan.setup.method)
    if quant == "int8":
        return "BitsAndBytesConfig(load_in_8bit=True)"
    double = getattr(plan.setup.method, "double_quant", True)
    storage = f", bnb_4bit_quant_storage=torch.{TORCH_NAMES[plan.setup.precision.dtype]}"  # FSDP2 shards no integers
    return (
        f"BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type={quoted(quant or '')}, "
        f"bnb_4bit_use_double_quant={double}, bnb_4bit_compute_dtype=torch.{TORCH_NAMES[compute_dtype(plan)]}"
        f"{storage if plan.setup.sharding == 'fsdp' else ''})"
    )


def _method(plan: Plan) -> list[str]:
    """Lines of ``load_model`` after the base is there."""
    method = plan.setup.method
    config = adapter_config(method)
    if config is None:
        blocks = trainable_blocks(method)
        trains = 'name.endswith("bias")' if isinstance(method, Bitfit) else "True"
        if blocks is not None:
            trains = "id(parameter) in last"
        return [
            *([] if blocks is None else _last_blocks(blocks)),
            "    for name, parameter in model.named_parameters():",
            f"        parameter.requires_grad_({trains})",
            "    return model",
        ]
    lines = []
    if quantised(plan) and on_cpu(plan):
        lines += [
            "    for module in model.modules():  # bitsandbytes' layout for inference on a CPU has no backward pass",
            '        if getattr(module, "support_avx512bf16_for_cpu", False):',
            "            module.support_avx512bf16_for_cpu = False",
        ]
    if plan.setup.kbit_preparation:
        lines += ["    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)"]
    name, arguments = config
    if isinstance(method, Prompt) and method.prompt_tuning_init_text is not None:
        arguments |= {"tokenizer_name_or_path": Code("places.model")}
    lines += [
        f"    config = {call(name, arguments)}",
        "    model = get_peft_model(model, config, autocast_adapter_dtype=True)",
        "    cast_adapter(model, torch.float32)",
        "    return model",
    ]
    return lines


def _last_blocks(blocks: int) -> list[str]:
    """Lines that collect the parameters of the last blocks, by id."""
    return [
        "    lists = {name: each for name, each in model.named_modules() if isinstance(each, torch.nn.ModuleList)}",
        '    outer = [lists[name] for name in lists if not any(name.startswith(f"{other}.") for other in lists)]',
        f"    last = {{id(p) for block in list(max(outer, key=len))[-{blocks}:] for p in block.parameters()}}",
        "    model.enable_input_require_grads = lambda: None  # no gradient is wanted below them",
    ]


def after_trainer(plan: Plan) -> str:
    """``after_trainer``, which gives adapters their planned dtype."""
    if trains_base(plan.setup.method):
        return '''
def after_trainer(model):
    """The base's own parameters train, in the dtype they were loaded in."""
'''
    dtype = f"torch.{TORCH_NAMES[plan.setup.precision.adapter_dtype]}"
    return f'''
def after_trainer(model):
    """PEFT makes fp32 adapters, and trl bf16 ones on a quantised base: the planned dtype has the last word."""
    cast_adapter(model, {dtype})
'''
