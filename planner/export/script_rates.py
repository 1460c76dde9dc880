"""The part of the standalone script that gives parameters rates of their own: executor/methods/layerwise.py there."""

from vramplan.planner.export.yaml_text import quoted
from vramplan.planner.layerwise import learning_rates
from vramplan.planner.methods import Layerwise, Method


def rates_constants(method: Method) -> list[str]:
    """Lines of the script's head; none for a method of one rate."""
    if not isinstance(method, Layerwise):
        return []
    groups = ", ".join(quoted(group.modules) for group in method.lr_groups)
    which = f"LR_GROUPS = [{groups}]" if groups else f"LOWER_LAYERS = {method.lower_layers}"
    return [which, f"LEARNING_RATES = {list(learning_rates(method))}  # beside the base rate"]


def rates_code(method: Method) -> str:
    """The end of the trainer's class, and the function it asks; nothing for a method of one rate."""
    if not isinstance(method, Layerwise):
        return ""
    return _PART_GROUPS + (_BY_GROUP if method.lr_groups else _BY_LAYER)


_PART_GROUPS = '''
    def create_optimizer(self, *args, **options):
        """The parameters of each rate in groups of their own, alike but for the rate."""
        first = self.optimizer is None
        optimizer = super().create_optimizer(*args, **options)
        rates = {id(p): rate_number(name) for name, p in self.model.named_parameters()}
        whole = list(optimizer.param_groups) if first else []
        for number, rate in enumerate(LEARNING_RATES, 1):
            for group in whole:
                moved = [p for p in group["params"] if rates[id(p)] == number]
                if moved:
                    alike = {name: value for name, value in group.items() if name != "params"}
                    group["params"] = [p for p in group["params"] if rates[id(p)] != number]
                    optimizer.add_param_group({**alike, "params": moved, "lr": rate})
        return optimizer
'''

_BY_LAYER = '''

def rate_number(name):
    """1 for an embedding and the first LOWER_LAYERS layers, else 0: the base rate."""
    layer = re.search(r"(?:^|\\.)(\\d+)\\.", name)
    if layer is not None:
        return int(int(layer[1]) < LOWER_LAYERS)
    return int(any(part in name for part in ("embed", "wte.", "wpe.", "shared.")))
'''

_BY_GROUP = '''

def rate_number(name):
    """The number of the group a parameter's module is in, from 1; 0: the base rate. Each is in one at most."""
    modules = name.split(".")[:-1]
    for number, group in enumerate(LR_GROUPS, 1):
        wanted = group.split(".")
        if any(all(map(fits, wanted, modules[start:])) for start in range(len(modules) - len(wanted) + 1)):
            return number
    return 0


def fits(wanted, part):
    """Whether a part of a module's name is the one wanted, or a layer of the range wanted."""
    ends = re.fullmatch(r"(\\d+)-(\\d+)", wanted)
    return part == wanted or bool(ends and part.isdecimal() and int(ends[1]) <= int(part) <= int(ends[2]))
'''
