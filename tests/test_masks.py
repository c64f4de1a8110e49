"""What people give for a mask, and which square of a picture is learned."""

import warnings

import numpy as np
import pytest
from PIL import Image

from sentinv.editing.masked import MaskConfig, edit_masked, region_of
from sentinv.errors import SentinvError
from sentinv.files.cropping import square
from sentinv.files.decoding import Picture
from sentinv.files.images import read_mask
from sentinv.files.masks import mask_of

SIZE = (48, 32)
INSIDE = np.zeros((32, 48), bool)
INSIDE[8:20, 10:30] = True


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8))


def cut_out():
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.where(INSIDE, 255, 0).astype(np.uint8)))
    return image


def two(outside, inside, mode="L"):
    values = np.where(INSIDE[..., None], np.array(inside), np.array(outside)).astype(np.uint8)
    return Image.fromarray(values[..., 0] if mode == "L" else values)


def in_palette(*colours):
    image = Image.fromarray(INSIDE.astype(np.uint8), "P")
    image.putpalette(bytes(sum(colours, ())))
    return image


def keyed():
    image = in_palette((0, 0, 0), (255, 0, 0))
    image.info["transparency"] = 0
    return image


def over_white_and_black():
    """White and black strokes on nothing: only what is white is meant."""
    values = np.zeros((32, 48, 4), np.uint8)
    values[4:28, 4:40] = (0, 0, 0, 255)
    values[INSIDE] = 255
    return Image.fromarray(values)


MASKS = {
    "black and white": two(0, 255),
    "one bit": two(0, 255).convert("1"),
    "gray 64": two(0, 64),
    "labels 0 and 1": two(0, 1),
    "labels 1 and 2": two(1, 2),
    "nearly white and white": two(250, 255),
    "red on black": two((0, 0, 0), (255, 0, 0), "RGB"),
    "white on blue": two((20, 40, 200), (255, 255, 255), "RGB"),
    "red palette": in_palette((0, 0, 0), (255, 0, 0)),
    "palette with a transparent colour": keyed(),
    "cut-out": cut_out(),
    "red on nothing": Image.merge("RGBA", [*two((0,) * 3, (255, 0, 0), "RGB").split(), two(0, 255)]),
    "black on nothing": Image.merge("LA", [Image.new("L", SIZE), two(0, 255)]),
    "white and black on nothing": over_white_and_black(),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("from_file", [False, True])
def test_what_a_mask_is_read_as(name, from_file, tmp_path):
    given = MASKS[name]
    if from_file:
        given.save(tmp_path / "mask.png")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            mask = read_mask(tmp_path / "mask.png")
        assert bool(told) == ("nothing" in name or "cut-out" in name or "transparent" in name)
    else:
        mask = mask_of(given)
    assert mask.mode == "L" and (np.asarray(mask) == np.where(INSIDE, 255, 0)).all()
    assert (np.asarray(mask_of(mask)) == np.asarray(mask)).all()


def test_labels_in_sixteen_bits(tmp_path):
    Image.fromarray(INSIDE.astype(np.uint16)).save(tmp_path / "mask.png")
    assert (np.asarray(read_mask(tmp_path / "mask.png")) == np.where(INSIDE, 255, 0)).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (90, 90, 90)])
def test_lossy_masks_keep_their_shape(tmp_path, kind, colour):
    large = two((0, 0, 0), colour, "RGB").resize((480, 320), Image.Resampling.NEAREST)
    large.save(tmp_path / "mask", kind, quality=85)
    wanted = np.asarray(two(0, 255).resize((480, 320), Image.Resampling.NEAREST)) > 127
    got = np.asarray(read_mask(tmp_path / "mask"))
    assert ((got > 127) == wanted).mean() > 0.99 and (got[~wanted] > 40).mean() < 0.02


def test_soft_masks_stay_soft_and_are_told(tmp_path):
    ramp = Image.fromarray(np.linspace(0, 255, 256).astype(np.uint8)[None].repeat(32, axis=0))
    assert (np.asarray(mask_of(ramp)) == np.asarray(ramp)).all()
    ramp.save(tmp_path / "ramp.png")
    with pytest.warns(UserWarning, match="soft mask: 50% of it is neither black nor white"):
        read_mask(tmp_path / "ramp.png")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (picture(), "is a picture in colours; expected a mask in black and white"),
        (in_palette((0, 0, 0), (255, 0, 0)).convert("RGB").rotate(0), None),
        (Image.new("L", SIZE, 64), "is one plain colour"),
        (Image.new("RGB", SIZE, (255, 0, 0)), "is a picture in colours"),
    ],
)
def test_what_is_no_mask_is_refused_everywhere(mask, message, sd1_backbone, tmp_path):
    if message is None:
        mask_of(mask)
        return
    own = Picture(image=Image.new("RGB", SIZE))
    mask.save(tmp_path / "mask.png")
    for use in (
        lambda: own.with_mask(mask),
        lambda: read_mask(tmp_path / "mask.png"),
        lambda: region_of(mask, (32, 48), 2),
        lambda: edit_masked(sd1_backbone, own.image, mask, "a dog", config=MaskConfig(steps=1)),
    ):
        with pytest.raises(SentinvError, match=message) as error:
            use()
        assert "\n" not in str(error.value)


def upright(**options):
    values = np.zeros((96, 32, 3), np.uint8)
    values[:] = (np.arange(96) * 2)[:, None, None]
    return Picture(image=Image.fromarray(values), **options)


def rows(picture):
    return [int(value) // 2 for value in np.asarray(picture.image)[:, 0, 0]]


@pytest.mark.parametrize(
    ("crop", "first", "place"),
    [
        ("auto", 32, "middle"),
        ("center", 32, "middle"),
        ("top", 0, "top"),
        ("bottom", 64, "bottom"),
        ("left", 32, "middle"),
    ],
)
def test_a_square_and_what_it_leaves_out(crop, first, place):
    cut = square(upright(), crop)
    assert rows(cut) == list(range(first, first + 32))
    (notice,) = cut.notices
    assert notice.startswith(f"only the {place} 32 x 32 of 32 x 96 pixels are trained on; --crop ") and "none" in notice
    assert square(cut, crop) is cut


@pytest.mark.parametrize("top", [0, 10, 50, 76])
def test_the_square_lies_around_the_mask(top):
    mask = np.zeros((96, 32), np.uint8)
    mask[top : top + 20, 5:9] = 255
    cut = square(upright(mask=Image.fromarray(mask)))
    assert (np.asarray(cut.mask) > 0).sum() == 80 and not cut.notices
    assert top - 6 <= rows(cut)[0] <= top or rows(cut)[0] in (0, 64)


def test_a_mask_that_is_too_long_or_not_there_is_told():
    whole = Image.new("L", (32, 96), 255)
    assert "without 67% of the mask" in square(upright(mask=whole)).notices[0]
    with pytest.raises(SentinvError, match="the mask is empty"):
        square(upright(mask=Image.new("L", (32, 96))))
    top = Image.new("L", (32, 96))
    top.paste(255, (0, 0, 32, 8))
    with pytest.raises(SentinvError, match="nothing in the square that is trained on"):
        square(upright(mask=top), "bottom")


def test_none_keeps_all_of_it_and_learns_nothing_from_the_margin():
    padded = square(upright(), "none")
    assert padded.image.size == padded.mask.size == (96, 96) and not padded.notices
    assert (np.asarray(padded.mask)[:, 32:64] == 255).all() and np.asarray(padded.mask).mean() == 255 / 3
    assert (np.asarray(padded.image)[:, 32:64] == np.asarray(upright().image)).all()
