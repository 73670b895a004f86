"""Views: kept within their memory, for some minutes, each for one key."""

import asyncio
import os

import numpy as np
import pytest
import torch

from engine.imageio.image import Image
from engine.imageio.sandbox.shared_file import in_memory
from service.runtime import views as module
from service.runtime.rendering import distribution_of
from service.runtime.views import ViewedPage, ViewGone, Views


def page_of(size):
    image = Image(torch.from_numpy(np.arange(size, dtype=np.uint8).reshape(1, size, 1)))
    return ViewedPage(image, (), distribution_of(image))


def add(views, size, owner="ann"):
    with in_memory(bytes(size)) as file:
        return views.add(file, owner)


def run(check, memory=100, clock=lambda: 0.0):
    async def inside():
        with Views(memory, clock) as views:
            check(views)
        assert views.memory == 0

    asyncio.run(inside())


def test_a_view_outlives_the_upload_and_is_found_by_its_owner_alone():
    def check(views):
        view = add(views, 10)
        with view.source.open() as file:
            assert file.read() == bytes(10)
        assert views.get(view.token, "ann") is view
        for token, owner in ((view.token, "bob"), ("other", "ann")):
            with pytest.raises(ViewGone, match="Send the file again"):
                views.get(token, owner)

    run(check)


def test_a_file_over_the_limit_is_not_kept():
    def check(views):
        view = add(views, 101)
        assert (view.token, views.memory) == ("", 0)
        view.close()

    run(check)


def test_the_view_used_longest_ago_goes_first():
    def check(views):
        first, second = add(views, 40), add(views, 40)
        views.get(first.token, "ann")
        add(views, 40)
        assert views.get(first.token, "ann") is first
        with pytest.raises(ViewGone):
            views.get(second.token, "ann")

    run(check)


def test_a_view_that_grows_loses_its_own_parts_last():
    def check(views):
        other, view = add(views, 10), add(views, 10)
        page = view.pages[1] = page_of(60)
        page.rendered["small"] = page_of(50).image
        views.trim(view)
        assert (page.rendered, list(view.pages), views.memory) == ({}, [1], 70)
        with pytest.raises(ViewGone):
            views.get(other.token, "ann")
        view.pages[2] = page_of(95)
        views.trim(view)
        assert (view.pages, views.memory) == ({}, 10)

    run(check)


def test_the_number_of_views_is_limited(monkeypatch):
    monkeypatch.setattr(module, "MAX_VIEWS", 3)

    def check(views):
        first, *others = [add(views, 1) for _ in range(4)]
        assert [views.get(view.token, "ann") for view in others] == others
        with pytest.raises(ViewGone):
            views.get(first.token, "ann")

    run(check)


def test_a_view_in_use_keeps_its_file_until_the_end():
    def check(views):
        view = add(views, 60)
        with view.in_use(), view.source.open() as file:
            add(views, 60)
            assert file.read() == bytes(60)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file.fd)

    run(check)


def test_unused_views_are_freed_after_some_minutes(monkeypatch):
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    now = [0.0]

    async def inside():
        with Views(100, lambda: now[0]) as views:
            old, used = add(views, 10), add(views, 10)
            now[0] = module.KEPT_SECONDS
            views.get(used.token, "ann")
            now[0] += 1
            await asyncio.sleep(0.1)
            assert views.get(used.token, "ann") is used
            with pytest.raises(ViewGone):
                views.get(old.token, "ann")

    asyncio.run(inside())
