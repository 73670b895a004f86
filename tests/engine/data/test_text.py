import torch

from engine.data.text import TextLine, random_page, render


def test_letters_stand_where_the_lines_say():
    coverage = render([TextLine(20, 12, "Some words")], 60, 80)

    assert coverage.shape == (60, 80)
    assert coverage.amax() == 1
    assert coverage[:20].eq(0).all()
    assert coverage[20:34, :10].amax() > 0.5
    assert coverage[40:].eq(0).all()


def test_the_same_state_gives_the_same_page():
    first, second = (random_page(64, 80, 2, torch.Generator().manual_seed(3)) for _ in range(2))

    assert first.shape == (64, 80, 3)
    assert torch.equal(first, second)


def test_letters_grow_with_the_scale():
    def changes(scale):
        page = random_page(200, 200, scale, torch.Generator().manual_seed(1)).mean(2)
        return float(((page[:, 1:] - page[:, :-1]).abs() > 0.05).float().mean())

    assert changes(1) > 1.5 * changes(4)
