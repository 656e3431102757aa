"""Which project's layout a checkpoint has: its dictionaries of tensors, and the one row of
LAYOUTS that fits them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from detco.common import resnet
from detco.common.errors import InputError
from detco.common.networks import RESNET
from detco.common.values import shown

from . import layouts
from .reader import formats
from .reader.stubs import KINDS, Inert
from .rows import ANYWHERE, CheckpointLayout, EncoderPlace

# where in the file (a/b: nested) -> its tensors by name
Places = Mapping[str, dict[str, torch.Tensor]]
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module)\.")
AVERAGE = re.compile(r"((?:\w+\.)*?\w*(?:ema|average)\w*\.)(.*)")
TRUNK = re.compile(
    r"(.*\.)(?:layer1\.0\.conv1|res2\.0\.conv1"
    r"|encoder\.stages\.0\.layers\.0\.layer\.0\.convolution)\.weight"
)
STEMS = ("conv1.weight", "stem.conv1.weight", "embedder.embedder.convolution.weight")
SAME = "layer1.0.conv1.weight"  # a name of torchvision's that stands for all
NETWORK = 20  # tensors that a set of weights has at least
OTHER_STEMS = (
    (r"(.*\.)?attnpool\..*", "CLIP's ResNet (a stem of three convolutions, attention pooling)"),
    (
        r"(.*\.)?(conv1|stem)\.[13-9]\.(conv\.)?weight",
        "a ResNet-C or -D (a stem of three convolutions)",
    ),
    (r"(.*\.)?layer\d\.\d+\.conv\d\.\d\.filt", "an anti-aliased ResNet (BlurPool)"),
    (r"(.*\.)?layer\d\.\d+\.se\..*", "an SE-ResNet"),
)
FOREIGN = (  # what no row explains
    (
        r"(.*\.)?(patch_embed|blocks\.\d+\.attn|patch_embeddings?)\..*",
        "a vision transformer under names that no known project uses"
        " (`detco weights list --layouts`); a prefix before them is taken off with --prefix",
    ),
    (
        r"(.*\.)?(token_embedding|word_embeddings|wte|embed_tokens)\.weight",
        "a text encoder, and no network for images",
    ),
    (
        r"(.*\.)?(decode_head|auxiliary_head|sem_seg_head|seg_head)\..*",
        "a head for segmentation, and no network below it",
    ),
    (r"(.*\.)?decoder(_\w+)?\..*", "a decoder, and no encoder"),
)
LISTED = 8  # names in an error
LONGEST, MOST = 1000, 20_000  # characters of a name, tensors; patterns take long for endless ones
EXPANDED = 1 << 20  # bytes that a tensor may seem to have although the file has fewer (`expand`)


def places(data: Any, prefix: str = "") -> Places:
    """Every dictionary of tensors in a file, first those in which some row looks for an encoder:
    place -> its tensors. Averages beside the weights have a place of their own.

    prefix: only what lies behind it in the names, which lose it. Raises InputError if nothing does.
    """
    wanted = dict.fromkeys(
        at for layout in layouts.LAYOUTS for encoder in layout.encoders for at in encoder.at
    )
    found = {at: tensors for at in wanted if (tensors := tensors_of(inside(data, at)))}
    others = {at: tensors for at, tensors in _others(data) if at not in found}
    if not found and len(others) == 1:
        found = {ANYWHERE[0]: others.popitem()[1]}
    split: dict[str, dict[str, torch.Tensor]] = {}
    for at, tensors in (found | others).items():
        split |= _averages(at, tensors)
    if not prefix:
        return split
    kept = {at: behind for at, tensors in split.items() if (behind := _behind(tensors, prefix))}
    if not kept:
        names = [name for tensors in split.values() for name in tensors]
        raise InputError(f"has no tensor behind {shown(prefix)}{_offer(names)}")
    return kept


def _others(data: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict]]:
    """Dictionaries with at least NETWORK tensors, wherever they lie."""
    try:
        tensors = tensors_of(data) if place else {}
    except InputError:  # what is odd elsewhere in the file does not matter
        return
    if len(tensors) >= NETWORK:
        yield place, tensors
    if isinstance(data, dict) and depth < 4:
        for key, value in list(data.items())[:MOST]:
            if isinstance(key, str) and isinstance(value, dict):
                yield from _others(value, f"{place}/{key}".strip("/"), depth + 1)


def _averages(at: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict]:
    """One dictionary split into the weights and moving averages of them, which some projects keep
    beside them as `ema.NAME`, mmcv as `ema_` and the name with `_` for `.`."""
    flat = {"ema_" + name.replace(".", "_"): name for name in tensors}
    sets: dict[str, dict] = {at: {}}
    for name, tensor in tensors.items():
        found = AVERAGE.fullmatch(name)
        if name in flat:
            sets.setdefault(f"{at}:ema", {})[flat[name]] = tensor
        elif found and found[2] in tensors:
            sets.setdefault(f"{at}:{found[1].strip('.')}", {})[found[2]] = tensor
        else:
            sets[at][name] = tensor
    return sets


def _behind(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    prefix = prefix.rstrip(".") + "."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def inside(data: Any, path: str) -> Any:
    for key in filter(None, path.split("/")):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def tensors_of(found: Any) -> dict[str, torch.Tensor]:
    """The tensors of a dictionary by name, without wrappers. Raises InputError where two names
    become one."""
    tensors: dict[str, torch.Tensor] = {}
    for key, value in found.items() if isinstance(found, dict) else ():
        if (
            isinstance(key, str)
            and isinstance(value, torch.Tensor)
            and value.layout == torch.strided
        ):
            if len(key) > LONGEST:
                raise InputError(f"has a tensor whose name has {len(key)} characters")
            name = WRAPPERS.sub("", key)
            if str(value.dtype).removeprefix("torch.") not in KINDS:
                raise InputError(f"has {shown(name)} as {value.dtype}, which are no plain numbers")
            if value.numel() * value.element_size() > max(
                value.untyped_storage().nbytes(), EXPANDED
            ):
                raise InputError(
                    f"says that {shown(name)} has shape {tuple(value.shape)}, far more than there"
                    " are numbers for it"
                )
            if name in tensors:
                raise InputError(f"has {shown(name)} twice, with and without the wrapper `module.`")
            tensors[name] = value
    if len(tensors) > MOST:
        raise InputError(
            f"has {len(tensors)} tensors; no ResNet and its heads have more than {MOST}"
        )
    return tensors


def tensors_at(places: Places, encoder: EncoderPlace) -> dict[str, torch.Tensor]:
    return next((places[at] for at in encoder.at if at in places), {})


def find(name: str) -> CheckpointLayout:
    found = next((layout for layout in layouts.LAYOUTS if layout.name == name), None)
    if found is None:
        raise InputError(
            f"cannot be read as {name!r}, which is no known layout; known:"
            f" {', '.join(a.name for a in layouts.LAYOUTS)}"
        )
    return found


def refuse_relatives(content: formats.Content, places: Places) -> None:
    """InputError for a ResNet whose names show that it is another network than torchvision's."""
    facts = list(_facts(content))
    if any(row.family != RESNET and _fits(row, places, facts) for row in layouts.LAYOUTS):
        return
    named = {name: tensor for tensors in places.values() for name, tensor in tensors.items()}
    known = f"the detectors here take torchvision's ResNets: {', '.join(resnet.ARCHS)}"
    for pattern, what in OTHER_STEMS:
        if any(re.fullmatch(pattern, name) for name in named):
            raise InputError(f"holds {what}; {known}")
    if any(t.ndim == 4 and n.endswith("downsample.1.weight") for n, t in named.items()):
        raise InputError(f"holds a ResNet-D (it pools before a shortcut); {known}")


