"""The server's end of a job's process."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from service.sandbox.process import JobProcess


@pytest.mark.parametrize("turns", range(8))
def test_a_cancellation_is_never_lost_to_progress_that_comes_at_the_same_time(tmp_path, turns):
    async def follow(_):
        return True

    async def cancel_shortly_after_a_line():
        stdout = asyncio.StreamReader()
        listening = asyncio.create_task(
            JobProcess(tmp_path, seconds=60, max_bytes=2**30)._listen(SimpleNamespace(stdout=stdout), follow)
        )
        await asyncio.sleep(0.01)
        stdout.feed_data(b'{"progress": 0.5}\n')
        for _ in range(turns):
            await asyncio.sleep(0)
        listening.cancel()
        await asyncio.wait([listening], timeout=0.5)
        assert listening.cancelled()

    asyncio.run(cancel_shortly_after_a_line())
