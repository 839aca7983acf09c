"""Assembly of a registry from the parts of models that were read: versions, settings, labels and samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError
from service.models.layout import FORCE_FILE, LABELS, SAMPLES, SETTINGS, Fingerprint, Slot
from service.models.registry import Model, Registry, Versions
from service.models.samples import Samples
from service.models.settings import SettingsFile

UNLOADED = "it was unloaded; load it or change its files to serve it again"

Content = CertifiedPredictor | SettingsFile | Mapping[str, str] | Samples


@dataclass(frozen=True)
class Part:
    """Content of a slot.

    Attributes:
        fingerprint: of the files that were read last.
        content: the last content that was accepted, or None.
        reason: why the last files were refused, or None.
    """

    fingerprint: Fingerprint
    content: Content | None
    reason: str | None = None


def assemble(
    parts: Mapping[Slot, Part],
    checking: Collection[Slot],
    unloaded: frozenset[str],
    former: Registry,
    fault: str | None,
) -> Registry:
    """Return a registry of models from their parts.

    Args:
        parts: contents by slot.
        checking: slots whose files are being checked.
        unloaded: names of models that are not to be served.
        former: the previous registry; unchanged models are taken from it.
        fault: reason against the folder, or None.
    """
    parts_of: defaultdict[str, dict[str, Part]] = defaultdict(dict)
    checking_of: defaultdict[str, set[str]] = defaultdict(set)
    for slot, part in parts.items():
        parts_of[slot.name][slot.part] = part
    for slot in checking:
        checking_of[slot.name].add(slot.part)
    versions = {}
    for name in sorted(parts_of.keys() | checking_of.keys() | unloaded):
        before = former.models.get(name)
        if name in unloaded:
            versions[name] = Versions(name, {}, fault=UNLOADED)
        else:
            served = before.served if before else {}
            versions[name] = _versions(name, parts_of[name], frozenset(checking_of[name]), served)
    return Registry(versions, fault)


def _versions(
    name: str, parts: dict[str, Part], checking: frozenset[str], former: Mapping[str, Model]
) -> Versions:
    settings = parts.pop(SETTINGS, Part((), SettingsFile()))
    labels = parts.pop(LABELS, Part((), {}))
    samples = parts.pop(SAMPLES, Part((), None))
    versions = {v: parts[v] for v in sorted(parts, key=int)}
    served: dict[str, Model] = {}
    refused = {v: part.reason for v, part in versions.items() if part.reason is not None}
    pinned: Mapping[str, str] = {}
    # Without valid settings and labels no version is served: neither without its policy, nor a wrong version.
    if isinstance(settings.content, SettingsFile) and isinstance(labels.content, Mapping):
        pinned = labels.content
        for version, part in versions.items():
            if isinstance(part.content, CertifiedPredictor):
                try:
                    served[version] = _model(name, version, part.content, settings.content, former)
                except ModelError as error:
                    refused[version] = str(error)
    return Versions(
        name,
        served,
        refused=refused,
        checking=checking,
        pinned=pinned,
        forced=frozenset(
            version
            for version, part in versions.items()
            if any(Path(stamp[0]).name == FORCE_FILE for stamp in part.fingerprint)
        ),
        samples=samples.content if isinstance(samples.content, Samples) else None,
        fault="; ".join(filter(None, [settings.reason, labels.reason, samples.reason])) or None,
    )


def _model(
    name: str,
    version: str,
    predictor: CertifiedPredictor,
    settings: SettingsFile,
    former: Mapping[str, Model],
) -> Model:
    own = settings.of(predictor)
    model = former.get(version)
    if model is not None and model.predictor.file is predictor.file and model.settings == own:
        return model
    predictor = predictor.executing(own.dtype)
    predictor.prepare(own.policy.threat)
    return Model(name, version, predictor, predictor.file.graph.multiplications, own)