def recognise(content: formats.Content, places: Places, prefix: str = "") -> CheckpointLayout:
    """The only row that fits; behind a prefix, where none does, the row that takes a trunk alone.
    Raises InputError naming the candidates, or what the names look like where there is none."""
    facts = list(_facts(content))
    fitting = [
        layout
        for layout in layouts.LAYOUTS
        if not layout.only_forced and _fits(layout, places, facts)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(
            "could be of several projects; say which:"
            f" {' or '.join(f'--as {a.name}' for a in fitting)}"
        )
    if prefix and any(SAME in tensors for tensors in places.values()):
        return next(layout for layout in layouts.LAYOUTS if layout.trunk_only)
    raise InputError(_unknown(content, places))


def lookalikes(content: formats.Content, places: Places) -> list[str]:
    """Rows taken only where the user says so that would fit as well."""
    facts = list(_facts(content))
    return [
        layout.name
        for layout in layouts.LAYOUTS
        if layout.only_forced and _fits(layout, places, facts)
    ]


def _fits(layout: CheckpointLayout, places: Places, facts: list[str]) -> bool:
    names = facts + [name for encoder in layout.encoders for name in tensors_at(places, encoder)]
    return all(_matches(pattern, names) for pattern in layout.requires) and not any(
        _matches(pattern, names) for pattern in layout.forbids
    )


def _matches(pattern: str, names: list[str]) -> bool:
    whole = re.compile(pattern)
    return any(whole.fullmatch(name) for name in names)


def _facts(content: formats.Content) -> Iterator[str]:
    """`/key` of everything beside tensors at the top of a file, with `=value` where that is a short
    plain one; `/only=key`."""
    top = content.data.items() if isinstance(content.data, dict) else ()
    if len(top) == 1:
        yield f"/only={next(iter(content.data))}"
    for key, value in (*top, *content.metadata.items()):
        if isinstance(key, str) and not isinstance(value, torch.Tensor):
            short = isinstance(value, bool | int | float) or (
                isinstance(value, str) and len(value) < 100
            )
            yield f"/{key}={value}" if short else f"/{key}"


def _unknown(content: formats.Content, places: Places) -> str:
    """Why nothing fits, as far as it can be told."""
    names = [name for tensors in places.values() for name in tensors]
    objects = [found for at in ANYWHERE if isinstance(found := inside(content.data, at), Inert)]
    if not names and objects:
        what = "holds a whole object, not its weights"
        return (
            f"{what} ({shown(objects[0].name)}): load it in its own project and save its"
            " state_dict()"
        )
    if not names:
        top = list(content.data)[:LISTED] if isinstance(content.data, dict) else []
        has = (
            ", ".join(shown(key) if isinstance(key, str) else type(key).__name__ for key in top)
            or "nothing to look into"
        )
        return f"holds no dictionary of tensors under a known name; it has {has}"
    for pattern, what in FOREIGN:
        if any(re.fullmatch(pattern, name) for name in names):
            return f"holds {what}"
    begins = Counter(shown(".".join(name.split(".")[:2])) for name in names)
    listed = ", ".join(f"{begin}..." for begin, _ in begins.most_common(LISTED))
    return f"names its tensors like no known project: {listed}{_offer(names)}"


def _offer(names: list[str]) -> str:
    """Prefixes behind which a ResNet stands, as what to say."""
    whole = set(names)
    prefixes = dict.fromkeys(match[1] for name in names if (match := TRUNK.fullmatch(name)))
    found = [prefix for prefix in prefixes if any(prefix + stem in whole for stem in STEMS)]
    if SAME in names:
        row = next(layout for layout in layouts.LAYOUTS if layout.trunk_only)
        return f"; a ResNet under torchvision's names is in it: --as {row.name} takes it alone"
    if not found:
        return "; no ResNet is recognised in them"
    said = " or ".join(f"--prefix {shown(prefix)}" for prefix in found[:LISTED])
    return f"; a ResNet under known names stands behind a prefix: say {said}"
