"""The choice of images: how many, which, and that rubbish in the metadata does not decide."""

import itertools

import kit
import numpy as np
import pytest

from dipp.sdk import ModuleError

PIXELS = np.zeros((2, 2), np.uint8)


def select(items, **params) -> list[int]:
    """Return the numbers of the images that are kept, in their order."""
    images = [
        (PIXELS, kit.describe(PIXELS, obid=number, items=tuple(each.items())))
        for number, each in enumerate(items)
    ]
    return [image.metadata.obid for image in kit.run("select", images, **params)]


@pytest.mark.parametrize(
    ("count", "share", "kept"),
    [
        (99, 0.2, 20),
        (100, 0.2, 20),
        # As it arrives from a configuration: 32 bits.
        (100, float(np.float32(0.2)), 20),
        (1000, float(np.float32(0.2)), 200),
        (101, 0.2, 21),
        (1, 0.2, 1),
        (4, 0.25, 1),
        (5, 0.25, 2),
        (7, 1.0, 7),
        (7, 0.0, 0),
        (0, 0.2, 0),
    ],
)
def test_share_is_rounded_up(count, share, kept):
    assert len(select([{}] * count, share=share)) == kept


def test_higher_score_wins_and_the_order_stays():
    scores = [0.5, 0.9, 0.7, 0.8, 0.6]
    assert select([{"score": score} for score in scores], share=0.6) == [1, 2, 3]


def test_wanted_classes_go_first_and_all_others_are_equal():
    items = [
        {"class": "water", "score": 0.99},
        {"class": "crop", "score": 0.2},
        {"class": "ice", "score": 0.9},
        {"class": "forest", "score": 0.3},
        {"class": "crop", "score": 0.4},
    ]
    expected = [3, 4, 1, 0, 2]
    for count, kept in enumerate(itertools.accumulate([[n] for n in expected]), 1):
        chosen = select(items, share=count / 5, prefer="forest, crop")
        assert chosen == sorted(kept)


def test_cloudy_images_go_to_the_end_whatever_they_show():
    items = [
        {"class": "forest", "score": 0.9, "cloud_frac": 0.8},
        {"class": "water", "score": 0.1, "cloud_frac": 0.5},
    ]
    assert select(items, share=0.5, prefer="forest", cloud_max=0.5) == [1]
    assert select(items, share=0.5, prefer="forest") == [0]


def test_equal_images_are_taken_from_the_front():
    assert select([{"score": 0.5}] * 10, share=0.3) == [0, 1, 2]


def test_rank_says_the_place_in_the_order_of_merit():
    images = [
        (PIXELS, kit.describe(PIXELS, obid=n, items=(("score", score), ("rank", 99))))
        for n, score in enumerate([0.1, 0.9, 0.5])
    ]
    ranks = {i.metadata.obid: i.items["rank"] for i in kit.run("select", images, share=0.6)}
    assert ranks == {1: 1, 2: 2}


def test_images_travel_by_reference_encoded_or_not():
    data = np.frombuffer(b"\xff\x0a any bytes", np.uint8).reshape(1, -1)
    meta = kit.describe(data, items=(("enc", "jxl"),))
    (image,) = kit.run("select", [(data, meta)])
    assert image.to_ref().pixels.segment == 0
    assert bytes(image.data) == data.tobytes()


@pytest.mark.parametrize("rubbish", ["high", "9", True, False])
def test_rubbish_in_the_metadata_wins_nothing(rubbish):
    items = [{"score": 0.4}, {"score": rubbish, "class": rubbish}, {"score": 0.3}]
    assert select(items, share=1 / 3) == [0]
    assert select(items, share=2 / 3) == [0, 2]


@pytest.mark.parametrize(
    ("params", "code"),
    [({"share": 1.5}, 505), ({"share": 1}, 505), ({"prefer": 3}, 506), ({"cloud_max": -1.0}, 505)],
)
def test_parameters_out_of_range_have_a_code(params, code):
    with pytest.raises(ModuleError) as caught:
        select([{}], **params)
    assert caught.value.code == code
