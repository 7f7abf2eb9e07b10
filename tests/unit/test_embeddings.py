import asyncio

import numpy as np
import pytest

from sam_inference.embeddings import EmbeddingStore, ImageEmbedding, image_id_of
from sam_inference.errors import EmbeddingNotFoundError


def embedding(size_bytes=1000):
    tensors = {"image_embedding": np.zeros(size_bytes // 2, np.float16)}
    return ImageEmbedding("m", (10, 20), (5, 10), tensors)


def maker(value):
    async def create():
        return value

    return create


async def test_the_least_recently_used_embedding_goes_first():
    store = EmbeddingStore(max_bytes=2000)
    await store.get_or_create("a", maker(embedding()))
    await store.get_or_create("b", maker(embedding()))
    store.get("a")

    await store.get_or_create("c", maker(embedding()))

    store.get("a")
    store.get("c")
    with pytest.raises(EmbeddingNotFoundError):
        store.get("b")
    assert store.size_bytes == 2000


async def test_an_embedding_larger_than_the_store_is_returned_and_not_kept():
    store = EmbeddingStore(max_bytes=999)

    made, cached = await store.get_or_create("a", maker(embedding()))

    assert (made.size_bytes, cached, store.size_bytes) == (1000, False, 0)


async def test_calls_at_the_same_time_share_one_encoding():
    store = EmbeddingStore(max_bytes=10_000)
    release = asyncio.Event()
    calls = 0

    async def create():
        nonlocal calls
        calls += 1
        await release.wait()
        return embedding()

    waiting = [asyncio.create_task(store.get_or_create("a", create)) for _ in range(5)]
    await asyncio.sleep(0)
    release.set()
    results = await asyncio.gather(*waiting)

    assert calls == 1
    assert len({id(made) for made, _ in results}) == 1
    assert (await store.get_or_create("a", create))[1] is True


async def test_an_encoding_survives_the_caller_who_began_it():
    store = EmbeddingStore(max_bytes=10_000)
    release = asyncio.Event()

    async def create():
        await release.wait()
        return embedding()

    first = asyncio.create_task(store.get_or_create("a", create))
    second = asyncio.create_task(store.get_or_create("a", create))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    release.set()

    assert (await second)[0].size_bytes == 1000
    assert first.cancelled()


async def test_an_encoding_that_nobody_waits_for_is_cancelled():
    store = EmbeddingStore(max_bytes=10_000)
    cancelled = asyncio.Event()

    async def create():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    only = asyncio.create_task(store.get_or_create("a", create))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    only.cancel()

    await asyncio.wait_for(cancelled.wait(), 5)
    made, cached = await store.get_or_create("a", maker(embedding()))
    assert (made.size_bytes, cached) == (1000, False)


async def test_a_failed_encoding_is_told_to_all_and_tried_again():
    store = EmbeddingStore(max_bytes=10_000)

    async def fail():
        await asyncio.sleep(0)
        raise ValueError("no")

    results = await asyncio.gather(
        *(store.get_or_create("a", fail) for _ in range(3)), return_exceptions=True
    )

    assert [str(result) for result in results] == ["no"] * 3
    assert (await store.get_or_create("a", maker(embedding())))[1] is False


def test_an_image_id_depends_on_the_bytes_and_the_model():
    assert image_id_of(b"x", "m") == image_id_of(b"x", "m")
    assert len({image_id_of(b"x", "m"), image_id_of(b"y", "m"), image_id_of(b"x", "n")}) == 3
