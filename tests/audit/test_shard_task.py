"""Merged findings of shards equal the findings at all points at once."""

from __future__ import annotations

import pickle

import numpy as np

from lipmodel.audit.shard_task import AuditTask, merged
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.stream import in_memory
from lipmodel.norms import Norm
from lipmodel.progress import silent
from tests.networks import groupsort_net, to_file


def test_shards_are_merged_to_the_whole():
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 16, 16), 3, kind="rows")))
    inputs = np.random.default_rng(0).normal(size=(300, 4))
    data, samples = in_memory("data", inputs), 200
    task = AuditTask(Norm.TWO, 300, (-3.0, 3.0), 5, 310, ())
    whole = task(predictor, data, range(500), silent)
    shards = task.shards(data, samples)
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 256), (256, 300), (300, 500)]
    parts = [pickle.loads(pickle.dumps(task(predictor, data, shard, silent))) for shard in shards]
    extremes = [[getattr(part.points, name) for part in parts] for name in ("largest", "slopes", "least")]
    owners = [np.argmax(values, axis=0) for values in extremes]
    assert len(set(np.concatenate(owners))) > 1  # not all of the same shard
    points, attacked = merged(parts)
    for name, value in vars(whole.points).items():
        assert np.array_equal(getattr(points, name), value), name
    assert len(attacked.radius) == 310
    for mine, theirs in zip(attacked, whole.attacked, strict=True):
        assert np.array_equal(mine, theirs)
